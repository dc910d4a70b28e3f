import { isMeshError, MeshError } from '../../core/errors.ts'
import type { Clock } from '../../core/kit/clock.ts'
import type { Log } from '../../core/kit/log.ts'
import { SlicedWork } from '../../core/kit/sliced-work.ts'
import type { Metrics } from '../../core/metrics.ts'
import type { InstanceId, ServiceId } from '../../core/model/ids.ts'
import { reasonOf } from '../link/reason.ts'
import type { Rules } from '../scheduling/schedule.ts'
import { assignmentOf } from './asking-services.ts'
import type { InstanceChange, RootStore, ServiceRecord } from './root-store.ts'
import { ClusterRequests } from './cluster-requests.ts'
import type { Clusters } from './clusters.ts'
import { EntryPublisher } from './entry-publisher.ts'
import type { EventSink } from './events/event.ts'
import { addFurther, applyRecordSteps, changeInstance, deleteInstance } from './instance-records.ts'
import { Jobs } from './jobs/jobs.ts'
import { Moves } from './moves.ts'
import { Placing } from './placing.ts'
import { isSettled, plan, type ClusterConditions, type Step } from './plan.ts'
import { rollBack } from './rollback.ts'
import { isSettling } from './rollout.ts'
import { Waiting, whyWaiting } from './start-order.ts'
import { Updates } from './updates.ts'
import type { Vips } from './vips.ts'

export interface ReconcilerParts {
  store: RootStore
  vips: Vips
  clusters: Clusters
  rules: Rules
  clock: Clock
  events: EventSink
  log: Log
  metrics: Metrics
}

/** Everything that is not as it should be is looked at this often at most, however often capacity changes. */
const RETRY_MS = 200

/**
 * Turns what is into what is wanted: of each service a plan (pure), then each of its steps.
 *
 *     touched ─▶ slice: plan, records, decisions ─▶ one transaction ─▶ one message for each cluster ─▶ answers
 *
 * Of one service one pass at a time. A decision takes its demand off the cluster's free capacity in the same step, so that two
 * placements never count on the same.
 */
export class Reconciler {
  readonly #parts: ReconcilerParts
  readonly #work: SlicedWork
  readonly #requests: ClusterRequests
  readonly #publisher: EntryPublisher
  #retryTimer: NodeJS.Timeout | undefined
  #isRetryDue = false
  readonly #queued = new Set<ServiceId>()
  readonly #unsettled = new Set<ServiceId>()
  readonly #waiting = new Waiting()
  readonly updates: Updates
  readonly placing: Placing
  /** Of instances that run, to other clusters. */
  readonly moves: Moves
  readonly jobs: Jobs
  #isClosed = false

  constructor(parts: ReconcilerParts) {
    this.#parts = parts
    this.updates = new Updates(parts)
    this.jobs = new Jobs({ ...parts, addInstances: (service, ordinals) => addFurther(service, ordinals, parts) })
    this.#work = new SlicedWork({
      together: (slice) => parts.store.database.transaction(slice),
      onFailure: (error) => parts.log.error('reconciling services failed', { error }),
    })
    this.#requests = new ClusterRequests(parts)
    this.#publisher = new EntryPublisher(parts)
    const publish = (service: ServiceId) => this.publish(service)
    this.placing = new Placing({ ...parts, requests: this.#requests, publish })
    this.moves = new Moves({
      ...parts,
      placing: this.placing,
      publish,
      touch: (service) => this.touch(service),
      alone: (service, work) => this.#work.add(service, work),
    })
    for (const { id } of parts.store.services.list()) this.#unsettled.add(id)
    for (const { service } of parts.store.instances.list()) this.#unsettled.add(service)
  }

  /** Reconciles a service soon; several calls in one turn cause one pass. */
  touch(service: ServiceId): void {
    if (this.#isClosed || this.#queued.has(service)) return
    this.#queued.add(service)
    const work = async () => {
      this.#queued.delete(service)
      try {
        await this.#reconcile(service)
      } catch (error) {
        if (this.#isClosed) return
        this.#unsettled.add(service)
        this.#parts.log.error('reconciling a service failed', { service, error })
      }
    }
    this.#work.add(service, work).catch(() => undefined) // cleared: the root is closing
  }

  /** Reconciles everything that is not as it should be. Called every few seconds, and when capacity changes. */
  retry(): void {
    if (this.#isClosed) return
    this.#isRetryDue = true
    if (this.#retryTimer !== undefined) return
    this.#isRetryDue = false
    for (const service of this.#unsettled) this.touch(service)
    this.#retryTimer = setTimeout(() => {
      this.#retryTimer = undefined
      if (this.#isRetryDue) this.retry()
    }, RETRY_MS).unref()
  }

  /** Jobs whose time has come are run. Called every second. */
  runDue(): void {
    if (this.#isClosed) return
    for (const id of this.jobs.due()) {
      const work = async () => {
        if (this.jobs.decide(id)) this.touch(id)
      }
      this.#work.add(`due ${id}`, work).catch(() => undefined) // cleared: the root is closing
    }
  }

  /** The cluster's link came up or went down. */
  clusterChanged(cluster: string): void {
    for (const record of this.#parts.store.instances.list()) if (record.cluster === cluster) this.touch(record.service)
    this.retry()
  }

  /** In order, in one transaction with what else is begun in the same turn. @throws MeshError NOT_RUNNING */
  together<T>(work: () => Promise<T>): Promise<T> {
    return this.#isClosed
      ? Promise.reject(new MeshError('NOT_RUNNING', { what: 'the root' }))
      : this.#work.continued(work)
  }

  async close(): Promise<void> {
    this.#isClosed = true
    clearTimeout(this.#retryTimer)
    this.placing.close()
    this.#publisher.close()
    this.#work.clear()
    await this.#work.onIdle()
    this.placing.decisions[Symbol.dispose]()
  }

  /** What tables show of a service has changed: sent to the clusters that asked, but for the one that has said so itself. */
  publish(service: ServiceId, saidBy?: string): void {
    this.#publisher.publish(service, saidBy)
  }

  async #reconcile(id: ServiceId): Promise<void> {
    const { store } = this.#parts
    const service = store.services.get(id)
    const steps = plan(service, store.instancesOf(id), this.#conditions())
    if (service !== undefined) this.jobs.follow(service)
    if (service !== undefined && steps.some(({ kind }) => kind === 'wait')) this.#waiting.add(service)
    else this.#waiting.delete(id)
    if (steps.some(({ kind }) => kind === 'create' || kind === 'retire' || kind === 'forget')) {
      applyRecordSteps(id, steps, this.#parts)
      for (const step of steps) if (step.kind === 'forget') this.forgotten(step.id)
      this.publish(id)
      return this.touch(id) // the next pass places what was created
    }
    if (steps.length === 0) return this.#settle(id)
    const isFree = ({ kind }: Step) => kind === 'place' || kind === 'wait' || kind === 'withdraw'
    const together = steps.filter(isFree).map((step) => this.#execute(step))
    for (const step of steps.filter((step) => !isFree(step))) {
      if (this.#isClosed) break
      await this.#execute(step)
    }
    await Promise.all(together)
    await this.#work.continued(async () => this.#settle(id)) // with the others of its message
  }

  #settle(id: ServiceId): void {
    const { store } = this.#parts
    for (const waiting of this.#waiting.for(id)) this.touch(waiting)
    const [service, instances] = [store.services.get(id), store.instancesOf(id)]
    if (isSettled(service, instances, this.#conditions())) this.#unsettled.delete(id)
    else this.#unsettled.add(id)
    if (service !== undefined) this.moves.follow(service, instances)
    if (service === undefined) {
      this.updates.forget(id)
      this.jobs.forget(id)
    } else if (this.updates.follow(service, instances) === 'failed' && !this.updates.isAutomatic(id))
      this.#takeBack(service)
  }

  /** The update has failed, and the document asks for this. */
  #takeBack(service: ServiceRecord): void {
    const { log } = this.#parts
    try {
      const { revision } = rollBack(service, { isAutomatic: true }, { ...this.#parts, reconciler: this })
      log.warn('update rolled back', { service: service.id, revision })
    } catch (error) {
      log.warn('update cannot be rolled back', { service: service.id, error })
    }
  }

  #drop(id: InstanceId): void {
    deleteInstance(id, this.#parts)
    this.forgotten(id)
  }

  /** Its record was deleted. */
  forgotten(id: InstanceId): void {
    this.placing.forget(id)
    this.moves.forget(id)
  }

  #forget(id: InstanceId): void {
    const record = this.#parts.store.instances.get(id)
    if (record === undefined || record.wanted) return
    this.#drop(id)
    this.publish(record.service)
    this.touch(record.service)
  }

  async #execute(step: Step): Promise<void> {
    const { clusters, log } = this.#parts
    if (step.kind === 'place') return this.moves.leased.place(step.id)
    if (step.kind === 'wait') return this.#wait(step.id, step.why)
    if (step.kind === 'update') {
      const record = this.#parts.store.instances.get(step.id)
      if (record !== undefined && !(await this.updates.send(record, step.cluster, step.how)))
        this.#unsettled.add(record.service)
    }
    if (step.kind === 'renew' && (await this.#renew(step.id, { keepsPlace: true })) !== undefined) this.retry() // by a move
    if (step.kind === 'move') await this.#move(step.id)
    if (step.kind === 'withdraw') {
      this.placing.leaveFormer(step.id, { isUnwanted: true })
      try {
        const { link } = clusters.require(step.cluster)
        if (await this.#requests.withdraw(link, step.id)) await this.#work.continued(async () => this.#forget(step.id)) // with the others of its message
      } catch (error) {
        log.warn('instance not withdrawn yet', { instance: step.id, cluster: step.cluster, error })
      }
    }
  }

  /**
   * Sends its cluster what the running instance can take over. Returns why it cannot; `undefined` when it has, or when its link broke.
   * Without `keepsPlace` the cluster may move it to another node.
   */
  async #renew(id: InstanceId, { keepsPlace }: { keepsPlace: boolean }): Promise<string | undefined> {
    const { store, clusters } = this.#parts
    const record = store.instances.get(id)
    const service = record && store.services.get(record.service)
    const cluster = clusters.linked(record?.cluster ?? '')
    if (record === undefined || service === undefined || cluster === undefined) return undefined
    const { spec, generation, revision = 0 } = service
    const assignment = assignmentOf(record, { spec, generation, revision }, store.asking)
    try {
      const { moved } = await cluster.link.request('delegate', { assignment, keepsPlace })
      this.#change(id, { revision, unsuited: undefined, ...(moved === true ? { state: 'placed' } : {}) })
      return undefined
    } catch (error) {
      if (isMeshError(error, 'LINK_CLOSED')) return undefined
      const reason = reasonOf(error)
      if (record.unsuited !== reason) this.#change(id, { unsuited: reason })
      this.#unsettled.add(record.service)
      return reason
    }
  }

  /** One at a time, so that a service with several instances never stops answering. */
  async #move(id: InstanceId): Promise<void> {
    const { store, log } = this.#parts
    const record = store.instances.get(id)
    const service = record && store.services.get(record.service)
    if (record === undefined || service === undefined) return
    if (store.instancesOf(service.id).some((other) => other.id !== id && other.wanted && isSettling(other, service)))
      return
    const reason = await this.#renew(id, { keepsPlace: false })
    if (reason === undefined || service.spec.leaseSeconds !== undefined || !this.#conditions().hasRoomElsewhere(record))
      return
    log.info('instance moves to another cluster', { instance: id, cluster: record.cluster, reason })
    await this.placing.place(id)
  }

  #wait(id: InstanceId, why: string): void {
    const { store, events, log } = this.#parts
    const before = store.instances.get(id)
    if (before === undefined || before.detail === why) return
    this.#change(id, { detail: why })
    if (before.detail !== undefined) return
    log.info('instance waits', { instance: id, reason: why })
    events.record({ instance: id, what: 'waiting', by: 'reconciler', why })
  }

  #change(id: InstanceId, change: InstanceChange): void {
    changeInstance(id, change, this.#parts)
  }

  #conditions(): ClusterConditions {
    const { clusters, store } = this.#parts
    return {
      isUp: (cluster) => clusters.linked(cluster) !== undefined,
      isLost: (cluster) => clusters.isLost(cluster),
      mayUpdate: ({ id }) => this.updates.mayAsk(id),
      hasRoomElsewhere: (record) => this.placing.hasRoomElsewhere(record),
      whyWaiting: (service, instances) => whyWaiting(service, instances, store),
    }
  }
}
