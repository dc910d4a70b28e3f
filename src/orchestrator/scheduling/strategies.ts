import type { Strategy } from '../spec.ts'
import type { Candidate } from './candidate.ts'
import { DIMENSIONS } from './capacity.ts'
import { distanceKm, nearestMs } from './distance.ts'
import type { PlacementRequest } from './placement-request.ts'

export interface Scorer {
  /** Compared number by number; larger is better. */
  score(request: PlacementRequest, candidate: Candidate): readonly number[]
  /** What each number of the score means, for `hedgerow explain`. */
  terms?: readonly string[]
  /** Why the chosen candidate was best, for people. */
  why(request: PlacementRequest, candidate: Candidate): string
}

/** Fewest instances of the same service, then fewest instances per node, so that instances do not fail together. */
const spread: Scorer = {
  terms: ['−instances of the service', '−instances per node', 'free share'],
  score: (request, candidate) => [-siblings(request, candidate), -load(candidate), share(candidate)],
  why: (request, candidate) =>
    `${siblings(request, candidate)} instances of the service there, ${round(load(candidate))} instances per node`,
}

/** The fullest that still fits, which leaves large gaps for large instances; then fewest instances of the same service. */
const bestFit: Scorer = {
  terms: ['−free share', '−instances of the service', '−instances per node'],
  score: (request, candidate) => [-share(candidate), -siblings(request, candidate), -load(candidate)],
  why: (_, candidate) => `${round(share(candidate) * 100)} % of it is free`,
}

/** The nearest to what the constraints name, by latency, then by distance; then fewest instances of the same service. */
const latencyAndLocation: Scorer = {
  terms: ['−ms', '−km', '−instances of the service', '−instances per node', 'free share'],
  score: (request, candidate) => [
    -Math.round(latencyMs(request, candidate) ?? FAR_MS),
    -Math.round(awayKm(request, candidate) ?? FAR_KM),
    -siblings(request, candidate),
    -load(candidate),
    share(candidate),
  ],
  why: (request, candidate) => {
    const [ms, km] = [latencyMs(request, candidate), awayKm(request, candidate)]
    const parts = [...(ms === undefined ? [] : [`${round(ms)} ms`]), ...(km === undefined ? [] : [`${round(km)} km`])]
    return parts.length === 0 ? 'its distance is not known' : `${parts.join(', ')} away from what it must be near`
  },
}

/** A new strategy is one pair of functions and one line here. */
export const STRATEGIES: Readonly<Record<Strategy, Scorer>> = {
  spread,
  'best-fit': bestFit,
  'latency-and-location': latencyAndLocation,
}

/** Used where the distance is not known. */
const FAR_MS = 100_000
const FAR_KM = 100_000

/** To the farthest of the services; of several places only the nearest counts. */
function latencyMs({ spec, near }: PlacementRequest, candidate: Candidate): number | undefined {
  const asked = spec.constraints.filter(({ type, area }) => type === 'latency' && area === undefined)
  const to = (constraint: (typeof asked)[number]) => nearestMs(candidate, near?.(constraint) ?? []) ?? []
  const places = asked.filter(({ service }) => service === undefined).flatMap(to)
  const services = asked.filter(({ service }) => service !== undefined).flatMap(to)
  const all = [...services, ...(places.length === 0 ? [] : [Math.min(...places)])]
  return all.length === 0 ? undefined : Math.max(...all)
}

function awayKm({ spec }: PlacementRequest, { locations }: Candidate): number | undefined {
  const asked = spec.constraints.flatMap(({ type, location }) => (type === 'geo' && location ? [location] : []))
  const all = asked.flatMap((place) => locations.map((location) => distanceKm(location, place)))
  return all.length === 0 ? undefined : Math.min(...all)
}

function siblings({ spec }: PlacementRequest, { perService }: Candidate): number {
  return perService.get(spec.id) ?? 0
}

function load({ instances, nodes }: Candidate): number {
  return instances / nodes
}

/** The free share of its capacity, 0 to 1, averaged over the dimensions it has. */
function share({ total, free }: Candidate): number {
  let sum = 0
  let count = 0
  for (const dimension of DIMENSIONS) {
    if (total[dimension] <= 0) continue
    sum += free[dimension] / total[dimension]
    count += 1
  }
  return count === 0 ? 1 : sum / count
}

function round(value: number): number {
  return Math.round(value * 10) / 10
}
