import type { Constraint } from '../spec.ts'
import type { Candidate } from './candidate.ts'
import { msTo } from './decision.ts'
import { nearestKm } from './distance.ts'
import type { PlacementRequest } from './placement-request.ts'

/*
 * `latency` and `geo`: how far a candidate may be from areas, places and services, and how far it is.
 *
 * Of several areas or places one is enough: nothing is within 5 km of both Berlin and Munich, so a list of places means "near one
 * of them". Services are no such places: the instance must be near each of them.
 */

/** What one constraint says about a candidate. */
export interface Nearness {
  constraint: Constraint
  kept: boolean
  /** Why not, in words that are counted. */
  reason?: string
  /** ms or km; absent where nothing can be measured. */
  value?: number
}

/** Why the candidate is too far from what the service must be near; `undefined` when it is not. */
export function tooFar(request: PlacementRequest, candidate: Candidate): string | undefined {
  return failed(request.spec.constraints.flatMap((each) => nearness(each, candidate, request) ?? []))?.reason
}

/** The one that counts against the candidate; `undefined` when all that must hold hold. */
export function failed(all: readonly Nearness[]): Nearness | undefined {
  const services = all.find(({ constraint, kept }) => !kept && constraint.service !== undefined)
  if (services !== undefined) return services
  for (const type of ['latency', 'geo'] as const) {
    const places = all.filter(({ constraint }) => constraint.type === type && constraint.service === undefined)
    if (places.length > 0 && places.every(({ kept }) => !kept)) return closest(places)
  }
  return undefined
}

/** `undefined` for other kinds of constraints, and where this tier knows too little: the cluster judges for the root. */
export function nearness(
  constraint: Constraint,
  candidate: Candidate,
  request: PlacementRequest,
): Nearness | undefined {
  if (constraint.type === 'geo') return geo(constraint, candidate)
  if (constraint.type !== 'latency') return undefined
  const { area } = constraint
  if (area === undefined) return latency(constraint, candidate, request)
  const kept = candidate.areas.includes(area)
  return { constraint, kept, ...(kept ? {} : { reason: 'other area' }) }
}

/** How far the value is beyond what is allowed: 1 exactly at the threshold. `Infinity` where it cannot be measured. */
export function excessOf({ constraint: { threshold = Infinity }, value }: Nearness): number {
  if (value === undefined) return Infinity
  return value / Math.max(threshold, Number.MIN_VALUE)
}

/** `34 ms from shop.acme.db`. */
export function valueText({ constraint, value }: Nearness): string {
  const unit = constraint.type === 'geo' ? 'km' : 'ms'
  const shown = value === undefined ? `unknown ${unit}` : `${Number(value.toPrecision(3))} ${unit}`
  return `${shown} from ${targetOf(constraint)}`
}

export function targetOf({ service, location }: Constraint): string {
  if (service !== undefined) return service
  return location === undefined ? 'what it must be near' : `${location.lat},${location.lon}`
}

function geo(constraint: Constraint, candidate: Candidate): Nearness {
  const { location, threshold = Infinity } = constraint
  const value = location === undefined ? undefined : nearestKm(candidate, location)
  if (value === undefined) return { constraint, kept: false, reason: 'its location is not known' }
  const kept = value <= threshold
  return {
    constraint,
    value,
    kept,
    ...(kept ? {} : { reason: `more than ${threshold} km from ${targetOf(constraint)}` }),
  }
}

/** Of two services near each other the first may go anywhere. */
function latency(constraint: Constraint, candidate: Candidate, request: PlacementRequest): Nearness | undefined {
  const { service, threshold = Infinity } = constraint
  const anchors = request.near?.(constraint)
  const what = service ?? 'the location asked for'
  if (anchors === undefined || (service !== undefined && anchors.length === 0)) return undefined
  const isCluster = candidate.node === undefined
  if (anchors.length === 0) {
    if (isCluster) return undefined
    return { constraint, kept: false, reason: `no node has a location, so the distance to ${what} is unknown` }
  }
  const value = msTo(constraint, candidate, request)
  if (value === undefined)
    return isCluster ? undefined : { constraint, kept: false, reason: `latency to ${what} not measured yet` }
  const isSure = !isCluster || (candidate.isMeasured === true && anchors.every(({ coordinate }) => coordinate))
  const kept = value <= threshold || !isSure
  return { constraint, value, kept, ...(kept ? {} : { reason: `more than ${threshold} ms from ${what}` }) }
}

function closest(places: readonly Nearness[]): Nearness | undefined {
  return places.reduce((best, each) => (excessOf(each) < excessOf(best) ? each : best))
}
