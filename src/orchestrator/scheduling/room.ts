import { distanceMs } from '../../core/model/coordinate.ts'
import type { Constraint } from '../spec.ts'
import type { Candidate } from './candidate.ts'
import { demandOf, DIMENSIONS, reserve, shortage } from './capacity.ts'
import type { PlacementRequest } from './placement-request.ts'

/*
 * Room for who comes later. The first instance of a service decides for those that must be near it: the nearest node, if it is the last with room
 * there, leaves them without a place. What they need is not known yet, so it is taken to be as much as the instance itself needs:
 *
 *     web ≤ 10 ms from db, db is placed first:      n1  room for 1 ── 3 ms ── n2 (full)          ▶ then web has no place
 *                                                   n3  room for 2 ── 4 ms ── n4  room for 1     ▶ chosen: 1 + 1 are left
 */

/** More room makes no difference. Larger leaves more for later and takes places that are farther away; with 2, a tenth less of the gain. */
const ENOUGH = 4
/** With more nodes that have room, no search for it is worth its time: there is some near each of them, mostly. Larger costs more for each decision. */
const FEW = 64

/** Who must be near an instance of this service and has none yet; nobody if the service has one already, as the nearest counts. */
export function stillToCome({ spec, near, placed }: PlacementRequest): Constraint[] {
  const wishes = [
    ...(spec.prefersNear ?? []),
    ...spec.constraints.filter(({ type, service }) => type === 'latency' && service !== undefined),
  ]
  if (wishes.length === 0 || (placed?.(spec.id) ?? []).length > 0) return []
  return wishes.filter((wish) => wish.service !== spec.id && (near?.(wish) ?? []).length === 0)
}

/** Nodes with room for one that is as large; none where that is not scarce, and of clusters. */
export function nodesWithRoom({ spec }: PlacementRequest, candidates: readonly Candidate[]): readonly Candidate[] {
  const demand = demandOf(spec)
  const found = candidates.filter(
    ({ node, condition, free }) => node !== undefined && condition === 'alive' && shortage(demand, free) === undefined,
  )
  return found.length <= FEW ? found : []
}

/** For how many more of its size there is room within the threshold, once it is there; `ENOUGH` at most. */
export function roomNear(
  { threshold = Infinity }: Constraint,
  candidate: Candidate,
  { spec, withRoom }: Pick<PlacementRequest, 'spec'> & { withRoom: readonly Candidate[] },
): number {
  const demand = demandOf(spec)
  let room = 0
  for (const other of withRoom) {
    const isHere = other.id === candidate.id
    if (!isHere && !isWithin(threshold, candidate, other)) continue
    let free = isHere ? reserve(other.free, demand) : other.free
    for (; shortage(demand, free) === undefined; free = reserve(free, demand)) {
      room += 1
      if (room === ENOUGH || DIMENSIONS.every((dimension) => (demand[dimension] ?? 0) === 0)) break
    }
    if (room === ENOUGH) break
  }
  return room
}

function isWithin(ms: number, { coordinate }: Candidate, other: Candidate): boolean {
  return coordinate !== undefined && other.coordinate !== undefined && distanceMs(coordinate, other.coordinate) <= ms
}
