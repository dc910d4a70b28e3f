import type { ClusterRow, EventRow, InstanceRow, LinkRow, NodeRow, ServiceRow } from './rows.ts'

/** All that the page knows of the mesh. */
export interface Mesh {
  clusters: readonly ClusterRow[]
  nodes: readonly NodeRow[]
  services: readonly ServiceRow[]
  instances: readonly InstanceRow[]
  /** How nodes reach each other: asked for beside the watch. */
  links: readonly LinkRow[]
  /** Oldest first. */
  events: readonly EventRow[]
}

export const NOTHING_YET: Mesh = { clusters: [], nodes: [], services: [], instances: [], links: [], events: [] }

/** Whether what is shown is what is. */
export type Link =
  | { state: 'connecting' }
  | { state: 'live' }
  /** What is shown was so at `since`. */
  | { state: 'lost'; since: number; why: string }

/** Older events are forgotten: they are a page's memory, not the mesh's. */
const MOST_EVENTS = 2_000

/** Those of both by number, without what was told twice. */
export function withEvents(known: readonly EventRow[], more: readonly EventRow[]): EventRow[] {
  const last = known.at(-1)?.number ?? -1
  const isNext = more.every(({ number }, at) => number > (more[at - 1]?.number ?? last))
  if (isNext) return [...known, ...more].slice(-MOST_EVENTS)
  const all = new Map([...known, ...more].map((event) => [event.number, event]))
  return [...all.values()].toSorted((a, b) => a.number - b.number).slice(-MOST_EVENTS)
}

export const LISTS = ['clusters', 'nodes', 'services', 'instances'] as const
export type ListKind = (typeof LISTS)[number]
