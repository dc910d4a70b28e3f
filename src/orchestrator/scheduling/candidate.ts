import type { Coordinate } from '../../core/model/coordinate.ts'
import { clusterOf, type NodeId, type ServiceId } from '../../core/model/ids.ts'
import type { Capacity, NodeFacts, PortSpec, ServiceSpec } from '../spec.ts'
import type { Circle, Region } from './cover.ts'

/**
 * `alive` accepts instances; `flapping` has gone and come back too often, and accepts what no other takes; `cordoned` keeps what it has
 * and accepts nothing new; `lost` has stopped answering.
 */
export type Condition = 'alive' | 'flapping' | 'cordoned' | 'lost'

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
  /** Where a node is; for a cluster, circles in which all its nodes are that have said where they are. */
  locations: readonly Circle[]
  /** A node's network coordinate, when it has one; never a cluster's. */
  coordinate?: Coordinate
  /** For a cluster: parts of the network coordinates' space in which all its measured nodes are. */
  regions?: readonly Region[]
  /** For a cluster: whether every node has been measured, so that `regions` leave none out. */
  isMeasured?: boolean
  /** Label keys whose value is not `false`; an `addons` constraint names them. */
  addons: readonly string[]
  /** The values that each label has; for a cluster, on any of its nodes, and none where they are too many to list. Absent: not known. */
  labels?: Readonly<Record<string, readonly string[]>>
  /** Taken fixed ports, as `portKey` writes them; for a cluster, those that are taken on every node. */
  portsTaken: readonly string[]
  /** What an hour costs; for a cluster, of its cheapest node. */
  costPerHour?: number
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

/** What an instance listens on that its node has once: another on the same node could not start. */
export function portsOfNode({ fixedPorts, ports }: Pick<ServiceSpec, 'fixedPorts' | 'ports'>): string[] {
  return ports.flatMap(({ target, hostPort, protocol }) => [
    ...(fixedPorts ? [portKey({ target, protocol })] : []),
    ...(hostPort === undefined ? [] : [portKey({ target: hostPort, protocol })]),
  ])
}

/** Volumes that one instance of a node has at a time: what is in them belongs to its user. */
export function volumesOfNode({
  runtime,
  app,
  appNamespace,
  volumes = [],
}: Pick<ServiceSpec, 'runtime' | 'app' | 'appNamespace' | 'volumes'>): string[] {
  return runtime === 'process' ? volumes.map(({ name }) => `${app}.${appNamespace}.${name}`) : []
}

/** The key of the document that asks for such ports. */
export function keyOfPorts({ fixedPorts }: Pick<ServiceSpec, 'fixedPorts'>): string {
  return fixedPorts ? 'fixed_port' : 'host_port'
}

function portKey({ target, protocol }: Pick<PortSpec, 'target' | 'protocol'>): string {
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
    labels: Object.fromEntries(Object.entries(facts.labels).map(([key, value]) => [key, [value]])),
    portsTaken,
    ...(facts.costPerHour === undefined ? {} : { costPerHour: facts.costPerHour }),
    nodes: 1,
    instances,
    perService,
  }
}

export function addonsOf({ labels }: Pick<NodeFacts, 'labels'>): string[] {
  return Object.keys(labels).filter((key) => labels[key] !== 'false')
}
