import type { Clock } from '../../core/kit/clock.ts'
import type { InstanceId } from '../../core/model/ids.ts'
import type { RequestBody, ResponseBody } from '../link/messages/protocol.ts'
import type { rootToCluster } from '../link/messages/cluster-root.ts'
import { nodeCandidate, type Candidate } from '../scheduling/candidate.ts'
import { whatIf } from '../scheduling/explain.ts'
import { KeptDecisions } from '../scheduling/kept-decisions.ts'
import type { PlacementRequest } from '../scheduling/placement-request.ts'
import type { Rules, schedule } from '../scheduling/schedule.ts'
import { nodeViews, viewWithout, type Assignments } from './assignments.ts'
import type { ClusterStore } from './cluster-store.ts'
import type { LatencyAnchors } from './latency-anchors.ts'
import type { Nodes } from './nodes.ts'

export interface ExplanationsParts {
  readonly store: ClusterStore
  readonly assignments: Assignments
  readonly nodes: Nodes
  readonly anchors: LatencyAnchors
  readonly rules: Rules
  readonly clock: Clock
}

/** Why instances are on their nodes, for people: the decisions that were made, and what would be decided now. */
export class Explanations {
  readonly #parts: ExplanationsParts
  readonly #kept: KeptDecisions

  constructor(parts: ExplanationsParts) {
    this.#parts = parts
    const { store, clock } = parts
    this.#kept = new KeptDecisions({
      saved: store.decisions,
      together: (work) => store.database.transaction(work),
      clock,
      isThere: (id) => store.assignments.get(id) !== undefined,
    })
  }

  /** The node has accepted what was decided. */
  keep(
    id: InstanceId,
    decision: ReturnType<typeof schedule> & { kind: 'placed' },
    made: { request: PlacementRequest; candidates: readonly Candidate[] },
  ): void {
    this.#kept.keep(id, decision, { ...made, rules: this.#parts.rules, at: this.#parts.clock.wall() })
  }

  /** It is no longer here. */
  forget(id: InstanceId): void {
    this.#kept.forget(id)
  }

  close(): void {
    this.#kept[Symbol.dispose]()
  }

  /** What was decided for the instance, where it still is there; else what would be decided, as if it were not there. */
  async judge({
    spec,
    instance,
    anew,
    most,
  }: RequestBody<typeof rootToCluster, 'placement.judge'>): Promise<
    ResponseBody<typeof rootToCluster, 'placement.judge'>
  > {
    const { anchors, assignments, rules } = this.#parts
    const kept = instance === undefined || anew ? undefined : this.#kept.get(instance)
    if (kept?.chosen !== undefined && kept.chosen === assignments.get(instance as InstanceId)?.node)
      return { ...kept, judged: kept.judged.slice(0, most) }
    await anchors.prepare(spec)
    return whatIf(anchors.requestFor(spec, instance), this.#candidates(instance), { most, rules })
  }

  #candidates(without: InstanceId | undefined): Candidate[] {
    const { nodes, assignments } = this.#parts
    const node = without === undefined ? undefined : assignments.get(without)?.node
    return nodeViews(nodes, assignments).map((view) => {
      const own = view.facts.id === node ? nodes.alive(node) : undefined
      return nodeCandidate(own === undefined ? view : viewWithout(own, without as InstanceId, assignments))
    })
  }
}
