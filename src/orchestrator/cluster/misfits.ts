import type { InstanceId } from '../../core/model/ids.ts'
import { nodeCandidate } from '../scheduling/candidate.ts'
import { constraints as kept } from '../scheduling/filters.ts'
import { shortOfCapacity } from '../scheduling/short-of-capacity.ts'
import type { Constraint, ServiceSpec } from '../spec.ts'
import { viewWithout, type AssignmentRecord, type Assignments } from './assignments.ts'
import type { LatencyAnchors } from './latency-anchors.ts'
import type { Nodes } from './nodes.ts'

export interface MisfitsParts {
  readonly assignments: Pick<Assignments, 'on' | 'startingOn' | 'named'>
  readonly nodes: Pick<Nodes, 'alive' | 'all'>
  readonly anchors: Pick<LatencyAnchors, 'requestFor'>
}

/** What may come to be wrong while an instance runs. `latency`, `geo` and areas are measured (scheduling/compliance.ts); for `spread` nothing moves. */
const WATCHED: ReadonlySet<Constraint['type']> = new Set(['direct', 'addons', 'labels', 'anti-affinity'])

/**
 * Running instances that their node would not get any more: it has other labels than when they were placed, is in another area with one that
 * they avoid, or has less room than they reserve. What is so in one pass only counts for nothing.
 */
export class Misfits {
  readonly #parts: MisfitsParts
  #short: ReadonlyMap<InstanceId, string> = new Map()
  #before: ReadonlySet<InstanceId> = new Set()
  #found = new Set<InstanceId>()

  constructor(parts: MisfitsParts) {
    this.#parts = parts
  }

  /** A pass over all instances begins. */
  begin(): void {
    this.#before = this.#found
    this.#found = new Set()
    this.#short = this.#shortOnes()
  }

  /** Whether there is anything to ask about it. `spec`: with what services of other documents ask of it. */
  concerns(instance: InstanceId, spec: ServiceSpec): boolean {
    return this.#short.has(instance) || spec.constraints.some(({ type }) => WATCHED.has(type))
  }

  /** Why it should be elsewhere. */
  whyOf(record: AssignmentRecord): string | undefined {
    const { instance } = record.assignment
    const why = this.#short.get(instance) ?? this.#unfit(record)
    if (why === undefined) return undefined
    this.#found.add(instance)
    return this.#before.has(instance) ? why : undefined
  }

  #shortOnes(): Map<InstanceId, string> {
    const { assignments, nodes } = this.#parts
    const found = new Map<InstanceId, string>()
    for (const { id, facts } of nodes.all()) {
      const here = assignments.on(id).filter(isStanding)
      const runs = here.map(({ assignment: { instance, spec } }) => ({ id: instance, spec }))
      for (const [instance, why] of shortOfCapacity(facts.capacity, runs)) found.set(instance, why)
    }
    return found
  }

  #unfit(record: AssignmentRecord): string | undefined {
    const { assignments, nodes, anchors } = this.#parts
    const { instance, spec } = record.assignment
    const node = record.node === undefined ? undefined : nodes.alive(record.node)
    if (node === undefined || !isStanding(record)) return undefined
    const request = anchors.requestFor(spec, instance)
    const watched = request.spec.constraints.filter(({ type }) => WATCHED.has(type))
    if (watched.length === 0) return undefined
    const candidate = nodeCandidate(viewWithout(node, instance, assignments))
    const reason = kept({ ...request, spec: { ...request.spec, constraints: watched } }, candidate)
    return reason === undefined || this.#otherMoves(spec, watched)
      ? undefined
      : `its node does not fit any more: ${reason}`
  }

  /** One that it must stay away from is on its way: then it need not go. */
  #otherMoves({ id }: ServiceSpec, watched: readonly Constraint[]): boolean {
    return watched.some(
      ({ type, service = id }) => type === 'anti-affinity' && this.#parts.assignments.named(service).some(isMoving),
    )
  }
}

export function isMoving({ state, successor, movesTo }: AssignmentRecord): boolean {
  return successor !== undefined || movesTo !== undefined || state === 'placed' || state === 'starting'
}

function isStanding(record: AssignmentRecord): boolean {
  return record.wanted && record.state === 'running' && !isMoving(record)
}
