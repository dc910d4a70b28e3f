import { interestOf, type InterestKey, type NodeId } from '../../core/model/ids.ts'
import type { NodeReach } from '../../core/model/node.ts'
import { distanceKm, fibreMs, type Anchor } from '../scheduling/distance.ts'
import type { Constraint, ServiceSpec } from '../spec.ts'
import type { Assignments } from './cluster-store.ts'
import type { EntryCache } from './entry-cache.ts'
import type { Nodes } from './nodes.ts'
import { isFinished } from './work.ts'

export interface LatencyAnchorsParts {
  assignments: Assignments
  entryCache: EntryCache
  nodes: Nodes
  reachOf: (node: NodeId) => NodeReach | undefined
  /** Asks the root about a key that nobody here has asked for. */
  learn: (key: InterestKey) => Promise<void>
}

/** Nodes that a place is measured by; farther ones tell less. */
const LANDMARKS = 32
/** Instances of one service that distances are measured to. */
const INSTANCES = 256

/**
 * What latency constraints are measured to, as this cluster knows it: where instances of a service are, ours and those of
 * other clusters, and which of our nodes are near a place.
 */
export class LatencyAnchors {
  readonly #parts: LatencyAnchorsParts

  constructor(parts: LatencyAnchorsParts) {
    this.#parts = parts
  }

  /** To be called before a decision: makes known what it needs, and has nodes measured that nobody has. */
  async survey({ constraints }: ServiceSpec): Promise<void> {
    const keys = new Set(constraints.flatMap(({ service }) => (service === undefined ? [] : [keyOf(service)])))
    const { entryCache, nodes, learn } = this.#parts
    for (const key of keys) if (entryCache.get(key) === undefined) await learn(key).catch(() => undefined) // then what is here counts
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
    for (const { service: known, instances, nodes } of entryCache.get(keyOf(service)) ?? []) {
      if (!isMeant(known.id)) continue
      const elsewhere = new Map(nodes.map((node) => [node.id, node]))
      for (const { node, state } of instances) {
        if (state === 'running' || state === 'starting') reaches.set(node, reachOf(node) ?? elsewhere.get(node))
      }
    }
    for (const record of assignments.all()) {
      const { node, assignment } = record
      if (node !== undefined && !isFinished(record) && isMeant(assignment.spec.id)) reaches.set(node, reachOf(node))
    }
    return [...reaches].slice(0, INSTANCES).map(([node, reach]) => anchorAt(node, reach?.coordinate, 0))
  }

  #landmarks(place: { lat: number; lon: number }): Anchor[] {
    const known = [...this.#parts.nodes.all()].flatMap(({ id, facts: { location, coordinate } }) =>
      location === undefined ? [] : [anchorAt(id, coordinate, fibreMs(distanceKm(location, place)))],
    )
    return known.toSorted((a, b) => a.beyondMs - b.beyondMs).slice(0, LANDMARKS)
  }
}

function anchorAt(node: NodeId, coordinate: Anchor['coordinate'], beyondMs: number): Anchor {
  return { node, beyondMs, ...(coordinate === undefined ? {} : { coordinate }) }
}

/** A service id has four labels, a key the first three of them. */
function keyOf(service: string): InterestKey {
  return service.split('.').slice(0, 3).join('.')
}
