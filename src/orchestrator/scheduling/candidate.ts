import type { Coordinate } from '../../core/model/coordinate.ts'
import { clusterOf, type NodeId, type ServiceId } from '../../core/model/ids.ts'
import type { Capacity, NodeFacts, PortSpec } from '../spec.ts'
import { largest, NOTHING, release } from './capacity.ts'

/** `alive` takes work; `cordoned` keeps what it has and takes nothing new; `lost` has not been heard of. */
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
  /** The node's id; absent when the candidate is a cluster. */
  node?: NodeId
  condition: Condition
  total: Capacity
  free: Capacity
  /** The most that one instance could get: a node's `free`, a cluster's largest free in each dimension. */
  largestFree: Capacity
  runtimes: readonly string[]
  arch: readonly string[]
  areas: readonly string[]
  locations: readonly Location[]
  /** Of a node that knows where it is in the network; never of a cluster. */
  coordinate?: Coordinate
  /** Label keys whose value is not `false`: what an `addons` constraint asks for. */
  addons: readonly string[]
  /** Fixed ports that are taken, as `portKey` writes them; of a cluster: taken on every node. */
  portsTaken: readonly string[]
  /** Nodes behind this candidate that may take work: 1, or the cluster's number. */
  nodes: number
  instances: number
  /** Instances by service. */
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

/** What a cluster tells the root of itself: totals and capabilities, never its nodes. Plain JSON. */
export interface ClusterSummary {
  cluster: string
  /** Nodes that take work. */
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

/** More places than this are not told one by one; the root then knows the first ones only. */
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

/** `perService` comes from the root's own books: a summary does not grow with the number of services. */
export function clusterCandidate(
  summary: ClusterSummary,
  { condition, perService }: { condition: Condition; perService: ReadonlyMap<ServiceId, number> },
): Candidate {
  const { cluster, ...rest } = summary
  return { ...rest, id: cluster, cluster, condition, perService }
}

/** Only nodes that take work are counted. */
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
