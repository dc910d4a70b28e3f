import type { Constraint, NearWish } from '../spec.ts'
import type { Candidate } from './candidate.ts'
import { demandOf, DIMENSIONS } from './capacity.ts'
import { msTo } from './decision.ts'
import { nearestKm } from './distance.ts'
import type { PlacementRequest } from './placement-request.ts'
import { stillToCome } from './room.ts'
import { fewestIn } from './topology.ts'

export interface Scorer {
  /** Compared number by number; larger is better. */
  score(request: PlacementRequest, candidate: Candidate): readonly number[]
  /** What each number of the score means, for `hedgerow explain`. */
  terms?: readonly string[]
  /** Why the chosen candidate was best, for people. */
  why(request: PlacementRequest, candidate: Candidate): string
}

export type Strategies = Readonly<Partial<Record<string, Scorer>>>

/**
 * What counts before every strategy: `spread` constraints without `max_skew`, the emptiest first; then to be near those who must be near it;
 * then to leave room for those of them that are still to come.
 */
export function preferences(request: PlacementRequest, candidate: Candidate): number[] {
  const { spec } = request
  const spread = spec.constraints
    .filter(isPreference)
    .map((each) => -Math.min(fewestIn(each, candidate, request) ?? 0, MOST_INSTANCES))
  const near = (spec.prefersNear ?? []).map((wish) => -beyondMs(wish, candidate, request))
  return [...spread, ...near, ...(request.decision?.room(candidate) ?? [])]
}

/** What each of them means. */
export function preferenceTerms(request: PlacementRequest): string[] {
  const { spec } = request
  return [
    ...spec.constraints.filter(isPreference).map(({ over = 'node' }) => `−instances in the ${over}`),
    ...(spec.prefersNear ?? []).map(({ service, threshold }) => `−ms beyond ${threshold} from ${service}`),
    ...stillToCome(request).map(({ service }) => `room near it for ${service}`),
  ]
}

function isPreference({ type, maxSkew }: Constraint): boolean {
  return type === 'spread' && maxSkew === undefined
}

/** 0 within the threshold, and while there is no instance to be near to. */
function beyondMs(wish: NearWish, candidate: Candidate, request: PlacementRequest): number {
  if ((request.near?.(wish) ?? []).length === 0) return 0
  const ms = msTo(wish, candidate, request)
  return ms === undefined ? FAR_MS : Math.max(0, Math.round(ms - wish.threshold))
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

/**
 * The nearest to what the constraints name, by latency, then by distance; then fewest instances of the same service. The LDP of
 * Oakestra (Bartolomeo et al., USENIX ATC 2023) has the same filters and takes any node that passes them.
 */
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

/** Where the part of the node that the instance takes costs least; those that do not say what they cost come last. */
const cheapest: Scorer = {
  terms: ['−price of its part', '−price of the node', '−instances of the service', '−free share'],
  score: (request, candidate) => [
    -(priceOf(request, candidate) ?? DEAR),
    -(candidate.costPerHour ?? DEAR),
    -siblings(request, candidate),
    -share(candidate),
  ],
  why: (request, candidate) => {
    const price = priceOf(request, candidate)
    return price === undefined
      ? 'what it costs is not known'
      : `${Number(price.toPrecision(3))} an hour for its part of the node`
  },
}

/** A new strategy is one pair of functions and one line here, or a module that the configuration names. */
export const STRATEGIES = {
  spread,
  'best-fit': bestFit,
  'latency-and-location': latencyAndLocation,
  cheapest,
} satisfies Strategies

/** Used where the distance or the cost is not known. */
const FAR_MS = 100_000
const FAR_KM = 100_000
const DEAR = 1e15
const MOST_INSTANCES = 1e6

/** To the farthest of the services; of several places only the nearest counts. */
function latencyMs(request: PlacementRequest, candidate: Candidate): number | undefined {
  const { spec } = request
  let farthest: number | undefined
  let place: number | undefined
  for (const constraint of spec.constraints) {
    if (constraint.type !== 'latency' || constraint.area !== undefined) continue
    const ms = msTo(constraint, candidate, request)
    if (ms === undefined) continue
    if (constraint.service === undefined) place = Math.min(place ?? Infinity, ms)
    else farthest = Math.max(farthest ?? 0, ms)
  }
  if (place === undefined) return farthest
  return Math.max(farthest ?? 0, place)
}

function awayKm({ spec }: PlacementRequest, candidate: Candidate): number | undefined {
  let nearest: number | undefined
  for (const { type, location } of spec.constraints) {
    // the root cannot measure the latency to a place, and takes the cluster that is nearest to it
    const isMeant = type === 'geo' || (type === 'latency' && candidate.node === undefined)
    const km = isMeant && location !== undefined ? nearestKm(candidate, location) : undefined
    if (km !== undefined && (nearest === undefined || km < nearest)) nearest = km
  }
  return nearest
}

/** The cost of the share that the instance takes of an average node there, by what it takes most of. */
function priceOf({ spec }: PlacementRequest, { costPerHour, total, nodes }: Candidate): number | undefined {
  if (costPerHour === undefined) return undefined
  const demand = demandOf(spec)
  let part = 0
  for (const dimension of DIMENSIONS) {
    const whole = (total[dimension] ?? 0) / Math.max(nodes, 1)
    if (whole > 0) part = Math.max(part, (demand[dimension] ?? 0) / whole)
  }
  return costPerHour * part
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
    const whole = total[dimension] ?? 0
    if (whole <= 0) continue
    sum += (free[dimension] ?? 0) / whole
    count += 1
  }
  return count === 0 ? 1 : sum / count
}

function round(value: number): number {
  return Math.round(value * 10) / 10
}
