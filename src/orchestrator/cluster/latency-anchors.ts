import { interestOf, type InterestKey, type NodeId } from '../../core/model/ids.ts'
import type { NodeReach } from '../../core/model/node.ts'
import { distanceKm, fibreMs, type Anchor } from '../scheduling/distance.ts'
import type { Constraint, ServiceSpec } from '../spec.ts'
import { isFinished, type Assignments } from './assignments.ts'
import type { EntryCache } from './entry-cache.ts'
import type { Nodes } from './nodes.ts'
import type { RootLink } from './root-link.ts'

export interface LatencyAnchorsParts {
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
 * What latency constraints are measured to, as far as this cluster knows: the nodes with instances of a service, here and in
 * other clusters, and our nodes near a location.
 */
export class LatencyAnchors {
  readonly #parts: LatencyAnchorsParts

  constructor(parts: LatencyAnchorsParts) {
    this.#parts = parts
  }

  /** Call before a decision: fetches the entries it needs, and has nodes without a coordinate measure. */
  async prepare({ constraints }: ServiceSpec): Promise<void> {
    const keys = new Set(constraints.flatMap(({ service }) => (service === undefined ? [] : [keyOf(service)])))
    const { entryCache, nodes, root } = this.#parts
    for (const key of keys) {
      if (entryCache.get(key) === undefined) await root.learn(key).catch(() => undefined) // then only instances here count
    }
    if (keys.size === 0) return
    for (const { link, facts } of nodes.all()) {
      if (facts.coordinate === undefined) link.notify('wish', { keys: [...keys] })
    }
  }

  readonly near = (constraint: Constraint): readonly Anchor[] => {
    const { service, location } = constraint
    if (service !== undefined) return this.#instancesOf(service)
    return location === undefined ? [] : this.#landmarks(location)
  }

  #instancesOf(service: string): Anchor[] {
    const { assignments, entryCache, reachOf } = this.#parts
    const isMeant = (id: string) => id === service || interestOf(id) === service
    const reaches = new Map<NodeId, NodeReach | undefined>()
    for (const { service: found, instances, nodes } of entryCache.get(keyOf(service)) ?? []) {
      if (!isMeant(found.id)) continue
      const elsewhere = new Map(nodes.map((node) => [node.id, node]))
      for (const { node, state } of instances) {
        if (state === 'running' || state === 'starting') reaches.set(node, reachOf(node) ?? elsewhere.get(node))
      }
    }
    for (const record of assignments.all()) {
      const { node, assignment } = record
      if (node !== undefined && !isFinished(record) && isMeant(assignment.spec.id)) reaches.set(node, reachOf(node))
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

/** A service id has four labels; its interest key is the first three. */
function keyOf(service: string): InterestKey {
  return service.split('.').slice(0, 3).join('.')
}
