import { isDeepStrictEqual } from 'node:util'
import type { Clock } from '../../core/kit/clock.ts'
import type { Log } from '../../core/kit/log.ts'
import { clusterOf, type InstanceId, type NodeId, type ServiceId } from '../../core/model/ids.ts'
import type { LocatedReport } from '../link/messages/cluster-root.ts'
import type { MoveCause } from '../spec.ts'
import type { Clusters } from './clusters.ts'
import { eventsOf } from './events/event-changes.ts'
import type { EventSink } from './events/event.ts'
import { heardOf, refusedOf, runsAtFormer } from './former-place.ts'
import { changeInstance, deleteInstance } from './instance-records.ts'
import { runsAfter } from './jobs/runs.ts'
import type { Reconciler } from './reconciler.ts'
import { hasEnded } from './rollout.ts'
import type { InstanceRecord, RootStore } from './root-store.ts'

export interface ClusterReportsParts {
  store: RootStore
  clusters: Clusters
  reconciler: Reconciler
  clock: Clock
  events: EventSink
  log: Log
}

const EARLIER_RUN_ENDED = 'its earlier run there has ended'

/** What clusters say of instances, compared with the records and written down: all of it at hello, later what has changed. */
export class ClusterReports {
  readonly #parts: ClusterReportsParts

  constructor(parts: ClusterReportsParts) {
    this.#parts = parts
  }

  /**
   * Compares what a returning cluster has with what it should have. `surplus` is what it must end; what it has lost is placed
   * again.
   */
  compare(name: string, has: readonly { instance: InstanceId; generation: number }[]) {
    const { store, reconciler } = this.#parts
    const generations = new Map(has.map(({ instance, generation }) => [instance, generation]))
    const all = store.instances.list()
    const expected = all.filter(({ cluster }) => cluster === name)
    const leaving = all.filter(({ former, wanted }) => wanted && former?.cluster === name) // another is asked to take these
    const kept = expected.filter(({ id }) => generations.has(id))
    const missing = expected.filter(({ id }) => !generations.has(id))
    store.database.transaction(() => {
      for (const record of kept) {
        const generation = generations.get(record.id) ?? 0
        if (generation < record.generation) store.instances.put(record.id, { ...record, generation })
      }
      for (const record of missing)
        if (!record.wanted || !hasEnded(record, store.services.get(record.service))) this.unplace(record)
      for (const record of all) if (!generations.has(record.id)) this.#hasLeft(record, name)
    })
    for (const { id } of kept) reconciler.placing.leaveFormer(id)
    for (const service of new Set(expected.map((record) => record.service))) reconciler.touch(service)
    for (const service of new Set(missing.map((record) => record.service))) reconciler.publish(service)
    const wanted = new Set([...kept.filter((record) => record.wanted), ...leaving].map(({ id }) => id))
    const surplus = [...generations.keys()].filter((id) => !wanted.has(id))
    const moved = surplus.filter((id) => isElsewhere(store.instances.get(id), name))
    return { surplus, moved, kept }
  }

  take(name: string, reports: readonly LocatedReport[]): void {
    const { store, reconciler, log } = this.#parts
    const touched = new Set<ServiceId>()
    /** Their former place may have nothing left to do. */
    const left = new Set<InstanceId>()
    const shown: { service: ServiceId; saidBy: string | undefined }[] = []
    store.database.transaction(() => {
      for (const each of reports) {
        const record = store.instances.get(each.report.instance)
        if (record?.former?.cluster === name) {
          changeInstance(record.id, { former: heardOf(record.former, each) }, this.#parts)
          if (record.former.state === 'running' && record.node !== undefined) left.add(record.id) // the other has it
          continue
        }
        if (record?.cluster !== name) {
          this.#endSurplus(name, each)
          if (record !== undefined && each.report.state === 'stopped' && this.#hasLeft(record, name))
            shown.push({ service: record.service, saidBy: undefined })
          continue
        }
        const foreign = nodesOf(each).find((node) => clusterOf(node) !== name)
        if (foreign !== undefined) {
          log.warn('a cluster reported an instance on a node that is not its own', { cluster: name, node: foreign })
          continue
        }
        touched.add(record.service)
        if (this.#takeReport(record, each))
          shown.push({ service: record.service, saidBy: isOnlyThere(record, name) ? name : undefined })
        if (record.former !== undefined && isAccepted(each)) left.add(record.id)
      }
    })
    for (const id of left) reconciler.placing.leaveFormer(id)
    for (const { service, saidBy } of shown) reconciler.publish(service, saidBy)
    for (const service of touched) reconciler.touch(service)
  }

  /** Nothing of it is left in the cluster that it has moved from. True when tables must show that. */
  #hasLeft({ id, drainsOn }: InstanceRecord, cluster: string): boolean {
    if (drainsOn === undefined || clusterOf(drainsOn) !== cluster) return false
    changeInstance(id, { drainsOn: undefined }, this.#parts)
    this.#parts.events.record({ instance: id, node: drainsOn, what: 'drained', by: 'cluster', why: EARLIER_RUN_ENDED })
    return true
  }

  /** True when tables must show the change. */
  #takeReport(record: InstanceRecord, located: LocatedReport): boolean {
    const { report, node, noOtherNode, successor, also, violation, cause } = located
    const { store, clock, events } = this.#parts
    if (!record.wanted && report.state === 'stopped') {
      this.#delete(record.id)
      return true
    }
    if (report.state === 'stopped' && this.#parts.reconciler.moves.leased.hasEnded(record.id)) return true
    const generation = this.#generationOf(record, located)
    if (generation === undefined) return false
    const { state, detail, restarts, retryInMs, epoch } = report
    const { cluster: _cluster, movesTo, ...rest } = withoutReported(record)
    const changed: InstanceRecord = {
      ...rest,
      generation,
      cluster: record.cluster as string,
      state: record.wanted ? state : 'stopping',
      restarts,
      changedAt: clock.wall(),
      ...(detail === undefined ? {} : { detail }),
      ...(epoch === undefined ? {} : { epoch }),
      ...(retryInMs === undefined ? {} : { retryAt: clock.wall() + retryInMs }),
      ...(node === undefined ? wasOf(record) : { node }),
      ...(noOtherNode === true ? { noOtherNode } : {}),
      ...(successor === undefined ? {} : { successor, servingGeneration: report.generation }),
      ...(also === undefined ? {} : { also }),
      ...(record.gap === undefined || state === 'running' ? {} : { gap: record.gap }),
      ...(violation === undefined ? {} : { violation }),
      ...(movesTo?.leaves === record.cluster ? { movesTo } : {}),
    }
    const isNews = !isDeepStrictEqual({ ...changed, changedAt: record.changedAt }, record) // after each new link most is none
    if (isNews) {
      store.instances.put(record.id, changed)
      this.#takeRun(changed)
      for (const event of eventsOf(record, changed, { cause })) events.record(event)
    }
    if (runsAtFormer(changed)) this.#parts.reconciler.moves.heard(changed)
    const shown = ({ state, node, also }: InstanceRecord) => JSON.stringify([state, node, also])
    return shown(record) !== shown(changed)
  }

  /** Of a job. */
  #takeRun(record: InstanceRecord): void {
    const { store, clock } = this.#parts
    const service = store.services.get(record.service)
    if (service?.spec.oneShot !== true) return
    const before = store.runs.get(record.id) ?? []
    const runs = runsAfter(before, record, { service: { run: record.asked ?? service.run }, at: clock.wall() })
    if (runs !== before) store.runs.put(record.id, runs)
  }

  /**
   * The newest generation that the cluster has, which is its successor's where there is one; `undefined` for a report from before it was
   * told of that. A successor that is gone is one that it no longer has.
   */
  #generationOf(record: InstanceRecord, { report, successor }: LocatedReport): number | undefined {
    const newest = Math.max(report.generation, successor?.generation ?? 0)
    if (newest >= record.generation) return record.generation
    if (record.successor === undefined || this.#parts.reconciler.updates.isAsking(record.id)) return undefined
    return newest
  }

  /** The cluster runs something that belongs elsewhere, or nowhere. */
  #endSurplus(name: string, { report }: LocatedReport): void {
    if (report.state === 'stopped' || report.state === 'stopping') return
    const { instance } = report
    const link = this.#parts.clusters.linked(name)?.link
    link?.request('withdraw', { instance }).catch(() => undefined) // reported again at the next hello
  }

  /** The instance has lost its place; one that is no longer wanted is gone. */
  unplace(record: InstanceRecord): void {
    if (record.wanted) changeInstance(record.id, refusedOf(record), this.#parts)
    else this.#delete(record.id)
  }

  #delete(id: InstanceId): void {
    deleteInstance(id, this.#parts)
    this.#parts.reconciler.forgotten(id)
  }
}

/** No other cluster has it or had it a moment ago, so that nothing is told that its cluster does not know. */
function isOnlyThere({ node, former, drainsOn }: InstanceRecord, cluster: string): boolean {
  return former === undefined && drainsOn === undefined && (node === undefined || clusterOf(node.id) === cluster)
}

function isElsewhere(record: InstanceRecord | undefined, than: string): boolean {
  return record?.wanted === true && record.cluster !== undefined && record.cluster !== than
}

/** A node has taken it; before that its cluster may still refuse it. */
function isAccepted({ report }: LocatedReport): boolean {
  return report.state !== 'requested' && report.state !== 'placed' && report.state !== 'unplaceable'
}

function nodesOf({ node, successor, also = [] }: LocatedReport): NodeId[] {
  return [...also, ...[node?.id, successor?.node].filter((id) => id !== undefined)]
}

/** The place that it had last, while it has none; and who wanted it elsewhere. */
function wasOf({ node, was, movesTo }: InstanceRecord): Pick<InstanceRecord, 'was'> {
  if (node !== undefined) return { was: { node: node.id } }
  if (was !== undefined) return { was }
  const { from, cause }: { from?: NodeId; cause?: MoveCause } = movesTo ?? {}
  return from === undefined ? {} : { was: { node: from, ...(cause === undefined ? {} : { cause }) } }
}

/** What each report says anew. */
function withoutReported(record: InstanceRecord): Omit<InstanceRecord, (typeof REPORTED)[number]> {
  const rest: Partial<InstanceRecord> = { ...record }
  for (const key of REPORTED) delete rest[key]
  return rest as InstanceRecord
}

const REPORTED = [
  'node',
  'was',
  'detail',
  'epoch',
  'retryAt',
  'noOtherNode',
  'successor',
  'servingGeneration',
  'also',
  'gap',
  'violation',
] as const
