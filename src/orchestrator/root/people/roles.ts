/*
 * Who may do what. A person has roles, each in one organisation; the administrator has the whole mesh.
 *
 *     call ─▶ the permission that it needs, and of what (need.ts) ─▶ may(who, permission, of what) ─▶ done, refused, or not there
 */

export const PERMISSIONS = {
  see: 'lists, documents, logs, events, explanations, what is watched',
  change: 'apply, scale, roll back, run, restart, migrate, delete',
  enter: 'commands in instances',
  secrets: 'list, create, replace and delete secrets; never their values',
  operate: 'cordon, drain and delete nodes, relays and clusters; join tokens of them; who may place there',
  people: 'users, and what they may do',
  audit: 'who did what',
  mesh: 'organisations, quotas, who owns a cluster, the authority, new clusters',
} as const

export type Permission = keyof typeof PERMISSIONS

/** What each role may, of what belongs to its organisation. */
export const ROLES = {
  administrator: ['see', 'change', 'enter', 'secrets', 'operate', 'people', 'audit', 'mesh'],
  'organisation-administrator': ['see', 'change', 'enter', 'secrets', 'operate', 'people', 'audit'],
  'application-provider': ['see', 'change', 'enter', 'secrets'],
  'infrastructure-provider': ['see', 'operate'],
  viewer: ['see'],
} as const satisfies Record<string, readonly Permission[]>

export type Role = keyof typeof ROLES

export const ROLE_WORDS = Object.keys(ROLES) as Role[]

/** A role in an organisation; that of the administrator is in none. */
export interface Grant {
  role: Role
  organisation?: string
}

export function permits(role: Role, permission: Permission): boolean {
  return (ROLES[role] as readonly Permission[]).includes(permission)
}
