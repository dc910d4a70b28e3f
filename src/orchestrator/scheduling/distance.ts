import { distanceMs, flatMs, type Coordinate } from '../../core/model/coordinate.ts'
import { clusterOf, type NodeId } from '../../core/model/ids.ts'
import type { Candidate } from './candidate.ts'
import type { Region } from './cover.ts'
import { distanceKm, type Location } from './geometry.ts'

/*
 * The distance from a node to what it must be near, as a round trip in ms. It comes from network coordinates
 * (core/model/coordinate.ts), so it is known even between nodes that have never talked.
 *
 *     candidate ──coordinates──▶ anchor: a node with an instance of the service ───────────────▶ 0 ms
 *     candidate ──coordinates──▶ anchor: a node with a geographic location ──fibre──▶ the location asked for
 *
 * Of a cluster the root knows only in which regions its nodes are: the nearest that one of them can be.
 */

/** A node that distances are measured to. */
export interface Anchor {
  node: NodeId
  coordinate?: Coordinate
  /** Added for the way from the anchor to what it represents, ms. */
  beyondMs: number
}

/** Milliseconds to the nearest anchor; `undefined` when no distance is known. */
export function nearestMs(candidate: Candidate, anchors: readonly Anchor[]): number | undefined {
  let nearest: number | undefined
  for (const anchor of anchors) {
    const ms = betweenMs(candidate, anchor)
    if (ms !== undefined && (nearest === undefined || ms < nearest)) nearest = ms
  }
  return nearest
}

/** Kilometres from the place to the candidate's nearest node, at least; `undefined` when no node has said where it is. */
export function nearestKm({ locations }: Candidate, place: Location): number | undefined {
  let nearest: number | undefined
  for (const circle of locations) {
    const km = Math.max(0, distanceKm(circle, place) - (circle.km ?? 0))
    if (nearest === undefined || km < nearest) nearest = km
  }
  return nearest
}

function betweenMs({ cluster, node, coordinate, regions }: Candidate, anchor: Anchor): number | undefined {
  if (node === undefined ? clusterOf(anchor.node) === cluster : anchor.node === node) return anchor.beyondMs
  if (anchor.coordinate === undefined) return undefined
  if (coordinate !== undefined) return distanceMs(coordinate, anchor.coordinate) + anchor.beyondMs
  return regions === undefined ? undefined : regionMs(regions, anchor.coordinate, anchor.beyondMs)
}

function regionMs(regions: readonly Region[], to: Coordinate, beyondMs: number): number | undefined {
  if (regions.length === 0) return undefined
  let nearest = Infinity
  for (const { at, height, ms } of regions)
    nearest = Math.min(nearest, Math.max(0, flatMs(at, to.at) - ms) + height + to.height + beyondMs)
  return nearest
}
