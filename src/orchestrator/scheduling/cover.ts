import { AXES, flatMs, type Coordinate } from '../../core/model/coordinate.ts'
import { distanceKm, type Location } from './geometry.ts'

/*
 * Many points as few circles that hold all of them, so that a summary stays small and the root never takes a cluster for farther away
 * than its nearest node is: what is asked for may be as near as the distance to the centre less the radius.
 *
 *     nodes  · ·  ·            circles  ( · ·  · )            grid cells, coarser until there are few enough
 *               ·    ·                         ( ·    · )
 */

/** A place, and how far around it the nodes are. */
export interface Circle extends Location {
  /** Absent: all are at the place itself. */
  km?: number
}

/** The same in the space of network coordinates; the height is the smallest of any node there. */
export interface Region {
  at: number[]
  height: number
  /** How far around it the nodes are, ms. */
  ms: number
}

/** More are coarser circles: larger makes messages longer, smaller lets the root ask clusters in vain. */
export const MOST_CIRCLES = 64
export const MOST_REGIONS = 16

/** Sizes of the cells, degrees and ms. The last holds any set of points in few cells. */
const DEGREES = [0, 0.05, 0.2, 0.5, 1, 2, 5, 10, 20, 45, 360]
const MILLISECONDS = [1, 2, 5, 10, 20, 50, 100, 300, 1_000, 30_000]

export function circlesAround(places: readonly Location[]): Circle[] {
  const cells = cellsOf(places, { sizes: DEGREES, most: MOST_CIRCLES, axes: ({ lat, lon }) => [lat, lon] })
  return cells.map((cell) => {
    const centre = { lat: mean(cell, ({ lat }) => lat), lon: mean(cell, ({ lon }) => lon) }
    const km = up(farthest(cell, (place) => distanceKm(centre, place)))
    return km === 0 ? centre : { ...centre, km }
  })
}

export function regionsAround(coordinates: readonly Coordinate[]): Region[] {
  const cells = cellsOf(coordinates, { sizes: MILLISECONDS, most: MOST_REGIONS, axes: ({ at }) => at })
  return cells.map((cell) => {
    const at = Array.from({ length: AXES }, (_, axis) => mean(cell, (coordinate) => coordinate.at[axis] ?? 0))
    const height = cell.reduce((least, coordinate) => Math.min(least, coordinate.height), Infinity)
    return { at, height, ms: up(farthest(cell, (coordinate) => flatMs(at, coordinate.at))) }
  })
}

interface Grid<P> {
  sizes: readonly number[]
  most: number
  axes: (point: P) => readonly number[]
}

/** The points by cells of the smallest size that gives no more than `most` cells. A size of 0: equal points. */
function cellsOf<P>(points: readonly P[], { sizes, most, axes }: Grid<P>): P[][] {
  for (const size of sizes) {
    const cells = new Map<string, P[]>()
    for (const point of points) {
      const key = axes(point)
        .map((x) => (size === 0 ? x : Math.floor(x / size)))
        .join()
      const cell = cells.get(key)
      if (cell === undefined) cells.set(key, [point])
      else cell.push(point)
      if (cells.size > most) break
    }
    if (cells.size <= most) return [...cells.values()]
  }
  return [[...points]]
}

function mean<P>(cell: readonly P[], of: (point: P) => number): number {
  const [first] = cell
  if (first !== undefined && cell.every((point) => of(point) === of(first))) return of(first) // exact
  return cell.reduce((sum, point) => sum + of(point), 0) / cell.length
}

function farthest<P>(cell: readonly P[], distance: (point: P) => number): number {
  return cell.reduce((most, point) => Math.max(most, distance(point)), 0)
}

/** Rounded up: a circle must not leave a node out. */
function up(value: number): number {
  return Math.ceil(value * 1_000) / 1_000
}
