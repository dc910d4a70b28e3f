import { isMeshError } from '../../core/errors.ts'
import type { Clock } from '../../core/kit/clock.ts'
import type { Log } from '../../core/kit/log.ts'
import { interestOf, type InstanceId, type ServiceId } from '../../core/model/ids.ts'
import { reasonOf } from '../link/reason.ts'
import { assignmentOf } from './asking-services.ts'
import { type Clusters, sendEntries } from './clusters.ts'
import { entriesUnder } from './entries.ts'
import type { EventSink } from './events/event.ts'
import { changeInstance } from './instance-records.ts'
import { completeRevision, revisionsOf } from './revisions.ts'
import { assignedGeneration, limitsOf, rolloutOf, rolloutText, type NextUpdate } from './rollout.ts'
import type { InstanceChange, InstanceRecord, RootStore, ServiceRecord } from './root-store.ts'
import type { Vips } from './vips.ts'

export interface UpdatesParts {
  store: RootStore
  vips: Vips
  clusters: Clusters
  clock: Clock
  events: EventSink
  log: Log
}

/** How long an update has been where it is. */
interface Progress {
  /** What changes when it gets on. */
  at: string
  /** Monotonic, so that a clock that is set fails no update; a root that starts again begins to wait anew. */
  since: number
  isFailed: boolean
}

/** A cluster that refused is not asked again for this long. Smaller asks in vain, larger leaves new room unused. */
const REFUSED_MS = 3_000

/** Rolls the newest generation of services out to their instances, and notices when that fails. */
export class Updates {
  readonly #parts: UpdatesParts
  readonly #asking = new Set<InstanceId>()
  /** Until when an instance whose update was refused is left alone. */
  readonly #refusedUntil = new Map<InstanceId, { generation: number; at: number }>()
  readonly #progress = new Map<ServiceId, Progress>()
  /** The revision of each service that is known to be complete. */
  readonly #complete = new Map<ServiceId, number>()

  constructor(parts: UpdatesParts) {
    this.#parts = parts
  }

  /** A cluster is being told of a new generation: what it reports of the one before has crossed that. */
  isAsking(id: InstanceId): boolean {
    return this.#asking.has(id)
  }

  /** Its update was not refused a moment ago. */
  mayAsk(id: InstanceId): boolean {
    const refused = this.#refusedUntil.get(id)
    if (refused === undefined) return true
    const { store, clock } = this.#parts
    const service = store.services.get(store.instances.get(id)?.service ?? '')
    return clock.now() >= refused.at || service?.generation !== refused.generation
  }

  /**
   * Sends its cluster the new generation. Until that runs, the instance stays as it is, unless it must be stopped first. False when the
   * cluster refused: the update waits.
   */
  async send(record: InstanceRecord, name: string, how: NextUpdate['how']): Promise<boolean> {
    const { store, vips, clusters, log } = this.#parts
    const { id } = record
    const service = store.services.get(record.service)
    const cluster = clusters.linked(name)
    if (service === undefined || cluster === undefined) return true
    const { spec, revision = 0 } = service
    const generation = assignedGeneration(record, service)
    const asked = { generation, revision, unsuited: undefined, gap: undefined }
    const stops = { ...asked, state: 'starting', successor: undefined, servingGeneration: undefined } as const
    // written before the request: after a crash in between, the cluster's hello says what it has
    if (spec.oneShot)
      this.#change(id, { ...stops, state: 'placed', restarts: 0, detail: undefined, retryAt: undefined })
    else if (how === 'stop-first') this.#change(id, { ...stops, gap: 'max_surge is 0' })
    else {
      const { servingGeneration = record.generation } = record
      this.#change(id, { ...asked, successor: { generation, state: 'placed', restarts: 0 }, servingGeneration })
    }
    this.#asking.add(id)
    sendEntries(cluster.link, [entriesUnder(interestOf(service.id), store, vips)])
    const assignment = assignmentOf(record, { spec, generation, revision }, store.asking)
    try {
      const replacement = how === 'stop-first' ? {} : { replacement: how }
      const { gap } = await cluster.link.request('delegate', { assignment, ...replacement })
      log.info('instance is updated', { instance: id, cluster: name })
      this.#refusedUntil.delete(id)
      if (record.waits !== undefined) this.#change(id, { waits: undefined })
      if (gap === undefined) return true
      log.warn('instance does not answer while it is updated', { instance: id, cluster: name, reason: gap })
      const now = store.instances.get(id)
      if (now?.successor !== undefined) this.#change(id, { ...stops, detail: gap, gap })
      else if (now !== undefined && now.state !== 'running') this.#change(id, { gap })
      return true
    } catch (error) {
      if (isMeshError(error, 'LINK_CLOSED')) return true
      this.#refusedUntil.set(id, { generation, at: this.#parts.clock.now() + REFUSED_MS })
      this.#wait(record, reasonOf(error))
      return false
    } finally {
      this.#asking.delete(id)
    }
  }

  /** Looks at the update of a service, if there is one under way. `failed`: now, and it is to be taken back by itself. */
  follow(service: ServiceRecord, instances: readonly InstanceRecord[]): 'failed' | undefined {
    const { clock, events, log } = this.#parts
    const { id, spec, generation } = service
    const rollout = rolloutOf(service, instances)
    if (rollout === undefined) {
      this.#progress.delete(id)
      if (instances.length === spec.replicas && instances.every(({ state }) => state === 'running'))
        this.#completed(service)
      return undefined
    }
    const at = `${generation} ${rollout.updated}`
    const known = this.#progress.get(id)
    const progress = known?.at === at ? known : { at, since: clock.now(), isFailed: false }
    this.#progress.set(id, progress)
    const isOverdue = clock.now() - progress.since >= limitsOf(spec).progressMs
    if (progress.isFailed || !(isOverdue || rollout.isHopeless)) return undefined
    progress.isFailed = true
    events.record({ service: id, what: 'stuck', by: 'reconciler', why: rolloutText(rollout, true) })
    log.warn('update has failed', { service: id, reason: rolloutText(rollout, true) })
    return spec.update?.autoRollback === true ? 'failed' : undefined
  }

  /** The newest revision is a rollback that nobody asked for: it is not taken back in turn. */
  isAutomatic(service: ServiceId): boolean {
    return revisionsOf(service, this.#parts.store).at(-1)?.isAutomatic === true
  }

  /** `updated 0/1, stuck: exited with code 1`; `undefined` when no update is under way. */
  textOf(service: ServiceRecord, instances: readonly InstanceRecord[]): string | undefined {
    const rollout = rolloutOf(service, instances)
    return rollout && rolloutText(rollout, this.#progress.get(service.id)?.isFailed === true)
  }

  /** Its update has failed, and waits for a person. `undefined` when no update is under way. */
  isStuck(service: ServiceId): boolean | undefined {
    return this.#progress.get(service)?.isFailed
  }

  forget(service: ServiceId): void {
    this.#progress.delete(service)
    this.#complete.delete(service)
    for (const id of this.#refusedUntil.keys()) if (id.startsWith(`${service}.`)) this.#refusedUntil.delete(id)
  }

  #completed({ id, revision = 0 }: ServiceRecord): void {
    if (this.#complete.get(id) === revision) return
    this.#complete.set(id, revision)
    completeRevision(id, this.#parts.store)
  }

  #wait(record: InstanceRecord, reason: string): void {
    const { id, generation, revision, successor, servingGeneration, gap, state, waits, cluster } = record
    if (waits !== reason) this.#parts.log.warn('update of an instance waits', { instance: id, cluster, reason })
    this.#change(id, { generation, revision, successor, servingGeneration, gap, state, waits: reason })
  }

  #change(id: InstanceId, change: InstanceChange): void {
    changeInstance(id, change, this.#parts)
  }
}
