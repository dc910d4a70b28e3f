import type { NodeId } from '../core/model/ids.ts'
import { AXES, distanceMs, FARTHEST_MS, ORIGIN, type Coordinate } from '../core/model/coordinate.ts'
import { BoundedMap } from '../core/kit/bounded-map.ts'

/** How fast errors and positions follow measurements (Vivaldi §3.3: 0.25 each). Larger: unstable; smaller: slow to settle. */
const ADAPTS = 0.25
/** No access link is shorter; a height of zero could never grow again. */
const LEAST_HEIGHT_MS = 0.05
/** The median of a peer's last few round trips is used: one that waited in a queue moves nothing (Ledlie 2007, §3). */
const SAMPLES = 5
const MOST_PEERS = 512
/** Shorter round trips are noise of the machine, not distance. */
const LEAST_RTT_MS = 0.05

/**
 * This node's coordinate: each measured round trip to a peer pulls or pushes it along the line between the two, more strongly the
 * smaller the peer's error is.
 */
export class VivaldiCoordinate {
  readonly #random: () => number
  readonly #samples = new BoundedMap<NodeId, number[]>(MOST_PEERS)
  #own: Coordinate

  constructor(start: Coordinate = ORIGIN, random: () => number = Math.random) {
    this.#own = start
    this.#random = random
  }

  get own(): Coordinate {
    return this.#own
  }

  /** Takes one measured round trip to a peer, and the coordinate that the peer reports. */
  measured(peer: NodeId, theirs: Coordinate, rttMs: number): void {
    if (!(rttMs >= 0 && rttMs <= FARTHEST_MS)) return
    const rtt = Math.max(this.#median(peer, rttMs), LEAST_RTT_MS)
    const own = this.#own
    const estimate = distanceMs(own, theirs)
    const weight = own.error / Math.max(own.error + theirs.error, Number.EPSILON)
    const wrong = Math.min(1, Math.abs(estimate - rtt) / rtt)
    const error = Math.min(1, Math.max(0.01, wrong * ADAPTS * weight + own.error * (1 - ADAPTS * weight)))
    const step = ADAPTS * weight * (rtt - estimate)
    const { direction, share } = this.#away(own, theirs)
    const at = own.at.map((x, axis) => clamped(x + step * (direction[axis] ?? 0)))
    const height = Math.min(FARTHEST_MS, Math.max(LEAST_HEIGHT_MS, own.height + step * share))
    this.#own = { at, height, error }
  }

  forget(peer: NodeId): void {
    this.#samples.delete(peer)
  }

  /** The unit vector from the peer to us; its height part adds both heights (Vivaldi §5.4). */
  #away(own: Coordinate, theirs: Coordinate): { direction: number[]; share: number } {
    const apart = own.at.map((x, axis) => x - (theirs.at[axis] ?? 0))
    const flat = Math.hypot(...apart)
    const heights = own.height + theirs.height
    if (flat < 1e-6) {
      // at the same point there is no line between the two: any direction will do
      const any = Array.from({ length: AXES }, () => this.#random() - 0.5)
      const length = Math.hypot(...any) || 1
      return { direction: any.map((x) => x / length), share: heights / Math.max(heights, 1) }
    }
    const whole = flat + heights
    return { direction: apart.map((x) => x / whole), share: heights / whole }
  }

  #median(peer: NodeId, rttMs: number): number {
    const samples = this.#samples.getOrCreate(peer, () => [])
    samples.push(rttMs)
    if (samples.length > SAMPLES) samples.shift()
    return samples.toSorted((a, b) => a - b)[(samples.length - 1) >> 1] as number
  }
}

function clamped(x: number): number {
  return Math.min(FARTHEST_MS, Math.max(-FARTHEST_MS, x))
}
