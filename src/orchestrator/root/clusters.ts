import type { Clock } from '../../core/kit/clock.ts'
import type { Log } from '../../core/kit/log.ts'
import type { Channel } from '../../core/kit/websocket.ts'
import type { Metrics } from '../../core/metrics.ts'
import { MeshError } from '../../core/errors.ts'
import type { InterestKey } from '../../core/model/ids.ts'
import { Link, type RequestHandlers, type NotificationHandlers } from '../link/link.ts'
import { BATCH, clusterToRoot, rootToCluster, type KeyEntries } from '../link/messages.ts'
import { reserve } from '../scheduling/capacity.ts'
import type { ClusterSummary } from '../scheduling/candidate.ts'
import type { Capacity } from '../spec.ts'

export type ClusterLink = Link<typeof rootToCluster, typeof clusterToRoot>

/** A cluster whose link is up and that has said hello. */
export interface LinkedCluster {
  link: ClusterLink
  name: string
  url: string
  version: string
  summary: ClusterSummary
  /** What it wants to be told about: what its nodes asked for, and what it runs. */
  keys: Set<InterestKey>
  since: number
}

/** Keys one cluster may ask to be told about. */
const MAX_KEYS = 100_000

export interface ClustersOptions {
  clock: Clock
  /** A cluster whose link is down for so long is lost. */
  lostMs: number
  requests: (cluster: string, link: () => ClusterLink) => RequestHandlers<typeof clusterToRoot>
  notifications: (cluster: string) => NotificationHandlers<typeof clusterToRoot>
  onChange: (cluster: string) => void
}

/** The clusters as their links show them. The state of a cluster that is away is how long it has been. */
export class Clusters {
  readonly #options: ClustersOptions
  readonly #log: Log
  readonly #metrics: Metrics
  readonly #links = new Map<string, ClusterLink>()
  readonly #linked = new Map<string, LinkedCluster>()
  readonly #downSince = new Map<string, number>()

  constructor(options: ClustersOptions, known: Iterable<string>, log: Log, metrics: Metrics) {
    this.#options = options
    this.#log = log
    this.#metrics = metrics
    for (const name of known) this.#downSince.set(name, options.clock.now())
  }

  /** Takes a link whose certificate says it is this cluster; an older link of the same cluster ends. */
  take(name: string, channel: Channel): void {
    const { clock, requests, notifications } = this.#options
    this.#links.get(name)?.close('another link of this cluster')
    const link: ClusterLink = new Link(
      channel,
      {
        sends: rootToCluster,
        receives: clusterToRoot,
        onRequest: requests(name, () => link),
        onNotification: notifications(name),
      },
      { tier: 'cluster', peer: name, clock, log: this.#log, metrics: this.#metrics },
    )
    this.#links.set(name, link)
    void link.ended.then((end) => {
      if (this.#links.get(name) !== link) return
      this.#links.delete(name)
      this.#linked.delete(name)
      this.#downSince.set(name, clock.now())
      this.#log.warn('cluster link down', { cluster: name, reason: end.kind === 'closed' ? end.reason : end.kind })
      this.#options.onChange(name)
    })
  }

  hello(cluster: Omit<LinkedCluster, 'since'>): void {
    this.#linked.set(cluster.name, { ...cluster, since: this.#options.clock.wall() })
    this.#downSince.delete(cluster.name)
    this.#log.info('cluster link up', { cluster: cluster.name, address: cluster.url })
    this.#options.onChange(cluster.name)
  }

  linked(name: string): LinkedCluster | undefined {
    return this.#linked.get(name)
  }

  /** @throws MeshError LINK_CLOSED */
  demand(name: string): LinkedCluster {
    const cluster = this.#linked.get(name)
    if (cluster === undefined) throw new MeshError('LINK_CLOSED', { cluster: name })
    return cluster
  }

  all(): Iterable<LinkedCluster> {
    return this.#linked.values()
  }

  isLost(name: string): boolean {
    const since = this.#downSince.get(name)
    if (since === undefined) return !this.#linked.has(name) && !this.#links.has(name)
    return this.#options.clock.now() - since > this.#options.lostMs
  }

  /** Until the next summary comes: a second placement must not see the same free capacity. */
  reserve(name: string, demand: Capacity): void {
    const cluster = this.#linked.get(name)
    if (cluster === undefined) return
    const { summary } = cluster
    cluster.summary = { ...summary, free: reserve(summary.free, demand), instances: summary.instances + 1 }
  }

  subscribe(name: string, keys: Iterable<InterestKey>): void {
    const subscribed = this.#linked.get(name)?.keys
    if (subscribed === undefined) return
    for (const key of keys) {
      if (subscribed.size >= MAX_KEYS)
        throw new MeshError('REQUEST_FAILED', { cluster: name, reason: 'too many interests' })
      subscribed.add(key)
    }
  }

  /** Tells every cluster that asked. */
  publish(known: readonly KeyEntries[]): void {
    for (const { link, keys } of this.#linked.values())
      sendEntries(
        link,
        known.filter(({ key }) => keys.has(key)),
      )
  }

  close(): void {
    for (const link of this.#links.values()) link.goAway(Math.random() * 1_000)
  }
}

export function sendEntries(link: ClusterLink, known: readonly KeyEntries[]): void {
  for (let start = 0; start < known.length; start += BATCH)
    link.notify('known', { known: known.slice(start, start + BATCH) })
}
