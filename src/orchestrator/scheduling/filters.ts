import type { Constraint } from '../spec.ts'
import type { Candidate, Location } from './candidate.ts'
import { portKey } from './candidate.ts'
import { demandOf, shortage, type Dimension } from './capacity.ts'
import type { Work } from './schedule.ts'

/** Why the candidate cannot take the work, in words that are counted; `undefined` when it can. */
export type Filter = (work: Work, candidate: Candidate) => string | undefined

const SHORTAGES = {
  memoryMb: 'too little memory free',
  vcpus: 'too few vcpus free',
  vgpus: 'too few vgpus free',
  vtpus: 'too few vtpus free',
  storageMb: 'too little storage free',
} as const satisfies Record<Dimension, string>

export const condition: Filter = (_, candidate) => {
  switch (candidate.condition) {
    case 'alive':
      return candidate.nodes > 0 ? undefined : 'no node there takes work'
    case 'cordoned':
      return 'cordoned'
    case 'lost':
      return 'lost'
    default:
      return candidate.condition satisfies never
  }
}

export const refused: Filter = ({ refusedBy }, { id }) => (refusedBy?.has(id) ? 'refused it already' : undefined)

export const runtime: Filter = ({ spec }, { runtimes }) =>
  runtimes.includes(spec.runtime) ? undefined : `runtime ${spec.runtime} not offered`

export const architecture: Filter = ({ spec }, { arch }) =>
  spec.arch.length === 0 || spec.arch.some((word) => arch.includes(word)) ? undefined : 'other architecture'

export const capacity: Filter = ({ spec }, { largestFree }) => {
  const short = shortage(demandOf(spec), largestFree)
  return short === undefined ? undefined : SHORTAGES[short]
}

export const fixedPort: Filter = ({ spec }, { portsTaken }) =>
  spec.fixedPorts && spec.ports.some((port) => portsTaken.includes(portKey(port))) ? 'fixed port taken' : undefined

/**
 * `direct`, `clusters` and `addons` must all hold. Of several `latency` or several `geo` constraints one is enough:
 * nobody is within 5 km of Berlin and of Munich, so a list of places means "near one of them".
 */
export const constraints: Filter = ({ spec }, candidate) => {
  if (spec.constraints.length === 0) return undefined
  const reasons = spec.constraints.map((constraint) => ({
    type: constraint.type,
    reason: violated(constraint, candidate),
  }))
  const hard = reasons.find(({ type, reason }) => reason !== undefined && type !== 'latency' && type !== 'geo')
  if (hard !== undefined) return hard.reason
  for (const soft of ['latency', 'geo'] as const) {
    const mine = reasons.filter(({ type }) => type === soft)
    if (mine.length > 0 && mine.every(({ reason }) => reason !== undefined)) return mine[0]?.reason
  }
  return undefined
}

/** Cheap ones first; the first that refuses gives the reason that is counted. */
export const FILTERS: readonly Filter[] = [condition, refused, runtime, architecture, constraints, capacity, fixedPort]

function violated(constraint: Constraint, candidate: Candidate): string | undefined {
  switch (constraint.type) {
    case 'direct':
      return isNamed(constraint, candidate) ? undefined : 'not the node or cluster asked for'
    case 'clusters':
      return constraint.allowed?.includes(candidate.cluster) ? undefined : 'cluster not allowed'
    case 'addons':
      return constraint.needs?.every((addon) => candidate.addons.includes(addon)) ? undefined : 'addon missing'
    case 'latency':
      return candidate.areas.includes(constraint.area ?? '') ? undefined : 'other area'
    case 'geo':
      return isNear(constraint, candidate.locations) ? undefined : 'too far away'
    default:
      return constraint.type satisfies never
  }
}

/** Nodes are named `n1` or `edge/n1`; of a cluster only the part before the slash can be judged. */
function isNamed({ cluster, nodes = [] }: Constraint, candidate: Candidate): boolean {
  if (cluster !== undefined && cluster !== candidate.cluster) return false
  if (nodes.length === 0) return true
  return nodes.some((wanted) => {
    const slash = wanted.indexOf('/')
    if (slash >= 0 && wanted.slice(0, slash) !== candidate.cluster) return false
    return candidate.node === undefined || candidate.node === `${candidate.cluster}/${wanted.slice(slash + 1)}`
  })
}

function isNear({ location, threshold = Infinity }: Constraint, places: readonly Location[]): boolean {
  return location !== undefined && places.some((place) => distanceKm(place, location) <= threshold)
}

const EARTH_RADIUS_KM = 6371

/** Great-circle distance (haversine). */
export function distanceKm(a: Location, b: Location): number {
  const radians = (degrees: number) => (degrees * Math.PI) / 180
  const dLat = radians(b.lat - a.lat)
  const dLon = radians(b.lon - a.lon)
  const h = Math.sin(dLat / 2) ** 2 + Math.cos(radians(a.lat)) * Math.cos(radians(b.lat)) * Math.sin(dLon / 2) ** 2
  return 2 * EARTH_RADIUS_KM * Math.asin(Math.min(1, Math.sqrt(h)))
}
