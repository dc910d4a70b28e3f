import type { ServiceEntry } from '../../../core/model/change.ts'
import { clusterOf } from '../../../core/model/ids.ts'
import type { ServiceSpec } from '../../spec.ts'
import type { RootStore } from '../root-store.ts'
import { mayPlace } from './may.ts'

/** What organisations have to do with one another where nobody asks: in placements, and in what one service may know of another. */

export function organisationOf(
  namespace: string,
  { organisations }: Pick<RootStore, 'organisations'>,
): string | undefined {
  return organisations.list().find(({ namespaces }) => namespaces.includes(namespace))?.name
}

/** On which clusters instances of the service may be placed; `undefined`: on all. */
export function admission(
  { appNamespace }: Pick<ServiceSpec, 'appNamespace'>,
  store: Pick<RootStore, 'organisations' | 'clusterOwners'>,
): ((cluster: string) => boolean) | undefined {
  if (store.clusterOwners.keys().length === 0) return undefined
  const organisation = organisationOf(appNamespace, store)
  return (cluster) => {
    const owner = store.clusterOwners.get(cluster)
    return mayPlace(organisation, { owner: owner?.organisation, admits: owner?.admits ?? [] })
  }
}

type Caller = Pick<ServiceSpec, 'id' | 'app' | 'appNamespace'>

/** Whether the one may know of the other: both are of one organisation, or the other allows the one to call it. */
export function mayKnow(
  one: Caller,
  other: Pick<ServiceSpec, 'appNamespace' | 'allow'>,
  store: Pick<RootStore, 'organisations'>,
): boolean {
  if (one.appNamespace === other.appNamespace || store.organisations.keys().length === 0) return true
  if (organisationOf(one.appNamespace, store) === organisationOf(other.appNamespace, store)) return true
  return other.allow.some((rule) => rule === '*' || rule === one.id || rule === `${one.app}.${one.appNamespace}`)
}

/**
 * Whether a cluster is told of a service at all: its own organisation, or one that it lets call it, may have instances there, or it has some
 * there already; or whoever it is may call it. A cluster that is not told resolves no name of it.
 */
export function isToldOf(
  cluster: string,
  entry: ServiceEntry,
  store: Pick<RootStore, 'organisations' | 'clusterOwners'>,
) {
  const owner = store.clusterOwners.get(cluster)
  if (owner === undefined) return true
  const { appNamespace, allow } = entry.service
  if (allow.includes('*') || allow.includes('node')) return true
  const open = { owner: owner.organisation, admits: owner.admits }
  const namespaces = [appNamespace, ...allow.map((rule) => rule.split('.', 2)[1] ?? '')]
  if (namespaces.some((namespace) => mayPlace(organisationOf(namespace, store), open))) return true
  return entry.instances.some(({ node }) => clusterOf(node) === cluster)
}

/**
 * Who may call, as nodes are told. Programs of a node that are no instances may call a service without `allow`, but for one of an organisation: the
 * node may be another’s. Its own app is what it allows then, which may call it anyway.
 */
export function allowTold(
  { app, appNamespace, allow }: Pick<ServiceSpec, 'app' | 'appNamespace' | 'allow'>,
  store: Pick<RootStore, 'organisations'>,
): ServiceSpec['allow'] {
  if (allow.length > 0 || organisationOf(appNamespace, store) === undefined) return allow
  return [`${app}.${appNamespace}`]
}
