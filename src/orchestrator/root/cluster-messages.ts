import type { Authority } from '../../core/identity/authority.ts'
import type { Clock } from '../../core/kit/clock.ts'
import type { Log } from '../../core/kit/log.ts'
import { interestOf, type InstanceId, type NodeId, type ServiceId } from '../../core/model/ids.ts'
import type { RequestHandlers, NotificationHandlers } from '../link/link.ts'
import type { clusterToRoot, LocatedReport } from '../link/messages.ts'
import { type RootStore, type InstanceRecord, REVOKED_MS } from './root-store.ts'
import { type ClusterLink, type Clusters, sendEntries } from './clusters.ts'
import { entriesUnder } from './entries.ts'
import type { Reconciler } from './reconciler.ts'
import type { Vips } from './vips.ts'

export interface ClusterMessagesParts {
  store: RootStore
  vips: Vips
  authority: Authority
  clusters: Clusters
  reconciler: Reconciler
  clock: Clock
  log: Log
}

/** What the root answers when clusters speak. */
export class ClusterMessages {
  readonly #parts: ClusterMessagesParts

  constructor(parts: ClusterMessagesParts) {
    this.#parts = parts
  }

  requests(name: string, link: () => ClusterLink): RequestHandlers<typeof clusterToRoot> {
    const { store, vips, clusters, authority } = this.#parts
    return {
      'cluster.hello': ({ instances, keys, ...rest }) => {
        const { surplus, held } = this.#settle(name, instances)
        const wanted = new Set([...keys, ...held.map(({ service }) => interestOf(service))])
        clusters.hello({ ...rest, name, link: link(), keys: wanted })
        sendEntries(
          link(),
          [...wanted].map((key) => entriesUnder(key, store, vips)),
        )
        return { surplus, revoked: this.#revoked() }
      },
      'interest.ask': ({ key }) => {
        clusters.subscribe(name, [key])
        return { entries: entriesUnder(key, store, vips).entries }
      },
      'interest.vip': ({ vip }) => {
        const record = vips.at(vip)
        return record === undefined ? {} : { key: interestOf(record.service) }
      },
      'certificate.renew': async ({ csr }) => ({
        chain: await authority.issue(csr, { role: 'cluster', mesh: authority.mesh, cluster: name }),
      }),
    }
  }

  notifications(name: string): NotificationHandlers<typeof clusterToRoot> {
    const { store, clusters, reconciler, log } = this.#parts
    return {
      summary: ({ summary }) => {
        const cluster = clusters.linked(name)
        if (cluster === undefined) return
        cluster.summary = { ...summary, cluster: name }
        reconciler.retry()
      },
      standings: ({ standings }) => this.#take(name, standings),
      handback: ({ instance, reason }) => {
        const record = store.instances.get(instance)
        if (record?.cluster !== name) return
        log.warn('a cluster gave an instance back', { instance, cluster: name, reason })
        if (record.wanted) store.instances.put(instance, unplaced(record, this.#parts.clock.wall()))
        else store.instances.delete(instance)
        reconciler.refuse(instance, name)
        reconciler.publish(record.service)
        reconciler.touch(record.service)
      },
      'interest.forget': ({ keys }) => {
        const subscribed = clusters.linked(name)?.keys
        for (const key of keys) subscribed?.delete(key)
      },
    }
  }

  /** Every cluster refuses the node from now on, and tells its nodes. */
  revoke(node: NodeId): void {
    const { store, clusters, clock } = this.#parts
    store.revoked.put(node, { node, until: clock.wall() + REVOKED_MS })
    for (const { link } of clusters.all()) link.notify('revoked', { nodes: [node] })
  }

  /** What the cluster has against what it should have, after a time without a link. */
  #settle(name: string, told: readonly { instance: InstanceId; generation: number }[]) {
    const { store, reconciler, clock } = this.#parts
    const has = new Map(told.map(({ instance, generation }) => [instance, generation]))
    const mine = store.instances.list().filter(({ cluster }) => cluster === name)
    const held: InstanceRecord[] = []
    const missing: InstanceRecord[] = []
    for (const record of mine) (has.has(record.id) ? held : missing).push(record)
    const keep = new Set(held.filter(({ wanted }) => wanted).map(({ id }) => id))
    store.database.transaction(() => {
      for (const record of held) {
        const generation = has.get(record.id) ?? 0
        if (generation < record.generation) store.instances.put(record.id, { ...record, generation })
      }
      for (const record of missing) {
        if (record.wanted) store.instances.put(record.id, unplaced(record, clock.wall()))
        else store.instances.delete(record.id)
      }
    })
    for (const service of new Set(mine.map((record) => record.service))) reconciler.touch(service)
    for (const service of new Set(missing.map((record) => record.service))) reconciler.publish(service)
    return { surplus: [...has.keys()].filter((id) => !keep.has(id)), held }
  }

  #take(name: string, standings: readonly LocatedReport[]): void {
    const { store, reconciler, clusters } = this.#parts
    const touched = new Set<ServiceId>()
    const shown = new Set<ServiceId>()
    store.database.transaction(() => {
      for (const { report, node } of standings) {
        const record = store.instances.get(report.instance)
        if (record?.cluster !== name) {
          if (report.state === 'stopped') continue
          clusters
            .linked(name)
            ?.link.request('withdraw', { instance: report.instance })
            .catch(() => undefined) // surplus
          continue
        }
        touched.add(record.service)
        if (!record.wanted && report.state === 'stopped') {
          store.instances.delete(record.id)
          shown.add(record.service)
          continue
        }
        if (report.generation < record.generation) continue // of before it was renewed
        const { state, detail, restarts } = report
        const changed: InstanceRecord = {
          ...unplaced(record, this.#parts.clock.wall()),
          state: record.wanted ? state : 'stopping',
          cluster: name,
          restarts,
          ...(detail === undefined ? {} : { detail }),
          ...(node === undefined ? {} : { node }),
        }
        store.instances.put(record.id, changed)
        if (isSeen(record, changed)) shown.add(record.service)
      }
    })
    for (const service of shown) reconciler.publish(service)
    for (const service of touched) reconciler.touch(service)
  }

  #revoked(): NodeId[] {
    const { store, clock } = this.#parts
    for (const { node, until } of store.revoked.list()) {
      if (until < clock.wall()) store.revoked.delete(node)
    }
    return store.revoked.keys()
  }
}

function unplaced(record: InstanceRecord, changedAt: number): InstanceRecord {
  const { cluster: _cluster, node: _node, detail: _detail, ...rest } = record
  return { ...rest, state: 'requested', changedAt }
}

function isSeen(before: InstanceRecord, after: InstanceRecord): boolean {
  return before.state !== after.state || JSON.stringify(before.node) !== JSON.stringify(after.node)
}
