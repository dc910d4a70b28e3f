import type { NodeId } from '../../core/model/ids.ts'
import type { Constraint, ServiceSpec } from '../spec.ts'
import type { Candidate } from './candidate.ts'
import type { Anchor } from './distance.ts'

/** One instance that needs a place. */
export interface PlacementRequest {
  spec: ServiceSpec
  /** Ids of candidates that were asked for this instance and refused it. */
  refusedBy?: ReadonlySet<string>
  /** Whether who owns the cluster lets this be placed there; absent where every cluster does. */
  admitted?: (cluster: string) => boolean
  /** The nodes to which a latency constraint is measured; absent where nothing is known of them. */
  near?: (constraint: Constraint) => readonly Anchor[]
  /** Where the other instances of a service are; absent where that is not known. A service id or an interest key. */
  placed?: (service: string) => readonly Placed[]
  /** Computed once for each decision; `schedule` does it. */
  decision?: DecisionFacts
}

/** An instance that has a place, or is being given one. */
export interface Placed {
  node?: NodeId
  cluster: string
  area?: string
}

/** What filters and scores look up for each candidate again and again. */
export interface DecisionFacts {
  /** Milliseconds to the nearest of what the constraint names. */
  msTo(constraint: Constraint, candidate: Candidate): number | undefined
  /** How many instances of the service there are in each node, area or cluster. */
  counts(constraint: Constraint): ReadonlyMap<string, number>
  /** How many instances of the service the emptiest of all domains has that could take one. */
  fewest(constraint: Constraint): number
  /** For how many of its size there is room near the candidate, for each service that is still to come near it. */
  room(candidate: Candidate): readonly number[]
}

/** The request as if further instances of the service were there. */
export function withMore(request: PlacementRequest, more: () => readonly Placed[]): PlacementRequest {
  const { spec, placed } = request
  const isOwn = (service: string) => spec.id === service || spec.id.startsWith(`${service}.`)
  return { ...request, placed: (service) => [...(placed?.(service) ?? []), ...(isOwn(service) ? more() : [])] }
}
