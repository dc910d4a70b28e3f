import type { Coordinate } from '../../core/model/coordinate.ts'
import { clusterOf, type NodeId, type ServiceId } from '../../core/model/ids.ts'
import type { Capacity, NodeFacts, PortSpec } from '../spec.ts'
import { largest, NOTHING, release } from './capacity.ts'

/** `alive` accepts instances; `cordoned` keeps what it has and accepts nothing new; `lost` has stopped answering. */
export type Condition = 'alive' | 'cordoned' | 'lost'

export interface Location {
  lat: number
  lon: number
}

/** A place where an instance may go: a node as its cluster sees it, or a cluster as the root sees it. */
export interface Candidate {
  /** Node id or cluster name. */
  id: string
  cluster: string
  /** Absent when the candidate is a cluster. */
  node?: NodeId
  condition: Condition
  total: Capacity
  free: Capacity
  /** The most that one instance can get: a node's `free`, or the largest free amount of any node of the cluster. */
  largestFree: Capacity
  runtimes: readonly string[]
  arch: readonly string[]
  areas: readonly string[]
  locations: readonly Location[]
  /** A node's network coordinate, when it has one; never a cluster's. */
  coordinate?: Coordinate
  /** Label keys whose value is not `false`; an `addons` constraint names them. */
  addons: readonly string[]
  /** Taken fixed ports, as `portKey` writes them; for a cluster, those that are taken on every node. */
  portsTaken: readonly string[]
  /** How many nodes of this candidate accept instances: 1, or the cluster's number of nodes. */
  nodes: number
  instances: number
  /** How many instances of each service it has. */
  perService: ReadonlyMap<ServiceId, number>
}

/** One node as its cluster knows it. */
export interface NodeView {
  facts: NodeFacts
  condition: Condition
  free: Capacity
  portsTaken: readonly string[]
  instances: number
  perService: ReadonlyMap<ServiceId, number>
}

/** What the root knows of a cluster: totals and capabilities, never its nodes. Plain JSON. */
export interface ClusterSummary {
  cluster: string
  /** Nodes that accept instances. */
  nodes: number
  total: Capacity
  free: Capacity
  largestFree: Capacity
  runtimes: string[]
  arch: string[]
  areas: string[]
  locations: Location[]
  addons: string[]
  portsTaken: string[]
  instances: number
}

/** Further locations are left out of a summary: the root does not know of them. */
const MAX_LOCATIONS = 64

export function portKey({ target, protocol }: Pick<PortSpec, 'target' | 'protocol'>): string {
  return `${protocol}/${target}`
}

export function nodeCandidate({ facts, condition, free, portsTaken, instances, perService }: NodeView): Candidate {
  return {
    id: facts.id,
    cluster: clusterOf(facts.id),
    node: facts.id,
    condition,
    total: facts.capacity,
    free,
    largestFree: free,
    runtimes: facts.runtimes,
    arch: [facts.arch],
    areas: facts.area === undefined ? [] : [facts.area],
    locations: facts.location === undefined ? [] : [facts.location],
    ...(facts.coordinate === undefined ? {} : { coordinate: facts.coordinate }),
    addons: addonsOf(facts),
    portsTaken,
    nodes: 1,
    instances,
    perService,
  }
}

/** `perService` comes from the root's own records, so that a summary does not grow with the number of services. */
export function clusterCandidate(
  summary: ClusterSummary,
  { condition, perService }: { condition: Condition; perService: ReadonlyMap<ServiceId, number> },
): Candidate {
  const { cluster, ...rest } = summary
  return { ...rest, id: cluster, cluster, condition, perService }
}

/** Counts only nodes that accept instances. */
export function summarise(cluster: string, nodes: Iterable<NodeView>): ClusterSummary {
  const open = [...nodes].filter(({ condition }) => condition === 'alive')
  const facts = open.map((node) => node.facts)
  const summed = (amounts: Capacity[]) => amounts.reduce(release, NOTHING)
  return {
    cluster,
    nodes: open.length,
    total: summed(facts.map(({ capacity }) => capacity)),
    free: summed(open.map(({ free }) => free)),
    largestFree: open.map(({ free }) => free).reduce(largest, NOTHING),
    runtimes: distinct(facts.flatMap(({ runtimes }) => runtimes)),
    arch: distinct(facts.map(({ arch }) => arch)),
    areas: distinct(facts.flatMap(({ area }) => area ?? [])),
    locations: distinctPlaces(facts.flatMap(({ location }) => location ?? [])),
    addons: distinct(facts.flatMap(addonsOf)),
    portsTaken: distinct(open[0]?.portsTaken ?? []).filter((port) => open.every((n) => n.portsTaken.includes(port))),
    instances: open.reduce((sum, { instances }) => sum + instances, 0),
  }
}

function addonsOf({ labels }: NodeFacts): string[] {
  return Object.keys(labels).filter((key) => labels[key] !== 'false')
}

function distinct(words: Iterable<string>): string[] {
  return [...new Set(words)].sort()
}

function distinctPlaces(places: Location[]): Location[] {
  return [...new Map(places.map((place) => [`${place.lat},${place.lon}`, place])).values()].slice(0, MAX_LOCATIONS)
}
