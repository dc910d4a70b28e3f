import type { Constraint } from '../spec.ts'
import type { Candidate } from './candidate.ts'
import { nearestMs, type Anchor } from './distance.ts'
import type { DecisionFacts, PlacementRequest } from './placement-request.ts'
import { nodesWithRoom, roomNear, stillToCome } from './room.ts'
import { countsIn, fewestIn } from './topology.ts'

export type Open = (asked: PlacementRequest) => Iterable<Candidate>

/**
 * The request with what its filters and scores look up again and again, each computed once and only when it is asked for: 10,000
 * candidates and 256 anchors are 2.5 million distances, of which none is needed twice.
 *
 * `all`: every candidate; `open`: those that could take an instance at all, between which it is spread.
 */
export function prepared(
  request: PlacementRequest,
  { all, open }: { all: readonly Candidate[]; open: Open },
): PlacementRequest {
  const { near } = request
  const anchors = new Map<Constraint, readonly Anchor[]>()
  const distances = new Map<Constraint, Map<Candidate, number | undefined>>()
  const counts = new Map<Constraint, ReadonlyMap<string, number>>()
  const fewest = new Map<Constraint, number>()
  const anchorsOf = (constraint: Constraint) => once(anchors, constraint, () => near?.(constraint) ?? [])
  let toCome: { wishes: readonly Constraint[]; withRoom: readonly Candidate[] } | undefined
  const decision: DecisionFacts = {
    msTo(constraint, candidate) {
      const known = once(distances, constraint, () => new Map<Candidate, number | undefined>())
      if (known.has(candidate)) return known.get(candidate)
      const ms = nearestMs(candidate, anchorsOf(constraint))
      known.set(candidate, ms)
      return ms
    },
    counts: (constraint) => once(counts, constraint, () => countsIn(constraint, request)),
    fewest: (constraint) =>
      once(fewest, constraint, () => {
        let least = Infinity
        for (const candidate of open(asked)) least = Math.min(least, fewestIn(constraint, candidate, asked) ?? Infinity)
        return least
      }),
    room(candidate) {
      if (toCome === undefined) {
        const wishes = stillToCome(asked)
        toCome = { wishes, withRoom: wishes.length === 0 ? [] : nodesWithRoom(asked, all) }
      }
      const { wishes, withRoom } = toCome
      return wishes.map((wish) => roomNear(wish, candidate, { spec: asked.spec, withRoom }))
    },
  }
  const asked: PlacementRequest = { ...request, ...(near === undefined ? {} : { near: anchorsOf }), decision }
  return asked
}

/** Milliseconds to the nearest of what the constraint names, also outside a decision. */
export function msTo(constraint: Constraint, candidate: Candidate, request: PlacementRequest): number | undefined {
  const { decision, near } = request
  return decision === undefined ? nearestMs(candidate, near?.(constraint) ?? []) : decision.msTo(constraint, candidate)
}

function once<K, V>(known: Map<K, V>, key: K, compute: () => V): V {
  const found = known.get(key)
  if (found !== undefined) return found
  const value = compute()
  known.set(key, value)
  return value
}
