import { isMeshError } from '../../core/errors.ts'
import type { Clock } from '../../core/kit/clock.ts'
import type { Log } from '../../core/kit/log.ts'
import type { Metrics } from '../../core/metrics.ts'
import { clusterOf, interestOf, type InstanceId, type NodeId, type ServiceId } from '../../core/model/ids.ts'
import { reasonOf } from '../link/reason.ts'
import type { Candidate } from '../scheduling/candidate.ts'
import { demandOf } from '../scheduling/capacity.ts'
import { admission, refused, REFUSED_ALREADY } from '../scheduling/filters.ts'
import { KeptDecisions } from '../scheduling/kept-decisions.ts'
import type { PlacementRequest } from '../scheduling/placement-request.ts'
import { reasonsText, schedule, type Rules } from '../scheduling/schedule.ts'
import { clusterCandidate } from '../scheduling/summary.ts'
import type { MoveCause, ServiceSpec } from '../spec.ts'
import { assignmentOf } from './asking-services.ts'
import { ClusterRequests } from './cluster-requests.ts'
import { askedOf, leftBy, refusedOf, runsAtFormer } from './former-place.ts'
import { changeInstance } from './instance-records.ts'
import { requestFor } from './placement-facts.ts'
import { belongs } from './jobs/slots.ts'
import { assignedGeneration } from './rollout.ts'
import type { Clusters } from './clusters.ts'
import type { EventSink } from './events/event.ts'
import type { InstanceChange, InstanceRecord, RootStore } from './root-store.ts'
import { whyNowhere } from './unplaceable.ts'
import { WhyPace } from './why-pace.ts'

export interface PlacingParts {
  readonly store: RootStore
  readonly clusters: Clusters
  readonly rules: Rules
  readonly clock: Clock
  readonly events: EventSink
  readonly log: Log
  readonly metrics: Metrics
  readonly requests: ClusterRequests
  /** What tables show of a service has changed. */
  readonly publish: (service: ServiceId) => void
}

/** `nowhere`: no cluster takes it. `over`: it is no longer wanted, or settled otherwise. */
export type Placed =
  | { kind: 'placed'; cluster: string; node?: NodeId | undefined }
  | { kind: 'nowhere'; reason: string }
  | { kind: 'over' }

/** A cluster that refused an instance is not asked again for this long. Smaller asks in vain, larger leaves new room unused. */
const REFUSED_MS = 3_000
/** How long a reason counts for the other instances of its service. Smaller asks more often, larger shows older counts. */
const SAME_MS = 250

/** Finds the cluster for an instance: `schedule` decides by the summaries, and the cluster has the last word. */
export class Placing {
  readonly #parts: PlacingParts
  readonly #refusals = new Map<InstanceId, Map<string, number>>()
  /** Why instances are in their clusters. */
  readonly decisions: KeptDecisions
  /** Why the service that was looked at last fits nowhere. */
  #told: { spec: ServiceId; until: number; text: string } | undefined
  readonly #whyPace = new WhyPace()
  #isClosed = false

  constructor(parts: PlacingParts) {
    this.#parts = parts
    const { store, clock } = parts
    this.decisions = new KeptDecisions({
      saved: store.decisions,
      together: (work) => store.database.transaction(work),
      clock,
      isThere: (id) => store.instances.get(id) !== undefined,
    })
  }

  close(): void {
    this.#isClosed = true
  }

  /** The cluster refused the instance, so it is not asked again at once. */
  refuse(id: InstanceId, cluster: string, forMs = REFUSED_MS): void {
    const refusals = this.#refusals.get(id) ?? new Map<string, number>()
    refusals.set(cluster, this.#parts.clock.now() + forMs)
    this.#refusals.set(id, refusals)
  }

  forget(id: InstanceId): void {
    this.#refusals.delete(id)
    this.#whyPace.forget(id)
    this.decisions.forget(id)
  }

  /**
   * Asks the clusters in the order that `schedule` gives, until one accepts: any but the one that has it, or with `only` the one of that
   * node, for that node.
   */
  async place(
    id: InstanceId,
    { only, cause }: { only?: NodeId | undefined; cause?: MoveCause | undefined } = {},
  ): Promise<Placed> {
    const { store, clock, metrics, events, log } = this.#parts
    const refusals = new Map<string, string>()
    for (;;) {
      const record = store.instances.get(id)
      const service = record && store.services.get(record.service)
      if (record === undefined || service === undefined || !record.wanted) return OVER
      if (this.#isClosed || !belongs(record, service.spec)) return OVER // scaled down since the plan
      const end = metrics.placementSeconds.startTimer()
      const refusedBy = new Set([...(only === undefined ? this.#refusedBy(id) : []), ...refusals.keys()])
      const request = this.#request(service.spec, id, refusedBy)
      const candidates = this.#candidates(record).filter((each) => only === undefined || each.id === clusterOf(only))
      const rules = only === undefined ? this.#parts.rules : { ...this.#parts.rules, filters: OF_NAMED }
      const decision = schedule(request, candidates, rules)
      end()
      if (decision.kind === 'unplaceable') {
        // it stays where it is: no other cluster has room
        if (record.cluster !== undefined) return { kind: 'nowhere', reason: whyNot(decision.reasons, refusals, only) }
        metrics.placements.labels('unplaceable').inc()
        // the clusters that refused a moment ago were not asked again, and their reasons are recorded
        if (record.state !== 'unplaceable' || !isOnly(decision.reasons, REFUSED_ALREADY) || refusals.size > 0)
          await this.#fitsNowhere(id, service.spec, refusals)
        return OVER
      }
      const cluster = decision.candidate.id
      const outcome = await this.#delegate(record, cluster, { only, cause })
      metrics.placements.labels(outcome.kind).inc()
      if (outcome.kind === 'placed') {
        this.#whyPace.forget(id)
        this.decisions.keep(id, decision, { rules, request, candidates, at: clock.wall() })
        log.info('instance delegated', { instance: id, cluster, reason: decision.why })
        return { ...outcome, cluster }
      }
      events.record({ instance: id, cluster, what: 'refused', by: 'cluster', why: outcome.reason })
      refusals.set(cluster, outcome.reason)
    }
  }

  /** Which other cluster would be asked first for it, or for it on the node `only`; as far as the root knows. */
  preview(record: InstanceRecord, only: NodeId | undefined): { cluster: string } | { reason: string } {
    const { store, rules } = this.#parts
    const service = store.services.get(record.service)
    if (service === undefined) return { reason: 'it was deleted' }
    const request = this.#request(service.spec, record.id, new Set())
    const candidates = this.#candidates(record).filter((each) => only === undefined || each.id === clusterOf(only))
    const decision = schedule(request, candidates, rules)
    if (decision.kind === 'placed') return { cluster: decision.candidate.id }
    return { reason: whyNot(decision.reasons, new Map(), only) }
  }

  hasRoomElsewhere(record: InstanceRecord): boolean {
    const { store, rules } = this.#parts
    const service = store.services.get(record.service)
    if (service === undefined) return false
    const request = this.#request(service.spec, record.id, new Set(this.#refusedBy(record.id)))
    return schedule(request, this.#candidates(record), rules).kind === 'placed'
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
    const left = clusters.linked(former.cluster)?.link
    const isOurs = store.services.get(service)?.spec.runtime !== 'external' // else its node does not run it
    const atOnce = former.state === 'lost' // else it drains
    const isReplaced = !atOnce && !isUnwanted
    const drainsOn = isReplaced ? former.node?.id : undefined
    this.#change(id, {
      ...(isOurs
        ? leftBy(record, { at: clock.wall(), drains: isReplaced && left !== undefined })
        : { former: undefined }),
      drainsOn,
    })
    if (isReplaced) this.#parts.publish(service)
    left?.request('withdraw', { instance: id, atOnce, ...(isReplaced ? { isReplaced } : {}) }).catch(() => undefined) // reported again at its next hello
  }

  /** `over`: its link broke, and its next hello settles that. */
  async #delegate(
    record: InstanceRecord,
    name: string,
    { only, cause }: { only: NodeId | undefined; cause: MoveCause | undefined },
  ): Promise<{ kind: 'placed'; node?: NodeId | undefined } | { kind: 'refused'; reason: string }> {
    const { store, clusters, requests } = this.#parts
    const { id } = record
    const service = store.services.get(record.service)
    const cluster = clusters.linked(name)
    if (service === undefined || cluster === undefined) return { kind: 'refused', reason: 'its link is down' }
    const { spec, revision = 0 } = service
    const generation = assignedGeneration(record, service)
    // written before the request: after a crash in between, the cluster's hello settles where the instance is
    this.#change(id, askedOf(record, name, { generation, revision, cause }))
    clusters.subscribe(name, [interestOf(service.id)])
    clusters.ask(name, id, demandOf(spec))
    const assignment = assignmentOf(record, { spec, generation, revision }, store.asking)
    try {
      // one that moves is asked for by itself: the answer then has the node
      const isMove = record.cluster !== undefined
      const { node } = isMove
        ? await requests.delegateMove(cluster.link, assignment, only)
        : { ...(await requests.delegate(cluster.link, assignment)), node: undefined }
      clusters.answered(name, id, { isAccepted: true })
      this.leaveFormer(id)
      return { kind: 'placed', node }
    } catch (error) {
      clusters.answered(name, id, { isAccepted: false })
      const isUnclear = isMeshError(error, 'REQUEST_TIMEOUT') && spec.leaseSeconds !== undefined // no second one may run
      if (isUnclear || isMeshError(error, 'LINK_CLOSED')) return { kind: 'placed' } // its next hello settles that
      cluster.link.request('withdraw', { instance: id }).catch(() => undefined) // it may have been about to accept
      if (only === undefined) this.refuse(id, name) // a node that cannot take it says nothing of the others
      const now = store.instances.get(id)
      if (now?.cluster === name) this.#change(id, refusedOf(now))
      return { kind: 'refused', reason: reasonOf(error) }
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
    const { store, log, clock } = this.#parts
    if (store.instances.get(id)?.state !== 'unplaceable' || refusals.size > 0) this.#whyPace.forget(id)
    if (!this.#whyPace.isDue(id, clock.now())) return
    const detail = await this.#whyNowhere(spec, refusals)
    const record = store.instances.get(id)
    if (record === undefined || !record.wanted || record.cluster !== undefined) return // it has changed meanwhile
    if (record.state === 'unplaceable' && record.detail === detail) return
    log.warn('instance fits nowhere', { instance: id, reason: detail })
    this.#change(id, { state: 'unplaceable', detail })
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
}

const OVER = { kind: 'over' } as const
/** A named node is its cluster's to judge: the summary may be older than the node. */
const OF_NAMED = [refused, admission]

/** What the clusters said that were asked; else what speaks against each. */
function whyNot(reasons: Counts, refusals: ReadonlyMap<string, string>, only: NodeId | undefined): string {
  const said = [...refusals].map(([cluster, reason]) => `${cluster}: ${reason}`)
  const none = only === undefined ? 'no other cluster is connected' : `cluster ${clusterOf(only)} is not connected`
  const clusters = Object.values(reasons).reduce((sum, count) => sum + count, 0)
  const text = said.length > 0 ? said.join('; ') : reasonsText(reasons, { clusters, none })
  return text.slice(0, 1_900)
}

type Counts = Readonly<Record<string, number>>

function isOnly(reasons: Counts, reason: string): boolean {
  return Object.keys(reasons).join() === reason
}
