import type { operations } from '../../client/api-types.ts'

/** What a call answers with. */
export type Answer<Call extends keyof operations> = operations[Call] extends {
  responses: { 200: { content: { 'application/json': infer Body } } }
}
  ? Body
  : never

/** Who looks at the page, as `GET /v1/me` says. */
export type Me = Answer<'whoami'>
export type Permission = Me['organisations'][number]['permissions'][number]
export type Grant = Me['grants'][number]

/** What something belongs to: a namespace for services and apps, an organisation; nothing: the mesh. */
export type Of = { namespace: string } | { organisation: string } | 'any' | 'mesh'

/**
 * Whether to offer it. The root decides when it is asked; until it has said who asks, everything is offered.
 */
export function may(me: Me | undefined, permission: Permission, of: Of): boolean {
  if (me === undefined || me.isAdministrator) return true
  if (of === 'mesh') return false
  return me.organisations.some(
    ({ name, namespaces, permissions }) =>
      permissions.includes(permission) &&
      (of === 'any' || ('organisation' in of ? name === of.organisation : namespaces.includes(of.namespace))),
  )
}

/** The namespace that says whose an app, a service or an instance is: `app.NAMESPACE…`. */
export function namespaceOf(id: string): { namespace: string } {
  return { namespace: id.split('.')[1] ?? '' }
}

/** `administrator`, `viewer of acme`. */
export function grantText({ role, organisation }: Grant): string {
  return organisation === undefined ? role : `${role} of ${organisation}`
}

/** `role` or `role@organisation`, as options of a form have it. */
export function grantIn(text: string): Grant | undefined {
  const [role = '', organisation = ''] = text.split('@')
  if (role === '') return undefined
  return { role: role as Grant['role'], ...(organisation === '' ? {} : { organisation }) }
}

/** The parts of the account that there are for this person. */
export const TABS = ['me', 'organisations', 'users', 'clusters', 'tokens', 'audit'] as const
export type Tab = (typeof TABS)[number]

export function tabsOf(me: Me | undefined): Tab[] {
  const isOffered: Readonly<Record<Tab, boolean>> = {
    me: true,
    organisations: may(me, 'see', 'any'),
    users: may(me, 'people', 'any'),
    clusters: may(me, 'operate', 'any'),
    tokens: true,
    audit: may(me, 'audit', 'any'),
  }
  return TABS.filter((tab) => isOffered[tab])
}
