/**
 * Where a node is in the network, so that nodes that have never talked can be ranked. The distance between two points is the
 * round-trip time between the nodes; the height is the delay of a node's own access link (Dabek et al., Vivaldi, SIGCOMM 2004, §5.4).
 */
export interface Coordinate {
  /** Milliseconds along each axis. */
  at: readonly number[]
  /** Milliseconds between the node and the core of the network: its access link. */
  height: number
  /** The recent error of the estimates: 0 exact, 1 unknown. */
  error: number
}

/** Three axes and a height fit round-trip times of the internet about as well as more axes do (ibid., §5.3). */
export const AXES = 3
/** No network is larger. A larger value is a lie that would pull other nodes along. */
export const FARTHEST_MS = 10_000

export const ORIGIN: Coordinate = { at: [0, 0, 0], height: 0.1, error: 1 }

/** The estimated round-trip time between two nodes, in ms. */
export function distanceMs(one: Coordinate, other: Coordinate): number {
  return flatMs(one.at, other.at) + one.height + other.height
}

/** Without the heights: the part that obeys the triangle inequality. No array and no `Math.hypot`: one placement measures some 100,000 distances. */
export function flatMs(one: readonly number[], other: readonly number[]): number {
  let sum = 0
  for (let axis = 0; axis < AXES; axis++) {
    const apart = (one[axis] ?? 0) - (other[axis] ?? 0)
    sum += apart * apart
  }
  return Math.sqrt(sum)
}

/** Whether what a peer sent is a coordinate within the bounds. */
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
