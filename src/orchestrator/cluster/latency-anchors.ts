import { clusterOf, interestOf, type InstanceId, type InterestKey, type NodeId } from '../../core/model/ids.ts'
import type { NodeReach } from '../../core/model/node.ts'
import { withAsked, withAskedBy } from '../scheduling/asked-by-others.ts'
import type { Anchor } from '../scheduling/distance.ts'
import type { Placed, PlacementRequest } from '../scheduling/placement-request.ts'
import { distanceKm, fibreMs } from '../scheduling/geometry.ts'
import type { Constraint, ServiceSpec } from '../spec.ts'
import { isFinished, type Assignments } from './assignments.ts'
import type { EntryCache } from './entry-cache.ts'
import type { Nodes } from './nodes.ts'
import type { RootLink } from './root-link.ts'

export interface LatencyAnchorsParts {
  /** The name of this cluster. */
  name: string
  assignments: Assignments
  entryCache: EntryCache
  nodes: Nodes
  root: Pick<RootLink, 'learn'>
  reachOf: (node: NodeId) => NodeReach | undefined
}

/** How many nodes near a location are measured to; those farther away add little. */
const MAX_LANDMARKS = 32
/** How many instances of one service are measured to. */
const MAX_INSTANCES = 256

/**
 * What constraints are measured by, as far as this cluster knows: the nodes with instances of a service, here and in other clusters,
 * and our nodes near a location.
 */
export class LatencyAnchors {
  readonly #parts: LatencyAnchorsParts

  constructor(parts: LatencyAnchorsParts) {
    this.#parts = parts
  }

  /** Call before a decision: fetches the entries it needs, and has nodes without a coordinate measure. */
  async prepare(own: ServiceSpec, instance?: InstanceId): Promise<void> {
    const { constraints, prefersNear = [] } = this.#asked(own, instance)
    const keys = new Set(
      [...constraints, ...prefersNear].flatMap(({ service }) => (service === undefined ? [] : [keyOf(service)])),
    )
    const { entryCache, nodes, root } = this.#parts
    for (const key of keys) {
      if (entryCache.get(key) === undefined) await root.learn(key).catch(() => undefined) // then only instances here count
    }
    if (keys.size === 0) return
    for (const { link, facts } of nodes.all()) {
      if (facts.coordinate === undefined) link.notify('wish', { keys: [...keys] })
    }
  }

  /** What a decision about this instance depends on beside the nodes. `spec`: with what services of other documents ask of it. */
  requestFor(own: ServiceSpec, instance?: InstanceId): PlacementRequest {
    return { spec: this.#asked(own, instance), near: this.near, placed: (service) => this.placed(service, instance) }
  }

  /** Of services that have instances here their own documents say what they ask; of others, what the root said with the instance. */
  #asked(own: ServiceSpec, instance?: InstanceId): ServiceSpec {
    const { assignments } = this.#parts
    const spec = withAskedBy(own, assignments.askers(own.id))
    const asked = instance === undefined ? undefined : assignments.get(instance)?.assignment.asked
    if (asked === undefined) return spec
    const isElsewhere = ({ service = '' }: Constraint) => assignments.named(service).length === 0
    const constraints = asked.constraints.filter(isElsewhere)
    const prefersNear = asked.prefersNear.filter(isElsewhere)
    return constraints.length + prefersNear.length === 0 ? spec : withAsked(spec, { constraints, prefersNear })
  }

  readonly near = (constraint: Constraint): readonly Anchor[] => {
    const { service, location } = constraint
    if (service !== undefined) return this.#instancesOf(service)
    return location === undefined ? [] : this.#landmarks(location)
  }

  /** Where the instances of a service are, but for the one that needs a place. */
  placed(service: string, except?: InstanceId): Placed[] {
    const { assignments, entryCache, reachOf, name } = this.#parts
    const isMeant = (id: string) => id === service || interestOf(id) === service
    const found: Placed[] = []
    for (const { service: entry, instances, nodes } of entryCache.get(keyOf(service)) ?? []) {
      const areas = new Map(nodes.map(({ id, area }) => [id, area]))
      if (!isMeant(entry.id)) continue
      for (const { id, node } of instances)
        if (id !== except && clusterOf(node) !== name) found.push(placedOn(node, areas.get(node)))
    }
    for (const record of assignments.named(service)) {
      const { node, assignment, successor } = record
      if (node === undefined || assignment.instance === except || isFinished(record)) continue
      found.push(placedOn(node, reachOf(node)?.area))
      if (successor !== undefined && successor.node !== node)
        found.push(placedOn(successor.node, reachOf(successor.node)?.area))
    }
    return found
  }

  #instancesOf(service: string): Anchor[] {
    const { assignments, entryCache, reachOf, name } = this.#parts
    const isMeant = (id: string) => id === service || interestOf(id) === service
    const reaches = new Map<NodeId, NodeReach | undefined>()
    for (const { service: found, instances, nodes } of entryCache.get(keyOf(service)) ?? []) {
      if (!isMeant(found.id)) continue
      const elsewhere = new Map(nodes.map((node) => [node.id, node]))
      for (const { node, state } of instances) {
        const mayRun = state === 'running' || state === 'starting'
        if (mayRun && clusterOf(node) !== name) reaches.set(node, elsewhere.get(node)) // of ours our own records tell
      }
    }
    for (const record of assignments.named(service)) {
      if (record.node !== undefined && !isFinished(record)) reaches.set(record.node, reachOf(record.node))
    }
    return [...reaches].slice(0, MAX_INSTANCES).map(([node, reach]) => anchorAt(node, reach?.coordinate, 0))
  }

  #landmarks(place: { lat: number; lon: number }): Anchor[] {
    const located = [...this.#parts.nodes.all()].flatMap(({ id, facts: { location, coordinate } }) =>
      location === undefined ? [] : [anchorAt(id, coordinate, fibreMs(distanceKm(location, place)))],
    )
    return located.toSorted((a, b) => a.beyondMs - b.beyondMs).slice(0, MAX_LANDMARKS)
  }
}

function anchorAt(node: NodeId, coordinate: Anchor['coordinate'], beyondMs: number): Anchor {
  return { node, beyondMs, ...(coordinate === undefined ? {} : { coordinate }) }
}

export function placedOn(node: NodeId, area: string | undefined): Placed {
  return { node, cluster: clusterOf(node), ...(area === undefined ? {} : { area }) }
}

/** A service id has four labels; its interest key is the first three. */
function keyOf(service: string): InterestKey {
  return service.split('.').slice(0, 3).join('.')
}
