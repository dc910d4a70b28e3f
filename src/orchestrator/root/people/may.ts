import { permits, type Grant, type Permission } from './roles.ts'

/** Who asks, with what it may at this moment. */
export interface Caller {
  /** `admin` for the credential of the root, else the name of a user. */
  user: string
  /** Of the credential, token or session: rates and idempotency keys are of each. */
  id: string
  by: 'credential' | 'token' | 'session'
  grants: readonly Grant[]
  /** Of a token: what it may is what its owner may, and no more than this. */
  limits?: Limits
}

export interface Limits {
  /** All of its owner when absent. */
  grants?: readonly Grant[]
  /** `app.namespace`; all when absent. */
  apps?: readonly string[]
}

/** What a permission is asked for. Without an organisation it is the administrator's. */
export type Thing =
  | { kind: 'mesh' }
  | { kind: 'organisation'; organisation: string }
  /** `app.namespace`, and whose namespace that is. */
  | { kind: 'app'; app: string; organisation: string | undefined }
  /** One that nobody owns is open to every organisation; what is done to it is the administrator's. */
  | { kind: 'cluster'; owner: string | undefined; admits: readonly string[] }

/** Every organisation may place on the cluster. */
export const EVERYBODY = '*'

export function may({ grants, limits }: Pick<Caller, 'grants' | 'limits'>, permission: Permission, thing: Thing) {
  if (!grants.some((grant) => grantsIt(grant, permission, thing))) return false
  if (limits === undefined) return true
  const isGranted = limits.grants?.some((grant) => grantsIt(grant, permission, thing)) ?? true
  return isGranted && isWithin(limits.apps, permission, thing)
}

function grantsIt({ role, organisation }: Grant, permission: Permission, thing: Thing): boolean {
  if (!permits(role, permission)) return false
  if (role === 'administrator') return true
  if (organisation === undefined) return false
  switch (thing.kind) {
    case 'mesh':
      return false
    case 'organisation':
    case 'app':
      return thing.organisation === organisation
    case 'cluster':
      return thing.owner === organisation || (permission === 'see' && mayPlace(organisation, thing))
    default:
      return thing satisfies never
  }
}

/** A token of some apps sees where they may run, and nothing else of the mesh. */
function isWithin(apps: readonly string[] | undefined, permission: Permission, thing: Thing): boolean {
  if (apps === undefined) return true
  if (thing.kind === 'app') return apps.includes(thing.app)
  return thing.kind === 'cluster' && permission === 'see'
}

/** Whether instances of the organisation may be placed on the cluster. What belongs to no organisation is the administrator's. */
export function mayPlace(
  organisation: string | undefined,
  { owner, admits }: { owner: string | undefined; admits: readonly string[] },
): boolean {
  if (owner === undefined || organisation === undefined || owner === organisation) return true
  return admits.includes(EVERYBODY) || admits.includes(organisation)
}
