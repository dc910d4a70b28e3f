import { isMeshError } from '../../core/errors.ts'
import type { Clock } from '../../core/kit/clock.ts'
import type { Log } from '../../core/kit/log.ts'
import type { Metrics } from '../../core/metrics.ts'
import type { InstanceId, NodeId } from '../../core/model/ids.ts'
import { reasonOf } from '../link/reason.ts'
import { nodeCandidate, type Candidate } from '../scheduling/candidate.ts'
import {
  groupsOf,
  mayMoveAt,
  measure,
  requestElsewhere,
  taken,
  verdict,
  violationText,
  type Group,
  type History,
} from '../scheduling/compliance.ts'
import { whatStays } from '../scheduling/mobility.ts'
import { nearestText } from '../scheduling/nearest.ts'
import type { PlacementRequest } from '../scheduling/placement-request.ts'
import { schedule, type Rules } from '../scheduling/schedule.ts'
import type { ServiceSpec } from '../spec.ts'
import type { AssignmentRecord, Assignments } from './assignments.ts'
import type { LatencyAnchors } from './latency-anchors.ts'
import { isMoving, Misfits } from './misfits.ts'
import type { Nodes } from './nodes.ts'

export interface ConstraintWatchParts {
  assignments: Pick<Assignments, 'all' | 'get' | 'on' | 'startingOn' | 'named'>
  nodes: Pick<Nodes, 'alive' | 'all'>
  anchors: Pick<LatencyAnchors, 'prepare' | 'requestFor'>
  rules: Rules
  /** The nodes as they are now. */
  candidates: () => Candidate[]
  /** Starts the instance on that node and moves the flows there. @throws MeshError UNPLACEABLE */
  move: (instance: InstanceId, node: NodeId, why: string) => Promise<unknown>
  /** The same, to another cluster. @throws MeshError UNPLACEABLE, LINK_CLOSED */
  moveAway: (instance: InstanceId, why: string) => Promise<{ cluster: string; node?: NodeId }>
  /** When it has moved for its constraints, milliseconds since 1970: kept for `record.constraintMoves`. */
  moved: (instance: InstanceId, moves: number[]) => void
  /** The root and people learn what is violated; `undefined`: nothing any more. */
  report: (instance: InstanceId, node: NodeId, violation: string | undefined) => void
  clock: Clock
  log: Log
  metrics: Metrics
}

/** Instances between two of which other work of the cluster gets its turn. Smaller measures more slowly, larger delays the rest. */
const SLICE = 50
/** Violated instances for which another node is looked for in one pass. Smaller reacts later, larger takes longer at a time. */
const MOST_SEARCHES = 20
/** What was said about a violation is said again, with other numbers, no sooner than this. */
const SAY_MS = 30_000
/** The root is asked for another cluster no more often. Smaller asks in vain, larger leaves an instance where it must not be. */
const ASK_MS = 30_000
const NEVER = Number.NEGATIVE_INFINITY
/** Moves of an instance that are remembered. */
const MOST_MOVES = 8

interface Watched {
  node: NodeId
  groups: readonly Group[]
  histories: readonly History[]
  /** When it moved for its constraints, by the monotonic clock. */
  moves: readonly number[]
  saidAt: number
  /** When other clusters were asked for last. */
  askedAt: number
  /** Why they did not take it. */
  others?: string | undefined
}

/**
 * Measures how far running instances are from what they must be near, for as long as they run, and moves those that do not keep to it
 * (scheduling/compliance.ts says when); and those that do not fit their node any more (misfits.ts).
 */
export class ConstraintWatch {
  readonly #parts: ConstraintWatchParts
  readonly #watched = new Map<InstanceId, Watched>()
  readonly #groups = new WeakMap<ServiceSpec, readonly Group[]>()
  readonly #misfits: Misfits
  #isMeasuring = false

  constructor(parts: ConstraintWatchParts) {
    this.#parts = parts
    this.#misfits = new Misfits(parts)
  }

  /** One pass over all instances, in slices. Called every few seconds. */
  async measure(signal?: AbortSignal): Promise<void> {
    if (this.#isMeasuring) return
    this.#isMeasuring = true
    try {
      await this.#pass(signal)
    } finally {
      this.#isMeasuring = false
    }
  }

  async #pass(signal?: AbortSignal): Promise<void> {
    const { assignments, anchors, metrics } = this.#parts
    let [measured, violations] = [0, 0]
    const search = { left: MOST_SEARCHES }
    this.#misfits.begin()
    for (const watched of assignments.all()) {
      const { instance, spec: own } = watched.assignment
      const { spec } = anchors.requestFor(own, instance)
      const isConcerned = this.#groupsOf(spec).length > 0 || this.#misfits.concerns(instance, spec)
      if (!isConcerned && watched.violation === undefined) continue
      if (signal?.aborted === true) return
      if (++measured % SLICE === 0) await new Promise(setImmediate)
      await anchors.prepare(own, instance)
      const record = assignments.get(instance)
      if (record !== undefined && (await this.#check(record, search))) violations++
    }
    for (const id of this.#watched.keys()) if (assignments.get(id) === undefined) this.#watched.delete(id)
    metrics.constraintViolations.set(violations)
  }

  /** True when it is violated. */
  async #check(record: AssignmentRecord, search: { left: number }): Promise<boolean> {
    const { nodes, anchors, clock } = this.#parts
    const { instance, spec } = record.assignment
    const node = record.node === undefined ? undefined : nodes.alive(record.node)
    if (node === undefined || !record.wanted || record.state !== 'running') return false
    const now = clock.now()
    const request = anchors.requestFor(spec, instance)
    const watched = this.#watchedOf(record, { node: node.id, groups: this.#groupsOf(request.spec), now })
    const view = {
      facts: node.facts,
      condition: 'alive',
      free: node.facts.capacity,
      portsTaken: [],
      instances: 0,
    } as const
    const candidate = nodeCandidate({ ...view, perService: new Map() })
    const found = watched.groups.map((group) => measure(group, candidate, request))
    const histories = watched.groups.map((group, i) => {
      const history = watched.histories[i] as History
      const nearness = found[i]
      return nearness === undefined ? history : taken(history, { at: now, kept: nearness.kept }, group)
    })
    this.#watched.set(instance, { ...watched, histories })
    for (const [i, group] of watched.groups.entries()) {
      const judged = verdict(histories[i] as History, group, now)
      const nearness = found[i]
      if (judged.kind !== 'violated' || nearness === undefined) continue
      const what = violationText(nearness, judged, group)
      if (search.left-- > 0) await this.#remedy(record, { what, group, request })
      return true
    }
    const misfit = this.#misfits.whyOf(record)
    if (misfit !== undefined) {
      if (search.left-- > 0) await this.#remedy(record, { what: misfit, group: [], request })
      return true
    }
    this.#say(record, undefined)
    return false
  }

  /** Moves it to a node that keeps the constraint with something to spare; where that is not possible, says so. */
  async #remedy(
    { assignment, node }: AssignmentRecord,
    { what, group, request }: { what: string; group: Group; request: PlacementRequest },
  ): Promise<void> {
    const { candidates, move, assignments, rules } = this.#parts
    const { instance, spec } = assignment
    const refusedBy = new Set(node === undefined ? [] : [node])
    const others = candidates().filter(({ id }) => id !== node)
    const decision = schedule({ ...requestElsewhere(request, group), refusedBy }, others, rules)
    const record = assignments.get(instance)
    const watched = this.#watched.get(instance)
    if (record === undefined || watched === undefined || record.node !== node) return
    const left = whatStays(spec)
    if (left !== undefined)
      return this.#say(record, `${what}; it stays, since it would leave ${left} behind (hedgerow migrate moves it)`)
    if (decision.kind === 'unplaceable') {
      const { nearest } = decision
      const here = `${what}; ${nearest === undefined ? 'no other node here can take it' : nearestText(nearest)}`
      return this.#elsewhere(record, watched, { what, here, group })
    }
    const to = decision.candidate.id
    const waits = this.#whyItWaits(spec, watched, group)
    if (waits !== undefined) return this.#say(record, `${what}; ${waits}`)
    try {
      await move(instance, to, what)
      this.#moves(record, watched, { what, to })
    } catch (error) {
      this.#say(record, `${what}; ${to} does not take it: ${reasonOf(error)}`)
    }
  }

  /** No node here keeps it: perhaps one of another cluster does. The root is asked now and then. */
  async #elsewhere(
    record: AssignmentRecord,
    watched: Watched,
    { what, here, group }: { what: string; here: string; group: Group },
  ): Promise<void> {
    const { clock, moveAway } = this.#parts
    const { instance, spec } = record.assignment
    const both = ({ others }: Watched) => (others === undefined ? here : `${here}; other clusters: ${others}`)
    if (clock.now() - watched.askedAt < ASK_MS || this.#whyItWaits(spec, watched, group) !== undefined)
      return this.#say(record, both(watched))
    const asked = { ...watched, askedAt: clock.now() }
    this.#watched.set(instance, asked)
    try {
      const { cluster, node } = await moveAway(instance, what)
      this.#moves(record, asked, { what, to: node ?? cluster })
    } catch (error) {
      const told = { ...asked, others: isMeshError(error, 'UNPLACEABLE') ? reasonOf(error) : undefined }
      this.#watched.set(instance, told)
      this.#say(record, both(told))
    }
  }

  /** Damping, and one at a time. */
  #whyItWaits(spec: ServiceSpec, { moves }: Watched, group: Group): string | undefined {
    if (this.#isOneMoving(spec)) return 'another instance moves first'
    const waits = Math.ceil((mayMoveAt(moves, group) - this.#parts.clock.now()) / 1_000)
    return waits > 0 ? `it has moved lately and stays where it is for another ${waits} s` : undefined
  }

  #moves(record: AssignmentRecord, watched: Watched, { what, to }: { what: string; to: string }): void {
    const { log, clock, metrics, moved } = this.#parts
    const { instance } = record.assignment
    metrics.constraintMoves.inc()
    log.info('instance moves: constraint violated', { instance, node: to, from: record.node, reason: what })
    const moves = [...watched.moves, clock.now()].slice(-MOST_MOVES)
    this.#watched.set(instance, { ...watched, moves })
    const offset = clock.wall() - clock.now()
    moved(
      instance,
      moves.map((at) => Math.round(at + offset)),
    )
    this.#say(record, `${what}; it moves to ${to}`)
  }

  /** What people read changes when there is something new, not with every measurement. */
  #say({ assignment, violation, node }: AssignmentRecord, what: string | undefined): void {
    const { report, log, clock } = this.#parts
    const { instance } = assignment
    const watched = this.#watched.get(instance)
    if (watched === undefined || node === undefined || what === violation) return
    if (what !== undefined && violation !== undefined && clock.now() - watched.saidAt < SAY_MS) return
    if (violation === undefined) log.warn('constraint violated', { instance, node, reason: what })
    if (what === undefined) log.info('constraint kept again', { instance, node })
    this.#watched.set(instance, { ...watched, saidAt: clock.now() })
    report(instance, node, what?.slice(0, 500))
  }

  /** One at a time, so that a service with several instances never stops answering. */
  #isOneMoving(spec: ServiceSpec): boolean {
    const { assignments } = this.#parts
    for (const record of assignments.all()) if (record.assignment.spec.id === spec.id && isMoving(record)) return true
    return false
  }

  /** Begins anew where it has moved, or where its document or that of another says something else. */
  #watchedOf(
    { assignment, constraintMoves = [] }: AssignmentRecord,
    { node, groups, now }: { node: NodeId; groups: readonly Group[]; now: number },
  ): Watched {
    const known = this.#watched.get(assignment.instance)
    if (known?.node === node && JSON.stringify(known.groups) === JSON.stringify(groups)) return { ...known, groups }
    const histories = groups.map((): History => ({ since: now, samples: [] }))
    const offset = now - this.#parts.clock.wall()
    const moves = known?.moves ?? constraintMoves.map((at) => Math.min(at + offset, now)) // the clock may have been set back
    return { node, groups, histories, moves, saidAt: NEVER, askedAt: known?.askedAt ?? NEVER }
  }

  #groupsOf(spec: ServiceSpec): readonly Group[] {
    const known = this.#groups.get(spec)
    if (known !== undefined) return known
    const groups = groupsOf(spec.constraints)
    this.#groups.set(spec, groups)
    return groups
  }
}
