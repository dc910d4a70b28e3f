import type { ClusterStore } from './cluster-store.ts'
import type { EntryCache } from './entry-cache.ts'
import type { Nodes } from './nodes.ts'
import type { Publisher } from './publisher.ts'
import type { RootLink } from './root-link.ts'

/** Interests nobody has had for an hour are dropped. */
export const SWEEP_MS = 60_000
const IDLE_SWEEPS = 60

/** Forgets what no node here wants and nothing here runs; called every SWEEP_MS. */
export function sweeper({
  entryCache,
  nodes,
  store,
  publisher,
  root,
}: {
  entryCache: EntryCache
  nodes: Nodes
  store: ClusterStore
  publisher: Publisher
  root: RootLink
}): () => void {
  const idle = new Map<string, number>()
  return () => {
    const busy = new Set([...store.assignments.all()].map(({ assignment }) => assignment.spec.id))
    const dropped: string[] = []
    for (const key of entryCache.keys()) {
      const isBusy = nodes.wants(key) || (entryCache.get(key) ?? []).some(({ service }) => busy.has(service.id))
      const sweeps = isBusy ? 0 : (idle.get(key) ?? 0) + 1
      if (sweeps < IDLE_SWEEPS) idle.set(key, sweeps)
      else {
        idle.delete(key)
        publisher.drop(key)
        dropped.push(key)
      }
    }
    if (dropped.length > 0) root.forget(dropped.slice(0, 10_000))
  }
}
