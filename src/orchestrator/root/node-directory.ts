import type { Clock } from '../../core/kit/clock.ts'
import type { Log } from '../../core/kit/log.ts'
import { clusterOf } from '../../core/model/ids.ts'
import type { NodeRow } from '../link/messages/cluster-root.ts'
import type { Clusters } from './clusters.ts'
import type { KnownNodes, RootStore } from './root-store.ts'

/** A node for `get nodes`. */
export type ShownNode = Omit<NodeRow, 'condition'> & {
  /** `away`: its cluster does not answer, so this is what the cluster reported at `asOf`. */
  condition: NodeRow['condition'] | 'away'
  /** Milliseconds since 1970; only for `away`. */
  asOf?: number
  /** How old the information is; only for `away`. */
  ageSeconds?: number
}

export interface NodeDirectoryParts {
  store: RootStore
  clusters: Clusters
  clock: Clock
  log: Log
}

/** A cluster's list is fetched at most this often without being asked for. Smaller costs messages, larger shows older lists. */
const REFRESH_MS = 10_000

/**
 * The nodes of all clusters: live from those that are linked, and from the others as they were listed last. A cluster speaks only
 * of its own nodes; other rows are dropped.
 */
export class NodeDirectory {
  readonly #parts: NodeDirectoryParts
  readonly #refreshedAt = new Map<string, number>()
  readonly #timers = new Map<string, NodeJS.Timeout>()
  readonly #recentLists = new Map<string, { rows: Promise<NodeRow[]>; at: number }>()
  #refreshMs = REFRESH_MS
  #isClosed = false

  constructor(parts: NodeDirectoryParts) {
    this.#parts = parts
  }

  /** `maxAgeMs`: what was listed within this time is not asked for again. */
  async list(maxAgeMs = 0): Promise<ShownNode[]> {
    const { store } = this.#parts
    const lists = await Promise.all(store.clusters.keys().map((name) => this.#nodesOf(name, maxAgeMs)))
    return lists.flat().sort((a, b) => (a.id < b.id ? -1 : 1))
  }

  /** As it is known, without asking anybody. */
  listKnown(): ShownNode[] {
    const { store, clusters } = this.#parts
    const lists = store.clusters.keys().map((name): ShownNode[] => {
      return clusters.linked(name) === undefined ? this.#away(name) : (store.nodes.get(name)?.rows ?? [])
    })
    return lists.flat()
  }

  /** Lists of clusters that have changed are fetched at most this often; `undefined`: as when nobody watches. */
  refreshWithin(ms = REFRESH_MS): void {
    this.#refreshMs = ms
    const waiting = [...this.#timers.keys()]
    for (const timer of this.#timers.values()) clearTimeout(timer)
    this.#timers.clear()
    for (const cluster of waiting) this.refreshSoon(cluster)
  }

  /** What the cluster listed last, without asking it. */
  lastKnown(cluster: string): KnownNodes | undefined {
    return this.#parts.store.nodes.get(cluster)
  }

  /** Something may have been changed on purpose: whoever asks now is not given what was listed before. */
  forgetRecent(): void {
    this.#recentLists.clear()
  }

  /** The cluster has changed: its list is fetched again, so that it is known when the cluster is away. */
  refreshSoon(cluster: string): void {
    if (this.#isClosed || this.#timers.has(cluster)) return
    const { clock, log } = this.#parts
    const waitMs = Math.max(0, (this.#refreshedAt.get(cluster) ?? -Infinity) + this.#refreshMs - clock.now())
    const refresh = () => {
      this.#timers.delete(cluster)
      this.#refreshedAt.set(cluster, clock.now())
      this.#fetch(cluster).catch((error: unknown) => log.debug('nodes of a cluster not listed', { cluster, error }))
    }
    this.#timers.set(cluster, setTimeout(refresh, waitMs).unref())
  }

  close(): void {
    this.#isClosed = true
    for (const timer of this.#timers.values()) clearTimeout(timer)
  }

  async #nodesOf(cluster: string, maxAgeMs: number): Promise<ShownNode[]> {
    const { clusters } = this.#parts
    if (clusters.linked(cluster) !== undefined) {
      try {
        return await this.#recent(cluster, maxAgeMs)
      } catch {
        // its link has gone down in this moment
      }
    }
    return this.#away(cluster)
  }

  #away(cluster: string): ShownNode[] {
    const { store, clock } = this.#parts
    const known = store.nodes.get(cluster)
    if (known === undefined) return []
    const ageSeconds = Math.max(0, Math.round((clock.wall() - known.at) / 1_000))
    return known.rows.map(({ free: _free, ...row }) => ({ ...row, condition: 'away', asOf: known.at, ageSeconds }))
  }

  /** Those who ask at the same time share one answer. */
  #recent(cluster: string, maxAgeMs: number): Promise<NodeRow[]> {
    if (maxAgeMs <= 0) return this.#fetch(cluster)
    const { clock } = this.#parts
    const recent = this.#recentLists.get(cluster)
    if (recent !== undefined && clock.now() - recent.at < maxAgeMs) return recent.rows
    const rows = this.#fetch(cluster)
    this.#recentLists.set(cluster, { rows, at: clock.now() })
    rows.catch(() => this.#recentLists.delete(cluster))
    return rows
  }

  /** @throws MeshError LINK_CLOSED, REQUEST_TIMEOUT */
  async #fetch(cluster: string): Promise<NodeRow[]> {
    const { store, clusters, clock, log } = this.#parts
    const { link } = clusters.require(cluster)
    const rows: NodeRow[] = []
    for (let more = true, after = ''; more; ) {
      const page = await link.request('nodes.list', { after })
      rows.push(...page.nodes)
      const last = page.nodes.at(-1)?.id ?? ''
      more = page.more && last > after
      after = last
    }
    const own = rows.filter(({ id }) => clusterOf(id) === cluster)
    if (own.length < rows.length) log.warn('a cluster listed nodes that are not its own', { cluster })
    if (!this.#isClosed && store.clusters.get(cluster) !== undefined)
      store.nodes.put(cluster, { rows: own, at: clock.wall() })
    return own
  }
}
