import type { Log } from '../../core/kit/log.ts'
import type { Metrics } from '../../core/metrics.ts'
import type { InstanceId, NodeId } from '../../core/model/ids.ts'
import type { ResponseBody } from '../link/messages/protocol.ts'
import type { rootToCluster } from '../link/messages/cluster-root.ts'
import { nodeCandidate, type Candidate } from '../scheduling/candidate.ts'
import { REFUSED_ALREADY } from '../scheduling/filters.ts'
import { nearestText, nearestThatCan } from '../scheduling/nearest.ts'
import { withMore, type PlacementRequest } from '../scheduling/placement-request.ts'
import { prepare, reasonsText, refusal, schedule, type Decision, type Rules } from '../scheduling/schedule.ts'
import type { Assignment, MoveCause, ServiceSpec } from '../spec.ts'
import { nodeViews, viewWithout, withOneMore, type AssignmentRecord, type Assignments } from './assignments.ts'
import type { Explanations } from './explanations.ts'
import type { Dispatch } from './dispatch.ts'
import { placedOn, type LatencyAnchors } from './latency-anchors.ts'
import type { LinkedNode, Nodes } from './nodes.ts'
import type { RootLink } from './root-link.ts'

export interface PlacementParts {
  readonly assignments: Assignments
  readonly nodes: Nodes
  readonly anchors: LatencyAnchors
  readonly dispatch: Dispatch
  readonly explanations: Explanations
  readonly rules: Rules
  readonly root: Pick<RootLink, 'record' | 'reportChanged'>
  readonly log: Log
  readonly metrics: Metrics
}

export interface PlaceOptions {
  refusedBy?: ReadonlySet<NodeId>
  only?: NodeId | undefined
  /** Who wants it there, and why. */
  cause?: MoveCause | undefined
}

/** `keep`: for `hedgerow explain`, once the node has accepted. */
export type Choice =
  | { kind: 'node'; node: LinkedNode; keep: (id: InstanceId) => void }
  | { kind: 'nowhere'; reason: string }

export type Explained = ResponseBody<typeof rootToCluster, 'placement.explain'>

/** Finds the node for an instance: `schedule` decides, and the node has the last word. One call at a time, as they count on free capacity. */
export class Placement {
  readonly #parts: PlacementParts
  #isClosed = false

  constructor(parts: PlacementParts) {
    this.#parts = parts
  }

  /** How many of the nodes here would not take an instance of the service, for which reason. */
  async explain(spec: ServiceSpec): Promise<Explained> {
    const { assignments, nodes, anchors } = this.#parts
    await anchors.prepare(spec)
    const candidates = nodeViews(nodes, assignments).map(nodeCandidate).map(reliedOn)
    const request = prepare(anchors.requestFor(spec), candidates)
    const counts = new Map<string, number>()
    for (const candidate of candidates) {
      const reason = refusal(request, candidate)
      if (reason !== undefined) counts.set(reason, (counts.get(reason) ?? 0) + 1)
    }
    const isNowhere = candidates.every((candidate) => refusal(request, candidate) !== undefined)
    const nearest = isNowhere ? nearestThatCan(request, candidates) : undefined
    const reasons = [...counts].map(([reason, of]) => ({ reason: reason.slice(0, 500), nodes: of }))
    return { nodes: candidates.length, reasons: reasons.slice(0, 1_000), ...(nearest === undefined ? {} : { nearest }) }
  }

  /** Asks the nodes, or `only` this one, in the order that `schedule` gives. Returns `undefined` when one has accepted, else why none did. */
  async place(
    id: InstanceId,
    { refusedBy: alreadyRefused = new Set(), only, cause }: PlaceOptions = {},
  ): Promise<string | undefined> {
    const { assignments, nodes, metrics, log, anchors, dispatch, explanations, rules, root } = this.#parts
    const asked = assignments.get(id)
    // without constraints nothing is waited for, so that the decision is one step with what came before
    if (asked !== undefined && dependsOnOthers(anchors.requestFor(asked.assignment.spec, id).spec))
      await anchors.prepare(asked.assignment.spec, id)
    const refusals = new Map<NodeId, string>([...alreadyRefused].map((node) => [node, REFUSED_ALREADY]))
    for (;;) {
      const record = assignments.get(id)
      if (record === undefined || !record.wanted || this.#isClosed) return undefined
      const end = metrics.placementSeconds.startTimer()
      const { spec } = record.assignment
      const request = { ...anchors.requestFor(spec, id), refusedBy: new Set(refusals.keys()) }
      const candidates = nodeViews(nodes, assignments)
        .map(nodeCandidate)
        .filter((each) => only === undefined || each.id === only)
      const decision = decide(request, candidates, rules)
      end()
      if (decision.kind === 'unplaceable') {
        metrics.placements.labels('unplaceable').inc()
        const whys = [...refusals].filter(([node]) => !alreadyRefused.has(node)).map(([node, why]) => `${node}: ${why}`)
        if (whys.length > 0) return whys.join('; ').slice(0, 1_900)
        const { reasons, nearest } = decision
        const text = reasonsText(reasons, { nodes: candidates.length, none: noneOf(only) })
        return nearest === undefined ? text : `${text}; ${nearestText(nearest)}`
      }
      const node = nodes.alive(decision.candidate.id)
      if (node === undefined) continue
      dispatch.change(id, {
        node: node.id,
        state: 'placed',
        detail: undefined,
        retryAt: undefined,
        noOtherNode: undefined,
        cause,
        movesTo: undefined,
      })
      assignments.asking.add(id)
      const refusal = await dispatch.assign(node, assignments.get(id) as AssignmentRecord)
      assignments.asking.delete(id)
      metrics.placements.labels(refusal === undefined ? 'placed' : 'refused').inc()
      if (refusal === undefined) {
        explanations.keep(id, decision, { request, candidates })
        log.info('instance placed', { instance: id, node: node.id, reason: decision.why })
        const placed = assignments.get(id)
        if (placed !== undefined) root.reportChanged(placed)
        if (placed?.wanted === false) dispatch.askToEnd(node, id) // withdrawn while it was being placed
        return undefined
      }
      refusals.set(node.id, refusal)
      const now = assignments.get(id)
      if (now?.wanted === false) dispatch.end(now)
      else if (now?.node === node.id) dispatch.change(id, { node: undefined, state: 'requested' })
      root.record({ what: 'refused', instance: id, node: node.id, why: refusal })
    }
  }

  /** Where so many more instances would go, one after the other, and why no more of them. */
  async preview(spec: ServiceSpec, instances: number): Promise<{ nodes: NodeId[]; reason?: string }> {
    const { assignments, nodes, anchors, rules } = this.#parts
    await anchors.prepare(spec)
    const views = new Map(nodeViews(nodes, assignments).map((view) => [view.facts.id, view]))
    const chosen: NodeId[] = []
    const areas = (id: NodeId) => views.get(id)?.facts.area
    const request = withMore(anchors.requestFor(spec), () => chosen.map((id) => placedOn(id, areas(id))))
    while (chosen.length < instances) {
      const decision = decide(request, [...views.values()].map(nodeCandidate), rules)
      if (decision.kind === 'unplaceable') {
        const reason = reasonsText(decision.reasons, { nodes: views.size, none: 'no node is connected' })
        return { nodes: chosen, reason: reason.slice(0, 1_900) }
      }
      const { id } = decision.candidate
      const view = views.get(id)
      if (view !== undefined) views.set(id, withOneMore(view, spec))
      chosen.push(id)
    }
    return { nodes: chosen }
  }

  /** A node for one more run of the service that has not refused it, `only` this one if given. */
  async choose({ spec, instance }: Assignment, refusals: ReadonlyMap<NodeId, string>, only?: NodeId): Promise<Choice> {
    const { assignments, nodes, anchors, explanations, rules } = this.#parts
    await anchors.prepare(spec, instance)
    const views = nodeViews(nodes, assignments)
    const candidates = views.map(nodeCandidate).filter(({ id }) => only === undefined || id === only)
    const request = { ...anchors.requestFor(spec, instance), refusedBy: new Set(refusals.keys()) }
    const decision = decide(request, candidates, rules)
    const node = decision.kind === 'placed' ? nodes.alive(decision.candidate.id) : undefined
    if (decision.kind === 'placed' && node !== undefined)
      return { kind: 'node', node, keep: (id) => explanations.keep(id, decision, { request, candidates }) }
    const told = [...refusals].filter(([, why]) => why !== REFUSED_ALREADY)
    if (told.length > 0) {
      const whys = told.map(([refuser, why]) => `${refuser}: ${why}`)
      return { kind: 'nowhere', reason: whys.join('; ').slice(0, 1_900) }
    }
    if (decision.kind === 'placed') return { kind: 'nowhere', reason: 'its node has just gone' }
    return {
      kind: 'nowhere',
      reason: reasonsText(decision.reasons, { nodes: candidates.length, none: noneOf(only) }),
    }
  }

  /** Why the instance would not be placed on the node that it is on, as its document is now. */
  async unsuited(node: LinkedNode, { spec, instance }: Assignment): Promise<string | undefined> {
    const { anchors, assignments, rules } = this.#parts
    await anchors.prepare(spec, instance)
    const view = viewWithout(node, instance, assignments)
    return refusal(anchors.requestFor(spec, instance), nodeCandidate(view), rules.filters)
  }

  /** No other node is asked from now on. */
  close(): void {
    this.#isClosed = true
  }
}

function dependsOnOthers({ constraints, prefersNear }: ServiceSpec): boolean {
  return constraints.length > 0 || prefersNear !== undefined
}

function noneOf(only: NodeId | undefined): string {
  return only === undefined ? 'no node is connected' : `${only} is not connected`
}

/** A node that goes and comes back is asked only where no other takes the instance: better there than nowhere. */
function decide(request: PlacementRequest, candidates: readonly Candidate[], rules: Rules): Decision {
  const decision = schedule(request, candidates, rules)
  const isLastResort = decision.kind === 'unplaceable' && candidates.some(({ condition }) => condition === 'flapping')
  return isLastResort ? schedule(request, candidates.map(reliedOn), rules) : decision
}

function reliedOn(candidate: Candidate): Candidate {
  return candidate.condition === 'flapping' ? { ...candidate, condition: 'alive' } : candidate
}
