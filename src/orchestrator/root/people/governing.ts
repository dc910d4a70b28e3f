import type { User } from './records.ts'
import type { Grant } from './roles.ts'
import type { View } from './view.ts'

type Deciding = Pick<View, 'may'>

/**
 * Whether the caller may give the user a password, or delete it: it decides about every role that the user has, and about its
 * organisation. Otherwise an organisation administrator could become whoever has a role elsewhere.
 */
export function governs(view: Deciding, { organisation, grants }: Pick<User, 'organisation' | 'grants'>): boolean {
  return mayDecide(view, { organisation }) && grants.every((grant) => mayDecide(view, grant))
}

/** Why not, of each role that is given or taken. */
export function refusedGrants(before: readonly Grant[], after: readonly Grant[], view: Deciding): string[] {
  const isIn = (all: readonly Grant[], { role, organisation }: Grant) =>
    all.some((one) => one.role === role && one.organisation === organisation)
  const changed = [...before.filter((grant) => !isIn(after, grant)), ...after.filter((grant) => !isIn(before, grant))]
  return changed.flatMap((grant) => {
    const { role, organisation } = grant
    if (role === 'administrator' && organisation !== undefined)
      return ['an administrator is one of the whole mesh: leave out the organisation']
    if (role !== 'administrator' && organisation === undefined)
      return [`${role} is a role in an organisation: say in which`]
    return mayDecide(view, grant)
      ? []
      : [`you do not decide who is ${role}${organisation === undefined ? '' : ` of ${organisation}`}`]
  })
}

function mayDecide(
  view: Deciding,
  { organisation, role }: { organisation?: string | undefined; role?: string },
): boolean {
  if (organisation === undefined || role === 'administrator') return view.may('people', { kind: 'mesh' })
  return view.may('people', { kind: 'organisation', organisation })
}
