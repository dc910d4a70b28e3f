/**
 * Where a node is in the network, so that nodes that never talked can be ranked: a point whose distance to another's is the
 * round-trip time between the two, plus what each needs to get to the network at all (Dabek et al., Vivaldi, SIGCOMM 2004, §5.4).
 */
export interface Coordinate {
  /** Milliseconds along each axis. */
  at: readonly number[]
  /** Milliseconds between the node and the core of the network: its access link. */
  height: number
  /** How far off the estimates were lately: 0 exact, 1 unknown. */
  error: number
}

/** Three axes and a height fit internet round-trip times about as well as more do (ibid., §5.3). */
export const AXES = 3
/** Farther is no network we know, and a lie that would pull others along. */
export const FARTHEST_MS = 10_000

export const ORIGIN: Coordinate = { at: [0, 0, 0], height: 0.1, error: 1 }

/** The estimated round-trip time between two nodes, in ms. */
export function distanceMs(one: Coordinate, other: Coordinate): number {
  return Math.hypot(...one.at.map((x, axis) => x - (other.at[axis] ?? 0))) + one.height + other.height
}

/** Whether a peer may say so: anything else is not a coordinate. */
export function isCoordinate(found: unknown): found is Coordinate {
  if (typeof found !== 'object' || found === null) return false
  const { at, height, error } = found as Partial<Record<keyof Coordinate, unknown>>
  const isWithin = (value: unknown, least: number, most: number) =>
    typeof value === 'number' && value >= least && value <= most
  return (
    Array.isArray(at) &&
    at.length === AXES &&
    at.every((x) => isWithin(x, -FARTHEST_MS, FARTHEST_MS)) &&
    isWithin(height, 0, FARTHEST_MS) &&
    isWithin(error, 0, 1)
  )
}
