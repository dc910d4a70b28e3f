import { labelFault } from '../../../core/model/label.ts'
import type { User } from './records.ts'
import type { Grant } from './roles.ts'

/*
 * Whom somebody is here whom the identity provider knows. Decides alone; oidc.ts asks the provider and writes what is decided.
 *
 *     claims ─▶ known by issuer and subject? ─▶ that user
 *                 └▶ a user of this name? ─▶ it has no password and is bound to nobody: bound from now on
 *                      └▶ may be created? ─▶ created
 *     and its groups ─▶ the roles of the configuration, in place of those that it had
 */

export interface OidcMapping {
  /** The claim that names the user. */
  userClaim: string
  groupsClaim: string
  /** `matched`: only who was created before; `created`: anybody whom the provider lets in. */
  users: 'matched' | 'created'
  /** Of users that are created; that of their first role when absent. */
  organisation?: string
  /** None: roles are given by hand, and stay as they are. */
  roles: readonly ({ group: string } & Grant)[]
}

export type Claims = Readonly<Record<string, unknown>>

export type Decision =
  | { kind: 'user'; user: Omit<User, 'createdAt'>; isNew: boolean }
  /** `user`: whoever it was loses its roles. */
  | { kind: 'refused'; reason: string; remedy: string; user?: User }

export function decideUser(
  { issuer, subject, claims }: { issuer: string; subject: string; claims: Claims },
  mapping: OidcMapping,
  users: readonly User[],
): Decision {
  const grants = grantsOf(claims, mapping)
  const bound = users.find(({ oidc }) => oidc?.issuer === issuer && oidc.subject === subject)
  if (grants?.length === 0)
    return {
      kind: 'refused',
      reason: 'no group of yours has a role in this mesh',
      remedy: `The operator of the root says in root.oidc.roles which groups have one; yours are in the claim "${mapping.groupsClaim}".`,
      ...(bound === undefined ? {} : { user: bound }),
    }
  const roles = grants === undefined ? {} : { grants }
  if (bound !== undefined) return { kind: 'user', user: { ...bound, ...roles }, isNew: false }

  const name = nameOf(claims, mapping.userClaim)
  if (typeof name !== 'string') return { kind: 'refused', ...name }
  const there = users.find((user) => user.name === name)
  const oidc = { issuer, subject }
  if (there !== undefined && there.oidc === undefined && there.password === undefined)
    return { kind: 'user', user: { ...there, ...roles, oidc }, isNew: false }
  if (there !== undefined)
    return {
      kind: 'refused',
      reason: `the user ${name} is somebody else, or logs in by password`,
      remedy: 'An administrator creates the user without a password (`hedgerow user create NAME --no-password`).',
    }
  if (mapping.users === 'matched' || name === 'admin')
    return {
      kind: 'refused',
      reason: `there is no user ${name} here`,
      remedy: `An administrator creates it first: hedgerow user create ${name} --no-password.`,
    }
  const organisation = mapping.organisation ?? grants?.find((grant) => grant.organisation !== undefined)?.organisation
  const home = organisation === undefined ? {} : { organisation }
  return { kind: 'user', user: { name, ...home, grants: grants ?? [], oidc }, isNew: true }
}

/** The roles of all groups that the claim names; `undefined` where none are configured. */
function grantsOf(claims: Claims, { groupsClaim, roles }: OidcMapping): Grant[] | undefined {
  if (roles.length === 0) return undefined
  const groups = new Set([claims[groupsClaim]].flat())
  const found = new Map<string, Grant>()
  for (const { group, role, organisation } of roles)
    if (groups.has(group))
      found.set(`${role} ${organisation ?? ''}`, { role, ...(organisation === undefined ? {} : { organisation }) })
  return [...found.values()]
}

/** As a label: `Ann.Lee@example.com` is `ann-lee-example-com`. */
function nameOf(claims: Claims, claim: string): string | { reason: string; remedy: string } {
  const remedy = 'root.oidc.userClaim names the claim, and root.oidc.scopes what the provider is asked for.'
  const text = claims[claim]
  if (typeof text !== 'string' || text === '') return { reason: `the provider told no claim "${claim}"`, remedy }
  if (claim === 'email' && claims['email_verified'] !== true)
    return { reason: 'the provider does not say that it has verified the email address', remedy }
  const name = text
    .toLowerCase()
    .replace(/[^a-z0-9-]+/g, '-')
    .replace(/^-+|-+$/g, '')
  const fault = name === '' ? 'nothing of it can be in a name' : labelFault(name)
  return fault === undefined ? name : { reason: `"${text.slice(0, 100)}" cannot be a name: ${fault}`, remedy }
}
