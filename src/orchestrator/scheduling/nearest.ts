import type { Candidate } from './candidate.ts'
import { distance, FILTERS, type Filter } from './filters.ts'
import { excessOf, failed, nearness, valueText } from './nearness.ts'
import type { PlacementRequest } from './placement-request.ts'

/** The candidate that could take an instance if it need not be so near. */
export interface Nearest {
  id: string
  /** `34 ms from shop.acme.db instead of 20`. */
  what: string
  /** How far beyond what is allowed: 1 is exactly at the threshold. */
  excess: number
}

/** Of those that only their distance excludes, the one that is least too far. */
export function nearestThatCan(
  request: PlacementRequest,
  candidates: Iterable<Candidate>,
  filters: readonly Filter[] = FILTERS,
): Nearest | undefined {
  let best: Nearest | undefined
  for (const candidate of candidates) {
    const found = failed(request.spec.constraints.flatMap((each) => nearness(each, candidate, request) ?? []))
    if (found?.value === undefined) continue // not measured: nothing to say about it
    const excess = excessOf(found)
    if (best !== undefined && (excess > best.excess || (excess === best.excess && candidate.id > best.id))) continue
    if (filters.some((filter) => filter !== distance && filter(request, candidate) !== undefined)) continue
    best = { id: candidate.id, what: `${valueText(found)} instead of ${found.constraint.threshold}`, excess }
  }
  return best
}

export function nearestText({ id, what }: Pick<Nearest, 'id' | 'what'>): string {
  return `nearest that can: ${id}, ${what}`
}
