import { MeshError } from '../../core/errors.ts'
import type { Clock } from '../../core/kit/clock.ts'
import type { Log } from '../../core/kit/log.ts'
import type { Channel } from '../../core/kit/websocket.ts'
import type { Metrics } from '../../core/metrics.ts'
import type { InterestKey } from '../../core/model/ids.ts'
import { Link, type NotificationHandlers, type RequestHandlers } from '../link/link.ts'
import { BATCH, clusterToRoot, rootToCluster, type KeyEntries } from '../link/messages.ts'
import { PeerLinks } from '../link/peer-links.ts'
import type { ClusterSummary } from '../scheduling/summary.ts'
import { reserve } from '../scheduling/capacity.ts'
import type { Capacity } from '../spec.ts'

export type ClusterLink = Link<typeof rootToCluster, typeof clusterToRoot>

/** A cluster whose link is up and that has said hello. */
export interface LinkedCluster {
  link: ClusterLink
  name: string
  /** `https://host:port` */
  url: string
  version: string
  summary: ClusterSummary
  /** The services it wants to be informed about: those its nodes asked for, and those it runs. */
  keys: Set<InterestKey>
  /** When its link came up, milliseconds since 1970. */
  since: number
}

/** What acts on the messages of clusters, and on their coming and going. */
export interface ClusterListener {
  requests(cluster: string, link: () => ClusterLink): RequestHandlers<typeof clusterToRoot>
  notifications(cluster: string): NotificationHandlers<typeof clusterToRoot>
  /** The cluster's link came up or went down. */
  changed(cluster: string): void
}

/** How many services one cluster may ask to be informed about. */
const MAX_KEYS = 100_000

export interface ClustersOptions {
  clock: Clock
  /** A cluster whose link has been down for this long is lost. */
  lostMs: number
}

/**
 * The clusters as their links show them.
 *
 *     away ─▶ link ─▶ hello: alive ─▶ link closed: away ─▶ lost (after `lostMs`)
 *                       ▲                  │                │
 *                       └───── hello ──────┴────────────────┘
 */
export class Clusters {
  readonly #options: ClustersOptions
  readonly #log: Log
  readonly #metrics: Metrics
  readonly #links: PeerLinks<ClusterLink>
  readonly #linked = new Map<string, LinkedCluster>()
  readonly #downSince = new Map<string, number>()
  #listener: ClusterListener | undefined

  /** `joined`: the names of all clusters that have ever joined. */
  constructor(options: ClustersOptions, joined: Iterable<string>, log: Log, metrics: Metrics) {
    this.#options = options
    this.#log = log
    this.#metrics = metrics
    this.#links = new PeerLinks((cluster, link) => {
      log.error('second process with the identity of a cluster refused', { cluster })
      link.notify('duplicate', {})
    })
    for (const name of joined) this.#downSince.set(name, options.clock.now())
  }

  /** Must be called before the first link is accepted. */
  listen(listener: ClusterListener): void {
    this.#listener = listener
  }

  /** Accepts a link whose certificate is this cluster's. It replaces an older one when it says hello. */
  accept(name: string, channel: Channel): void {
    if (this.#listener === undefined) throw new Error('a link arrived before listen()')
    const { clock } = this.#options
    const link: ClusterLink = new Link(
      channel,
      {
        sends: rootToCluster,
        receives: clusterToRoot,
        onRequest: this.#listener.requests(name, () => link),
        onNotification: this.#listener.notifications(name),
      },
      { tier: 'cluster', peer: name, clock, log: this.#log, metrics: this.#metrics },
    )
    this.#links.accept(name, link)
    void link.ended.then((end) => {
      if (this.#linked.get(name)?.link !== link) return // it never said hello, or was replaced
      this.#linked.delete(name)
      this.#downSince.set(name, clock.now())
      this.#log.warn('cluster link down', { cluster: name, reason: end.kind === 'closed' ? end.reason : end.kind })
      this.#listener?.changed(name)
    })
  }

  /** The link is the cluster's from now on. @throws MeshError DUPLICATE_IDENTITY, LINK_CLOSED */
  claim(name: string, link: ClusterLink, process?: string): Promise<void> {
    return this.#links.claim(name, link, process)
  }

  hello(cluster: Omit<LinkedCluster, 'since'>): void {
    this.#linked.set(cluster.name, { ...cluster, since: this.#options.clock.wall() })
    this.#downSince.delete(cluster.name)
    this.#log.info('cluster link up', { cluster: cluster.name, address: cluster.url })
    this.#listener?.changed(cluster.name)
  }

  linked(name: string): LinkedCluster | undefined {
    return this.#linked.get(name)
  }

  /** @throws MeshError LINK_CLOSED while the cluster is away */
  require(name: string): LinkedCluster {
    const cluster = this.#linked.get(name)
    if (cluster === undefined) throw new MeshError('LINK_CLOSED', { cluster: name })
    return cluster
  }

  all(): Iterable<LinkedCluster> {
    return this.#linked.values()
  }

  isLost(name: string): boolean {
    const since = this.#downSince.get(name)
    if (since === undefined) return !this.#linked.has(name)
    return this.#options.clock.now() - since > this.#options.lostMs
  }

  /** Takes the demand off the cluster's free capacity until its next summary, so that it is not counted on twice. */
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
      if (subscribed.size >= MAX_KEYS) {
        const reason = `this cluster already follows ${MAX_KEYS} services`
        throw new MeshError('REQUEST_FAILED', { cluster: name, reason })
      }
      subscribed.add(key)
    }
  }

  /** Sends each cluster the entries that it asked for. */
  publish(changed: readonly KeyEntries[]): void {
    for (const { link, keys } of this.#linked.values()) {
      const wanted = changed.filter(({ key }) => keys.has(key))
      sendEntries(link, wanted)
    }
  }

  notifyRevocations(list: string): void {
    for (const { link } of this.#linked.values()) link.notify('revocations', { list })
  }

  /** Ends the link of a cluster that was removed, and forgets it. */
  expel(name: string): void {
    this.#linked.delete(name)
    this.#downSince.delete(name)
    this.#links.expel(name, 'revoked')
    this.#listener?.changed(name)
  }

  close(): void {
    for (const link of this.#links.values()) link.goAway(Math.random() * 1_000)
  }
}

export function sendEntries(link: ClusterLink, entries: readonly KeyEntries[]): void {
  for (let start = 0; start < entries.length; start += BATCH)
    link.notify('known', { known: entries.slice(start, start + BATCH) })
}
