import type { ServiceId } from '../../core/model/ids.ts'
import type { Capacity, NodeFacts } from '../spec.ts'
import { addonsOf, type Candidate, type Condition, type NodeView } from './candidate.ts'
import { largest, NOTHING, release } from './capacity.ts'
import { circlesAround, regionsAround, type Circle, type Region } from './cover.ts'

/** What the root knows of a cluster: totals and capabilities, never its nodes. Plain JSON, and bounded whatever the cluster has. */
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
  locations: Circle[]
  addons: string[]
  portsTaken: string[]
  instances: number
  /** By key; without values where they are too many. Absent when there are too many keys, and in messages of earlier versions. */
  labels?: Record<string, string[]>
  /** What an hour of its cheapest node costs. */
  costPerHour?: number
  /** Where its nodes are in the network, and how many of them have a coordinate. */
  regions?: Region[]
  measured?: number
}

/** Larger makes each summary longer, smaller lets the root ask clusters in vain. */
export const MOST_LABELS = 64
export const MOST_LABEL_VALUES = 16

/** `perService` comes from the root's own records, so that a summary does not grow with the number of services. */
export function clusterCandidate(
  summary: ClusterSummary,
  { condition, perService }: { condition: Condition; perService: ReadonlyMap<ServiceId, number> },
): Candidate {
  const { cluster, measured, ...rest } = summary
  return { ...rest, isMeasured: measured === summary.nodes, id: cluster, cluster, condition, perService }
}

/** Counts only nodes that accept instances. */
export function summarise(cluster: string, nodes: Iterable<NodeView>): ClusterSummary {
  const open = [...nodes].filter(({ condition }) => condition === 'alive' || condition === 'flapping')
  const facts = open.map((node) => node.facts)
  const summed = (amounts: Capacity[]) => amounts.reduce(release, NOTHING)
  const coordinates = facts.flatMap(({ coordinate }) => coordinate ?? [])
  const costs = facts.flatMap(({ costPerHour }) => costPerHour ?? [])
  return {
    cluster,
    nodes: open.length,
    total: summed(facts.map(({ capacity }) => capacity)),
    free: summed(open.map(({ free }) => free)),
    largestFree: open.map(({ free }) => free).reduce(largest, NOTHING),
    runtimes: distinct(facts.flatMap(({ runtimes }) => runtimes)),
    arch: distinct(facts.map(({ arch }) => arch)),
    areas: distinct(facts.flatMap(({ area }) => area ?? [])),
    locations: circlesAround(facts.flatMap(({ location }) => location ?? [])),
    addons: distinct(facts.flatMap(addonsOf)),
    ...labelsOf(facts),
    portsTaken: distinct(open[0]?.portsTaken ?? []).filter((port) => open.every((n) => n.portsTaken.includes(port))),
    instances: open.reduce((sum, { instances }) => sum + instances, 0),
    ...(costs.length === 0 ? {} : { costPerHour: Math.min(...costs) }),
    regions: regionsAround(coordinates),
    measured: coordinates.length,
  }
}

/** A key that tells every node apart says nothing to the root. */
function labelsOf(facts: readonly NodeFacts[]): Pick<ClusterSummary, 'labels'> {
  const values = new Map<string, Set<string>>()
  for (const { labels } of facts) {
    for (const [key, value] of Object.entries(labels)) {
      const found = values.get(key) ?? new Set()
      if (found.size <= MOST_LABEL_VALUES) values.set(key, found.add(value))
      if (values.size > MOST_LABELS) return {}
    }
  }
  const listed = [...values].map(([key, found]) => [key, found.size > MOST_LABEL_VALUES ? [] : [...found].sort()])
  return { labels: Object.fromEntries(listed) as Record<string, string[]> }
}

function distinct(words: Iterable<string>): string[] {
  return [...new Set(words)].sort()
}
