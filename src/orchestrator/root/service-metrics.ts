import type { Lifetime } from '../../core/kit/lifetime.ts'
import type { Metrics } from '../../core/metrics.ts'
import type { ServiceId } from '../../core/model/ids.ts'
import type { Clusters } from './clusters.ts'
import { servingOf } from './former-place.ts'
import type { Reconciler } from './reconciler.ts'
import type { InstanceRecord, RootStore, ServiceRecord } from './root-store.ts'

/** Of more, Prometheus would keep a series each; the rest is added up. Larger: more to store for each scrape. */
const MOST_SERVICES = 1_000
const OTHERS = '(others)'

export interface ServiceCount {
  service: string
  wanted: number
  ready: number
  /** Absent where no update is under way. */
  isStuck?: boolean
}

/** Wanted and ready by service, in the order of their names, the last of too many as one. */
export function countServices(
  services: readonly Pick<ServiceRecord, 'id' | 'spec'>[],
  instances: readonly InstanceRecord[],
  isStuck: (service: ServiceId) => boolean | undefined,
  most = MOST_SERVICES,
): ServiceCount[] {
  const ready = new Map<string, number>()
  for (const record of instances)
    if (servingOf(record).state === 'running') ready.set(record.service, (ready.get(record.service) ?? 0) + 1)
  const all = services
    .map(({ id, spec }): ServiceCount => {
      const stuck = isStuck(id)
      const count = { service: id, wanted: spec.replicas, ready: ready.get(id) ?? 0 }
      return stuck === undefined ? count : { ...count, isStuck: stuck }
    })
    .toSorted((a, b) => (a.service < b.service ? -1 : 1))
  if (all.length <= most) return all
  const rest = all.slice(most)
  const sum = (key: 'wanted' | 'ready') => rest.reduce((total, count) => total + count[key], 0)
  const stuck = rest.some((count) => count.isStuck === true) ? { isStuck: true } : {}
  return [...all.slice(0, most), { service: OTHERS, wanted: sum('wanted'), ready: sum('ready'), ...stuck }]
}

interface Parts {
  store: RootStore
  reconciler: Pick<Reconciler, 'updates'>
  clusters: Pick<Clusters, 'all'>
  metrics: Metrics
}

/** Counted whenever somebody asks for the metrics. */
export function showServices(life: Lifetime, { store, reconciler, clusters, metrics }: Parts): void {
  const { beforeScrape, instancesWanted, instancesReady, updateStuck, clustersKnown, clustersLinked } = metrics
  const count = async () => {
    const isStuck = (service: ServiceId) => reconciler.updates.isStuck(service)
    for (const gauge of [instancesWanted, instancesReady, updateStuck]) gauge.reset()
    for (const { service, wanted, ready, isStuck: stuck } of countServices(
      store.services.list(),
      store.instances.list(),
      isStuck,
    )) {
      instancesWanted.labels(service).set(wanted)
      instancesReady.labels(service).set(ready)
      if (stuck !== undefined) updateStuck.labels(service).set(stuck ? 1 : 0)
    }
    clustersKnown.set(store.clusters.keys().length)
    clustersLinked.set(Array.from(clusters.all()).length)
  }
  beforeScrape.add(count)
  life.defer(() => void beforeScrape.delete(count))
}
