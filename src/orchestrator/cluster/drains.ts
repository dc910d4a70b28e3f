import { Backoff } from '../../core/kit/backoff.ts'
import type { Clock } from '../../core/kit/clock.ts'
import type { Log } from '../../core/kit/log.ts'
import type { InstanceId, NodeId } from '../../core/model/ids.ts'
import type { DrainStatus } from '../link/messages/cluster-root.ts'
import { reasonOf } from '../link/reason.ts'
import { whatStays, whyImmobile } from '../scheduling/mobility.ts'
import type { MoveCause } from '../spec.ts'
import { isFinished, type AssignmentRecord, type Assignments } from './assignments.ts'
import type { Cordons } from './cordons.ts'
import type { Nodes } from './nodes.ts'
import type { RootLink } from './root-link.ts'
import type { Scheduler } from './scheduler.ts'

export interface DrainsParts {
  readonly assignments: Assignments
  readonly nodes: Nodes
  readonly cordons: Cordons
  readonly scheduler: Pick<Scheduler, 'replace'>
  readonly root: Pick<RootLink, 'relocate' | 'isUp' | 'record'>
  readonly clock: Clock
  readonly log: Log
}

/** Successors of one node that start at a time. Smaller takes longer; larger starts everything at once on the nodes that are left. */
const AT_ONCE = 20
/** Between two tries to move an instance that was refused, or whose successor did not get ready. */
const AFTER_REFUSAL = { firstMs: 1_000, limitMs: 30_000 }
/** More are of no use to anybody who looks. */
const MOST_LISTED = 1_000

/**
 * Moves everything away from a node that is to be empty, without a gap (succession.ts):
 *
 *     cordoned, draining ─▶ each instance: a successor elsewhere ─▶ it serves, the one here drains ─▶ empty
 *                                     │   └─ no room in this cluster: the root looks in others
 *                                     └─ refused, or not ready: tried again, later each time; what cannot move says why
 *
 * That a node drains is in its cordon: a cluster that is started again goes on, and `uncordon` ends it.
 */
export class Drains {
  readonly #parts: DrainsParts
  readonly #asking = new Set<InstanceId>()
  readonly #tried = new Map<InstanceId, { backoff: Backoff; retryAt: number } & Outcome>()

  constructor(parts: DrainsParts) {
    this.#parts = parts
  }

  /** Begins, or goes on with what the next try brings. @throws MeshError NODE_UNKNOWN */
  begin(node: NodeId, { isForced, reason }: { isForced: boolean; reason?: string | undefined }): DrainStatus {
    const { assignments, cordons, clock, log } = this.#parts
    const why = reason ?? cordons.of(node)?.reason
    const drain = isForced ? { isForced } : {}
    cordons.set(node, { at: clock.wall(), ...(why === undefined ? {} : { reason: why }), drain })
    log.info('node drains', { node, count: assignments.on(node).length })
    for (const { assignment } of assignments.on(node)) this.#tried.delete(assignment.instance)
    this.step()
    return this.status(node)
  }

  /** Called every few seconds. */
  step(): void {
    const { nodes, cordons } = this.#parts
    for (const node of cordons.draining()) {
      if (nodes.alive(node) === undefined) continue
      this.#moveFrom(node)
      this.#tellEmpty(node)
    }
  }

  /** What is still there, and why. */
  status(node: NodeId): DrainStatus {
    const { assignments, cordons } = this.#parts
    this.#tellEmpty(node)
    const here = assignments.on(node).filter((record) => !isFinished(record))
    const left = here.filter(({ wanted }) => wanted).map((record) => this.#standing(record))
    const served = new Set(left.map(({ instance }) => instance))
    return {
      isDraining: cordons.of(node)?.drain !== undefined,
      left: left.slice(0, MOST_LISTED),
      leaving: assignments.runsOn(node).filter((id) => !served.has(id) && !isOver(assignments.get(id))).length,
    }
  }

  /** Once, until something is there again. */
  #tellEmpty(node: NodeId): void {
    const { assignments, nodes, cordons, root, clock, log } = this.#parts
    if (nodes.alive(node) === undefined) return // it may still run something
    const { drain } = cordons.of(node) ?? {}
    const isEmpty = assignments.runsOn(node).every((id) => isOver(assignments.get(id)))
    if (drain === undefined || isEmpty === (drain.isOver === true)) return
    const { isOver: _isOver, ...rest } = drain
    cordons.set(node, { at: clock.wall(), drain: isEmpty ? { ...rest, isOver: true } : rest })
    if (!isEmpty) return
    log.info('node drained', { node })
    root.record({ what: 'drained', node, why: 'every instance has moved or ended' })
  }

  #moveFrom(node: NodeId): void {
    const { assignments, cordons, clock } = this.#parts
    const isForced = cordons.of(node)?.drain?.isForced === true
    const here = assignments.on(node).filter((record) => record.wanted && !isFinished(record))
    let room =
      AT_ONCE - here.filter((record) => isMoving(record) || this.#isUnderWay(record.assignment.instance)).length
    for (const record of here) {
      const { instance } = record.assignment
      const isDue = (this.#tried.get(instance)?.retryAt ?? 0) <= clock.now()
      const isFree = record.successor === undefined && record.movesTo === undefined && !this.#asking.has(instance)
      if (room <= 0 || !isDue || !isFree || whyItStays(record, isForced) !== undefined) continue
      room -= 1
      void this.#move(instance)
    }
  }

  async #move(id: InstanceId): Promise<void> {
    const { scheduler, assignments, clock, log } = this.#parts
    const before = this.#tried.get(id)
    const backoff = before?.backoff ?? new Backoff(AFTER_REFUSAL)
    const tried = { backoff, retryAt: clock.now() + backoff.nextMs() }
    const cause = this.#causeOf(id)
    this.#asking.add(id)
    try {
      await scheduler.replace(id, { where: 'elsewhere', cause })
      this.#tried.set(id, tried)
    } catch (error) {
      const outcome = await this.#moveAway(id, { here: reasonOf(error), cause })
      this.#tried.set(id, { ...tried, ...outcome })
      const { why } = outcome
      if (why !== undefined && before?.why !== why) log.warn('instance cannot be moved', { instance: id, reason: why })
    } finally {
      this.#asking.delete(id)
      if (assignments.get(id) === undefined) this.#tried.delete(id)
    }
  }

  #causeOf(id: InstanceId): MoveCause {
    const { assignments, cordons } = this.#parts
    const { node = '' } = assignments.get(id) ?? {}
    const reason = cordons.of(node)?.reason
    return { by: 'cluster', why: reason === undefined ? `${node} drains` : `${node} drains: ${reason}` }
  }

  /** To another cluster; `here`: why not within this one. It leaves when it is ready there. */
  async #moveAway(id: InstanceId, { here, cause }: { here: string; cause: MoveCause }): Promise<Outcome> {
    const { root } = this.#parts
    if (!root.isUp) return { why: `${here}; the root, which knows other clusters, is away` }
    try {
      const { cluster, node } = await root.relocate(id, { cause })
      return { to: node ?? `${cluster}/?` }
    } catch (error) {
      return { why: `${here}; other clusters: ${reasonOf(error)}`.slice(0, 2_000) }
    }
  }

  #isUnderWay(id: InstanceId): boolean {
    return this.#asking.has(id) || this.#tried.get(id)?.to !== undefined
  }

  #standing(record: AssignmentRecord): DrainStatus['left'][number] {
    const { assignment, successor, movesTo, node } = record
    const { instance } = assignment
    const isForced = node !== undefined && this.#parts.cordons.of(node)?.drain?.isForced === true
    const stays = whyItStays(record, isForced)
    if (stays !== undefined) return { instance, ...stays }
    if (successor !== undefined && successor.node !== node) return { instance, state: 'moving', to: successor.node }
    if (movesTo !== undefined) return { instance, state: 'moving', to: movesTo.node }
    const { to, why } = this.#tried.get(instance) ?? {}
    if (to !== undefined) return { instance, state: 'moving', to }
    return { instance, state: 'waiting', ...(why === undefined ? {} : { why }) }
  }
}

/** Of the last try: the node in another cluster where it starts, or why it does not move. */
interface Outcome {
  to?: NodeId
  why?: string
}

function isMoving({ successor, movesTo, node }: AssignmentRecord): boolean {
  return movesTo !== undefined || (successor !== undefined && successor.node !== node)
}

function isOver(record: AssignmentRecord | undefined): boolean {
  return record === undefined || isFinished(record)
}

/** `stays`: it will not move by itself. `waiting`: it ends by itself. */
function whyItStays(
  { assignment: { spec } }: AssignmentRecord,
  isForced: boolean,
): { state: 'stays' | 'waiting'; why: string } | undefined {
  const immobile = whyImmobile(spec)
  if (immobile !== undefined) return { state: spec.oneShot ? 'waiting' : 'stays', why: immobile }
  const left = isForced ? undefined : whatStays(spec)
  if (left === undefined) return undefined
  return { state: 'stays', why: `it would leave ${left} on this node (--force moves it nevertheless)` }
}
