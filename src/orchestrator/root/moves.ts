import { MeshError } from '../../core/errors.ts'
import { clusterOf, type InstanceId, type NodeId, type ServiceId } from '../../core/model/ids.ts'
import { groupsOf, mayMoveAt } from '../scheduling/compliance.ts'
import type { MoveCause } from '../spec.ts'
import { HOPELESS_RESTARTS, progressMsOf } from '../scheduling/progress.ts'
import { whyImmobile } from '../scheduling/mobility.ts'
import { refusedOf, runsAtFormer } from './former-place.ts'
import { changeInstance } from './instance-records.ts'
import { LeasedMoves, type LeasedMovesParts } from './leased-moves.ts'
import type { InstanceRecord, RootStore, ServiceRecord } from './root-store.ts'

export interface MovesParts extends LeasedMovesParts {
  /** Nothing else is done with the service meanwhile. */
  readonly alone: <T>(service: ServiceId, work: () => Promise<T>) => Promise<T>
}

/** Where it starts. */
export interface MovesTo {
  cluster: string
  /** Absent where its cluster has not said so yet. */
  node?: NodeId | undefined
  /** Why it is stopped first. */
  gap?: string | undefined
}

export interface MoveOptions {
  to?: NodeId | undefined
  /** Because of a constraint: the next such move is some time later (scheduling/compliance.ts). */
  isViolation?: boolean | undefined
  /** Who wants it, and why. */
  cause?: MoveCause | undefined
}

/** Moves of an instance that are remembered. */
const MOST_MOVES = 8
/** A cluster where it did not get ready is not asked again for this long. Smaller starts in vain, larger forgoes what has been mended. */
const FAILED_THERE_MS = 60_000

/**
 * Moves instances that run to another cluster, without a moment in which none answers (former-place.ts):
 *
 *     runs in `a` ─▶ `b` has accepted: it starts there, and is called in `a` ─▶ runs in `b`: called there; `a` lets it drain
 *                        └ crashes, cannot be started, `b` is lost, or takes too long ─▶ it is `a`’s again, as if nothing had been asked
 */
export class Moves {
  readonly #parts: MovesParts
  /** Since when those that move have done so, by the monotonic clock; a root that starts again begins to wait anew. */
  readonly #since = new Map<InstanceId, number>()

  /** Of what never runs twice. */
  readonly leased: LeasedMoves

  constructor(parts: MovesParts) {
    this.#parts = parts
    this.leased = new LeasedMoves(parts)
  }

  /**
   * It starts in another cluster, on the node `to` if given. Resolves when that has accepted; one that moves already goes on.
   * @throws MeshError UNPLACEABLE with the reason; then nothing has changed
   */
  async begin(id: InstanceId, { to, isViolation = false, cause }: MoveOptions = {}): Promise<MovesTo> {
    const { store, placing, alone, touch, log } = this.#parts
    const service = store.instances.get(id)?.service ?? ''
    const placed = await alone(service, async () => {
      const under = this.#underWay(id)
      if (under !== undefined && (to === undefined || clusterOf(to) === under.cluster)) return under
      this.#check(id)
      if (isViolation) this.#checkRest(id)
      const record = store.instances.get(id)
      if (record !== undefined && isLeased(record, store)) return this.leased.begin(record, { to, cause })
      const from = record?.cluster
      const outcome = await placing.place(id, { only: to, cause })
      if (outcome.kind === 'nowhere') throw refused(id, outcome.reason)
      if (outcome.kind === 'over') throw refused(id, 'it has changed meanwhile')
      if (isViolation) this.#moved(id)
      log.info('instance moves to another cluster', { instance: id, from, cluster: outcome.cluster })
      return outcome
    })
    touch(service) // from now on it is followed
    const { cluster, node } = placed
    return { cluster, node, gap: 'gap' in placed ? placed.gap : undefined }
  }

  /** Looks at those that move: it may be taking too long, or the other cluster be lost. */
  follow(service: ServiceRecord, instances: readonly InstanceRecord[]): void {
    const { clock, clusters } = this.#parts
    const progressMs = progressMsOf(service.spec)
    for (const record of instances) {
      const { id, cluster } = record
      this.leased.goOn(record)
      if (!runsAtFormer(record) || cluster === undefined) {
        this.#since.delete(id)
        continue
      }
      const since = this.#since.get(id) ?? clock.now()
      this.#since.set(id, since)
      if (clusters.isLost(cluster)) this.giveUp(id, `cluster ${cluster} is lost`)
      else if (clock.now() - since >= progressMs) this.giveUp(id, `it was not ready within ${progressMs / 1_000} s`)
    }
  }

  /** What its new cluster has reported of one that moves. */
  heard({ id, state, restarts, detail, noOtherNode }: InstanceRecord): void {
    const isHopeless = state === 'failed' || noOtherNode === true || restarts >= HOPELESS_RESTARTS
    if (isHopeless) this.giveUp(id, detail ?? state)
  }

  /** It stays where it runs. */
  giveUp(id: InstanceId, reason: string): void {
    const { store, clusters, placing, publish, touch, events, log } = this.#parts
    const record = store.instances.get(id)
    if (record?.former === undefined || record.cluster === undefined || !runsAtFormer(record)) return
    const { cluster, former, service, node } = record
    this.#since.delete(id)
    log.warn('instance not moved to another cluster', { instance: id, cluster, reason })
    const why = `it did not get ready there, and stays in ${former.cluster}: ${reason}`
    events.record({ instance: id, cluster, node: node?.id, what: 'failed', by: 'cluster', why })
    changeInstance(id, refusedOf(record), this.#parts)
    placing.refuse(id, cluster, FAILED_THERE_MS)
    publish(service)
    clusters
      .linked(cluster)
      ?.link.request('withdraw', { instance: id, atOnce: true })
      .catch(() => undefined) // reported again at its next hello
    touch(service)
  }

  forget(id: InstanceId): void {
    this.#since.delete(id)
  }

  #underWay(id: InstanceId): MovesTo | undefined {
    const record = this.#parts.store.instances.get(id)
    if (record?.cluster === undefined || !runsAtFormer(record)) return undefined
    return { cluster: record.cluster, node: record.node?.id }
  }

  /** Clusters do not know of the moves in others. @throws MeshError UNPLACEABLE */
  #checkRest(id: InstanceId): void {
    const { store, clock } = this.#parts
    const record = store.instances.get(id)
    const spec = record && store.services.get(record.service)?.spec
    const now = clock.wall()
    const moves = record?.constraintMoves?.filter((at) => at <= now) ?? [] // the clock may have been set back
    const until = Math.max(now, ...groupsOf(spec?.constraints ?? []).map((group) => mayMoveAt(moves, group)))
    const seconds = Math.ceil((until - now) / 1_000)
    if (seconds > 0) throw refused(id, `it has moved lately and stays where it is for another ${seconds} s`)
  }

  #moved(id: InstanceId): void {
    const { store, clock } = this.#parts
    const moves = store.instances.get(id)?.constraintMoves ?? []
    changeInstance(id, { constraintMoves: [...moves, clock.wall()].slice(-MOST_MOVES) }, this.#parts)
  }

  /** @throws MeshError UNPLACEABLE, INSTANCE_UNKNOWN */
  #check(id: InstanceId): void {
    const { store } = this.#parts
    const record = store.instances.get(id)
    const spec = record && store.services.get(record.service)?.spec
    if (record === undefined || spec === undefined || !record.wanted)
      throw new MeshError('INSTANCE_UNKNOWN', { instance: id })
    const immobile = whyImmobile(spec)
    if (immobile !== undefined) throw refused(id, immobile)
    if (record.cluster === undefined) throw refused(id, 'it has no place yet')
    if (record.successor !== undefined) throw refused(id, 'a newer run of it starts: try again when that serves')
    if (record.former !== undefined) throw refused(id, `it is on its way to ${record.cluster}`)
    if (record.movesTo !== undefined) throw refused(id, `it moves already: it ends in ${record.movesTo.leaves} first`)
  }
}

function isLeased({ service }: InstanceRecord, store: RootStore): boolean {
  return store.services.get(service)?.spec.leaseSeconds !== undefined
}

function refused(instance: InstanceId, reason: string): MeshError {
  return new MeshError('UNPLACEABLE', { instance, reason })
}
