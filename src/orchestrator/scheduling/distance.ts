import { distanceMs, type Coordinate } from '../../core/model/coordinate.ts'
import type { NodeId } from '../../core/model/ids.ts'
import type { Candidate, Location } from './candidate.ts'

/*
 * The distance from a node to what it must be near, as a round trip in ms. It comes from network coordinates
 * (core/model/coordinate.ts), so it is known even between nodes that have never talked.
 *
 *     candidate ──coordinates──▶ anchor: a node with an instance of the service ───────────────▶ 0 ms
 *     candidate ──coordinates──▶ anchor: a node with a geographic location ──fibre──▶ the location asked for
 */

/** A node that distances are measured to. */
export interface Anchor {
  node: NodeId
  coordinate?: Coordinate
  /** Added for the way from the anchor to what it represents, ms. */
  beyondMs: number
}

/** Light in glass travels 200 km per millisecond, and a round trip goes both ways. */
const KM_PER_MS = 100
const EARTH_RADIUS_KM = 6371

/** Milliseconds to the nearest anchor; `undefined` when no distance is known. */
export function nearestMs({ node, coordinate }: Candidate, anchors: readonly Anchor[]): number | undefined {
  let nearest: number | undefined
  for (const anchor of anchors) {
    const ms = betweenMs(node, coordinate, anchor)
    if (ms !== undefined && (nearest === undefined || ms < nearest)) nearest = ms
  }
  return nearest
}

function betweenMs(node: NodeId | undefined, own: Coordinate | undefined, anchor: Anchor): number | undefined {
  if (anchor.node === node) return anchor.beyondMs
  if (own === undefined || anchor.coordinate === undefined) return undefined
  return distanceMs(own, anchor.coordinate) + anchor.beyondMs
}

/** The shortest possible round trip over this distance, ms. */
export function fibreMs(km: number): number {
  return km / KM_PER_MS
}

/** Great-circle distance (haversine). */
export function distanceKm(a: Location, b: Location): number {
  const radians = (degrees: number) => (degrees * Math.PI) / 180
  const dLat = radians(b.lat - a.lat)
  const dLon = radians(b.lon - a.lon)
  const h = Math.sin(dLat / 2) ** 2 + Math.cos(radians(a.lat)) * Math.cos(radians(b.lat)) * Math.sin(dLon / 2) ** 2
  return 2 * EARTH_RADIUS_KM * Math.asin(Math.min(1, Math.sqrt(h)))
}
