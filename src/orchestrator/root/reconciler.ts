import { isMeshError } from '../../core/errors.ts'
import type { Clock } from '../../core/kit/clock.ts'
import type { Log } from '../../core/kit/log.ts'
import { SlicedWork } from '../../core/kit/sliced-work.ts'
import type { Metrics } from '../../core/metrics.ts'
import { interestOf, type InstanceId, type ServiceId } from '../../core/model/ids.ts'
import { reasonOf } from '../link/reason.ts'
import type { Candidate } from '../scheduling/candidate.ts'
import { demandOf } from '../scheduling/capacity.ts'
import { REFUSED_ALREADY } from '../scheduling/filters.ts'
import { KeptDecisions } from '../scheduling/kept-decisions.ts'
import type { PlacementRequest } from '../scheduling/placement-request.ts'
import { schedule, type Rules } from '../scheduling/schedule.ts'
import { clusterCandidate } from '../scheduling/summary.ts'
import type { Assignment, ServiceSpec } from '../spec.ts'
import type { RootStore, InstanceRecord, ServiceRecord } from './root-store.ts'
import { ClusterRequests } from './cluster-requests.ts'
import type { Clusters } from './clusters.ts'
import { EntryPublisher } from './entry-publisher.ts'
import { askedOf, leftBy, refusedOf, runsAtFormer } from './former-place.ts'
import type { EventSink } from './events/event.ts'
import { applyRecordSteps, changeInstance, deleteInstance, type InstanceChange } from './instance-records.ts'
import { requestFor } from './placement-facts.ts'
import { isSettled, plan, type ClusterConditions, type Step } from './plan.ts'
import { rollBack } from './rollback.ts'
import { isSettling } from './rollout.ts'
import { whyNowhere } from './unplaceable.ts'
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

/** A cluster that refused an instance is not asked again for this long. Smaller asks in vain, larger leaves new room unused. */
const REFUSED_MS = 3_000

/** How long a reason counts for the other instances of its service. Smaller asks more often, larger shows older counts. */
const SAME_MS = 250

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
  /** Why instances are in their clusters. */
  readonly decisions = new KeptDecisions()
  readonly #unsettled = new Set<ServiceId>()
  readonly #refusals = new Map<InstanceId, Map<string, number>>()
  readonly updates: Updates
  /** Why the service that was looked at last fits nowhere. */
  #told: { spec: ServiceId; until: number; text: string } | undefined
  #isClosed = false

  constructor(parts: ReconcilerParts) {
    this.#parts = parts
    this.updates = new Updates(parts)
    this.#work = new SlicedWork({
      together: (slice) => parts.store.database.transaction(slice),
      onFailure: (error) => parts.log.error('reconciling services failed', { error }),
    })
    this.#requests = new ClusterRequests(parts)
    this.#publisher = new EntryPublisher(parts)
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

  /** The cluster's link came up or went down. */
  clusterChanged(cluster: string): void {
    for (const record of this.#parts.store.instances.list()) if (record.cluster === cluster) this.touch(record.service)
    this.retry()
  }

  /** The cluster refused the instance, so it is not asked again at once. */
  refuse(id: InstanceId, cluster: string): void {
    const refusals = this.#refusals.get(id) ?? new Map<string, number>()
    refusals.set(cluster, this.#parts.clock.now() + REFUSED_MS)
    this.#refusals.set(id, refusals)
  }

  async close(): Promise<void> {
    this.#isClosed = true
    clearTimeout(this.#retryTimer)
    this.#publisher.close()
    this.#work.clear()
    await this.#work.onIdle()
  }

  /** What tables show of a service has changed: sent to the clusters that asked. */
  publish(service: ServiceId): void {
    this.#publisher.publish(service)
  }

  async #reconcile(id: ServiceId): Promise<void> {
    const { store } = this.#parts
    const conditions = this.#conditions()
    const steps = plan(store.services.get(id), store.instancesOf(id), conditions)
    if (steps.some(({ kind }) => kind === 'create' || kind === 'retire' || kind === 'forget')) {
      applyRecordSteps(id, steps, this.#parts)
      for (const step of steps) if (step.kind === 'forget') this.#refusals.delete(step.id)
      this.publish(id)
      return this.touch(id) // the next pass places what was created
    }
    if (steps.length === 0) return this.#settle(id)
    const isFree = ({ kind }: Step) => kind === 'place' || kind === 'withdraw'
    const together = steps.filter(isFree).map((step) => this.#execute(step))
    for (const step of steps.filter((step) => !isFree(step))) {
      if (this.#isClosed) break
      await this.#execute(step)
    }
    await Promise.all(together)
    await this.#work.add(`settled ${id}`, async () => this.#settle(id)) // with the others of its message
  }

  #settle(id: ServiceId): void {
    const { store } = this.#parts
    const [service, instances] = [store.services.get(id), store.instancesOf(id)]
    if (isSettled(service, instances, this.#conditions())) this.#unsettled.delete(id)
    else this.#unsettled.add(id)
    if (service === undefined) this.updates.forget(id)
    else if (this.updates.follow(service, instances) === 'failed' && !this.updates.isAutomatic(id))
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
    this.decisions.forget(id)
    this.#refusals.delete(id)
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
    if (step.kind === 'place') return this.#place(step.id)
    if (step.kind === 'update') {
      const record = this.#parts.store.instances.get(step.id)
      if (record !== undefined && !(await this.updates.send(record, step.cluster, step.how)))
        this.#unsettled.add(record.service)
    }
    if (step.kind === 'renew' && (await this.#renew(step.id, { keepsPlace: true })) !== undefined) this.retry() // by a move
    if (step.kind === 'move') await this.#move(step.id)
    if (step.kind === 'withdraw') {
      this.leaveFormer(step.id, { isUnwanted: true })
      try {
        const { link } = clusters.require(step.cluster)
        if (await this.#requests.withdraw(link, step.id))
          await this.#work.add(`gone ${step.id}`, async () => this.#forget(step.id)) // with the others of its message
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
    const assignment: Assignment = { instance: id, ordinal: record.ordinal, spec, generation, revision }
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
    if (reason === undefined || !this.#conditions().hasRoomElsewhere(record)) return
    log.info('instance moves to another cluster', { instance: id, cluster: record.cluster, reason })
    await this.#place(id)
  }

  /** Asks the clusters in the order that `schedule` gives, until one accepts. */
  async #place(id: InstanceId): Promise<void> {
    const { store, clock, metrics, events, log } = this.#parts
    const refusals = new Map<string, string>()
    for (;;) {
      const record = store.instances.get(id)
      const service = record && store.services.get(record.service)
      if (record === undefined || service === undefined || !record.wanted) return
      if (this.#isClosed || record.ordinal >= service.spec.replicas) return // scaled down since the plan
      const end = metrics.placementSeconds.startTimer()
      const refusedBy = new Set([...this.#refusedBy(id), ...refusals.keys()])
      const request = this.#request(service.spec, id, refusedBy)
      const candidates = this.#candidates(record)
      const decision = schedule(request, candidates, this.#parts.rules)
      end()
      if (decision.kind === 'unplaceable') {
        if (record.cluster !== undefined) return // it stays where it was lost: no other cluster has room
        metrics.placements.labels('unplaceable').inc()
        // the clusters that refused a moment ago were not asked again, and their reasons are recorded
        if (record.state === 'unplaceable' && isOnly(decision.reasons, REFUSED_ALREADY) && refusals.size === 0) return
        return this.#fitsNowhere(id, service.spec, refusals)
      }
      const cluster = decision.candidate.id
      const outcome = await this.#delegate(record, cluster)
      metrics.placements.labels(outcome === undefined ? 'placed' : 'refused').inc()
      if (outcome === undefined) {
        this.decisions.keep(id, decision, { rules: this.#parts.rules, request, candidates, at: clock.wall() })
        return log.info('instance delegated', { instance: id, cluster, reason: decision.why })
      }
      events.record({ instance: id, cluster, what: 'refused', by: 'cluster', why: outcome })
      refusals.set(cluster, outcome)
    }
  }

  /** Its replicas are told the same within a moment, so that the clusters are asked once for all. */
  async #whyNowhere(spec: ServiceSpec, refusals: ReadonlyMap<string, string>): Promise<string> {
    const { clock } = this.#parts
    const known = this.#told
    if (refusals.size === 0 && known?.spec === spec.id && clock.now() < known.until) return known.text
    const text = await whyNowhere(spec, refusals, this.#parts)
    this.#told = { spec: spec.id, until: clock.now() + SAME_MS, text }
    return text
  }

  async #fitsNowhere(id: InstanceId, spec: ServiceSpec, refusals: ReadonlyMap<string, string>): Promise<void> {
    const { store, log } = this.#parts
    const detail = await this.#whyNowhere(spec, refusals)
    const record = store.instances.get(id)
    if (record === undefined || !record.wanted || record.cluster !== undefined) return // it has changed meanwhile
    if (record.state === 'unplaceable' && record.detail === detail) return
    log.warn('instance fits nowhere', { instance: id, reason: detail })
    this.#change(id, { state: 'unplaceable', detail })
  }

  /** Returns `undefined` when the cluster accepted, or its link broke (its next hello settles that); else why it refused. */
  async #delegate(record: InstanceRecord, name: string): Promise<string | undefined> {
    const { store, clusters } = this.#parts
    const { id } = record
    const service = store.services.get(record.service)
    const cluster = clusters.linked(name)
    if (service === undefined || cluster === undefined) return 'its link is down'
    const { generation, spec, revision = 0 } = service
    // written before the request: after a crash in between, the cluster's hello settles where the instance is
    this.#change(id, askedOf(record, name, service))
    clusters.subscribe(name, [interestOf(service.id)])
    clusters.ask(name, id, demandOf(spec))
    const assignment: Assignment = { instance: id, ordinal: record.ordinal, spec, generation, revision }
    try {
      await this.#requests.delegate(cluster.link, assignment)
      clusters.answered(name, id, { isAccepted: true })
      this.leaveFormer(id)
      return undefined
    } catch (error) {
      clusters.answered(name, id, { isAccepted: false })
      if (isMeshError(error, 'LINK_CLOSED')) return undefined
      cluster.link.request('withdraw', { instance: id }).catch(() => undefined) // it may have been about to accept
      this.refuse(id, name)
      const now = store.instances.get(id)
      if (now?.cluster === name) this.#change(id, refusedOf(now))
      return reasonOf(error)
    }
  }

  /**
   * Another cluster has it: the one where it was ends what is left of it, now or when it is back. One that runs there is called there
   * until the other one runs, unless it `isUnwanted`.
   */
  leaveFormer(id: InstanceId, { isUnwanted = false } = {}): void {
    const { store, clusters, clock } = this.#parts
    const record = store.instances.get(id)
    if (record?.former === undefined || (runsAtFormer(record) && !isUnwanted)) return
    const { former, service } = record
    const isOurs = store.services.get(service)?.spec.runtime !== 'external' // else its node does not run it
    this.#change(id, isOurs ? leftBy(record, clock.wall()) : { former: undefined })
    const left = clusters.linked(former.cluster)?.link
    const atOnce = former.state === 'lost' // else it drains
    const isReplaced = !atOnce && !isUnwanted
    if (isReplaced) this.publish(service) // first: then its cluster knows where to call instead
    left?.request('withdraw', { instance: id, atOnce, ...(isReplaced ? { isReplaced } : {}) }).catch(() => undefined) // reported again at its next hello
  }

  #change(id: InstanceId, change: InstanceChange): void {
    changeInstance(id, change, this.#parts)
  }

  #refusedBy(id: InstanceId): string[] {
    const now = this.#parts.clock.now()
    return [...(this.#refusals.get(id) ?? [])].filter(([, until]) => until > now).map(([cluster]) => cluster)
  }

  #request(spec: ServiceSpec, id: InstanceId, refusedBy: ReadonlySet<string>): PlacementRequest {
    return { ...requestFor(spec, { store: this.#parts.store, except: id }), refusedBy }
  }

  #candidates(record: InstanceRecord): Candidate[] {
    const perCluster = new Map<string, number>()
    for (const { cluster, wanted, id } of this.#parts.store.instancesOf(record.service)) {
      if (cluster !== undefined && wanted && id !== record.id)
        perCluster.set(cluster, (perCluster.get(cluster) ?? 0) + 1)
    }
    const others = [...this.#parts.clusters.all()].filter(({ name }) => name !== record.cluster)
    return others.map(({ name, summary }) =>
      clusterCandidate(summary, {
        condition: 'alive',
        perService: new Map([[record.service, perCluster.get(name) ?? 0]]),
      }),
    )
  }

  #conditions(): ClusterConditions {
    const { clusters, store } = this.#parts
    return {
      isUp: (cluster) => clusters.linked(cluster) !== undefined,
      isLost: (cluster) => clusters.isLost(cluster),
      mayUpdate: ({ id }) => this.updates.mayAsk(id),
      hasRoomElsewhere: (record) => {
        const service: ServiceRecord | undefined = store.services.get(record.service)
        const refusedBy = new Set(this.#refusedBy(record.id))
        return (
          service !== undefined &&
          schedule(this.#request(service.spec, record.id, refusedBy), this.#candidates(record), this.#parts.rules)
            .kind === 'placed'
        )
      },
    }
  }
}

function isOnly(reasons: Readonly<Record<string, number>>, reason: string): boolean {
  return Object.keys(reasons).join() === reason
}
