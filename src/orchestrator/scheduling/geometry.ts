/** Places on the earth. */
export interface Location {
  lat: number
  lon: number
}

/** Light in glass travels 200 km per millisecond, and a round trip goes both ways. */
const KM_PER_MS = 100
const EARTH_RADIUS_KM = 6371
const RADIANS = Math.PI / 180

/** The shortest possible round trip over this distance, ms. */
export function fibreMs(km: number): number {
  return km / KM_PER_MS
}

/** Great-circle distance (haversine). */
export function distanceKm(a: Location, b: Location): number {
  const dLat = (b.lat - a.lat) * RADIANS
  const dLon = (b.lon - a.lon) * RADIANS
  const h = Math.sin(dLat / 2) ** 2 + Math.cos(a.lat * RADIANS) * Math.cos(b.lat * RADIANS) * Math.sin(dLon / 2) ** 2
  return 2 * EARTH_RADIUS_KM * Math.asin(Math.min(1, Math.sqrt(h)))
}
