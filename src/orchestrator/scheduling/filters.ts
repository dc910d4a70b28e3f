import type { Constraint } from '../spec.ts'
import type { Candidate, Location } from './candidate.ts'
import { portKey } from './candidate.ts'
import { demandOf, shortage, type Dimension } from './capacity.ts'
import { distanceKm, nearestMs } from './distance.ts'
import type { PlacementRequest } from './placement-request.ts'

/** Why the candidate cannot take the request, in words that are counted; `undefined` when it can. */
export type Filter = (request: PlacementRequest, candidate: Candidate) => string | undefined

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
      return candidate.nodes > 0 ? undefined : 'no node there accepts instances'
    case 'cordoned':
      return 'cordoned'
    case 'lost':
      return 'lost'
    default:
      return candidate.condition satisfies never
  }
}

export const REFUSED_ALREADY = 'refused it already'
export const refused: Filter = ({ refusedBy }, { id }) => (refusedBy?.has(id) ? REFUSED_ALREADY : undefined)

export const runtime: Filter = ({ spec }, { runtimes }) =>
  runtimes.includes(spec.runtime) ? undefined : `runtime ${spec.runtime} not offered`

export const architecture: Filter = ({ spec }, { arch }) =>
  spec.arch.length === 0 || spec.arch.some((word) => arch.includes(word)) ? undefined : 'other architecture'

/** What a node may have none of. */
const ABSENT: Partial<Record<Dimension, string>> = { vgpus: 'no gpu', vtpus: 'no tpu' }

export const capacity: Filter = ({ spec }, { largestFree, total }) => {
  const short = shortage(demandOf(spec), largestFree)
  if (short === undefined) return undefined
  return (total[short] === 0 ? ABSENT[short] : undefined) ?? SHORTAGES[short]
}

export const fixedPort: Filter = ({ spec }, { portsTaken }) =>
  spec.fixedPorts && spec.ports.some((port) => portsTaken.includes(portKey(port))) ? 'fixed port taken' : undefined

/**
 * All `direct`, `clusters` and `addons` constraints must hold. Of several `latency` or several `geo` constraints about places one
 * is enough: nothing is within 5 km of both Berlin and Munich, so a list of places means "near one of them". Services are no
 * such places: the instance must be near each of them.
 */
export const constraints: Filter = (request, candidate) => {
  const { spec } = request
  if (spec.constraints.length === 0) return undefined
  const reasons = spec.constraints.map((constraint) => ({
    kind: constraint.service === undefined ? constraint.type : undefined,
    reason: violated(constraint, candidate, request),
  }))
  const hard = reasons.find(({ kind, reason }) => reason !== undefined && kind !== 'latency' && kind !== 'geo')
  if (hard !== undefined) return hard.reason
  for (const soft of ['latency', 'geo'] as const) {
    const mine = reasons.filter(({ kind }) => kind === soft)
    if (mine.length > 0 && mine.every(({ reason }) => reason !== undefined)) return mine[0]?.reason
  }
  return undefined
}

/** Cheap filters first. The first that refuses gives the reason that is counted. */
export const FILTERS: readonly Filter[] = [condition, refused, runtime, architecture, constraints, capacity, fixedPort]

function violated(constraint: Constraint, candidate: Candidate, request: PlacementRequest): string | undefined {
  switch (constraint.type) {
    case 'direct':
      return isNamed(constraint, candidate) ? undefined : 'not the node or cluster asked for'
    case 'clusters':
      return constraint.allowed?.includes(candidate.cluster) ? undefined : 'cluster not allowed'
    case 'addons':
      return constraint.needs?.every((addon) => candidate.addons.includes(addon)) ? undefined : 'addon missing'
    case 'latency':
      return constraint.area === undefined
        ? farAway(constraint, candidate, request)
        : candidate.areas.includes(constraint.area)
          ? undefined
          : 'other area'
    case 'geo':
      return isNear(constraint, candidate.locations) ? undefined : 'too far away'
    default:
      return constraint.type satisfies never
  }
}

/** The root does not know the nodes, so it lets the cluster judge. Of two services near each other the first may go anywhere. */
function farAway(constraint: Constraint, candidate: Candidate, { near }: PlacementRequest): string | undefined {
  const { service, threshold = Infinity } = constraint
  const anchors = near?.(constraint)
  const what = service ?? 'the location asked for'
  if (anchors === undefined || (service !== undefined && anchors.length === 0)) return undefined
  if (anchors.length === 0) return `no node has a location, so the distance to ${what} is unknown`
  const ms = nearestMs(candidate, anchors)
  if (ms === undefined) return `latency to ${what} not measured yet`
  return ms <= threshold ? undefined : `more than ${threshold} ms from ${what}`
}

/** Nodes are named `n1` or `edge/n1`. For a cluster only the part before the slash can be compared. */
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
