import { MeshError } from '../../core/errors.ts'
import type { Clock } from '../../core/kit/clock.ts'
import type { Log } from '../../core/kit/log.ts'
import type { Channel } from '../../core/kit/websocket.ts'
import type { Metrics } from '../../core/metrics.ts'
import type { InstanceId, InterestKey } from '../../core/model/ids.ts'
import { Link, type NotificationHandlers, type RequestHandlers } from '../link/link.ts'
import { SENT_AT_ONCE } from '../link/messages/protocol.ts'
import { clusterToRoot, rootToCluster, type KeyEntries } from '../link/messages/cluster-root.ts'
import { PeerLinks } from '../link/peer-links.ts'
import type { ClusterSummary } from '../scheduling/summary.ts'
import { release, reserve } from '../scheduling/capacity.ts'
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
  /** What is asked of it and neither accepted nor refused yet. */
  asked: Map<InstanceId, Capacity>
  /** Entries that wait until it has read what was sent. */
  later: Set<InterestKey>
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
  /** For this long a request of the API waits for the link of its cluster. */
  returnMs: number
  /** See link/held-back.ts. */
  pending?: () => Promise<void> | undefined
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
  /** Requests that wait for the link of a cluster, until `hello`. */
  readonly #waiting = new Set<{ name: string; settle: () => void }>()
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
    const { clock, pending } = this.#options
    const link: ClusterLink = new Link(
      channel,
      {
        sends: rootToCluster,
        receives: clusterToRoot,
        onRequest: this.#listener.requests(name, () => link),
        onNotification: this.#listener.notifications(name),
      },
      { tier: 'cluster', peer: name, clock, log: this.#log, metrics: this.#metrics, pending },
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

  hello(cluster: Omit<LinkedCluster, 'since' | 'asked' | 'later'>): void {
    this.#linked.set(cluster.name, {
      ...cluster,
      asked: new Map(),
      later: new Set(),
      since: this.#options.clock.wall(),
    })
    this.#downSince.delete(cluster.name)
    this.#log.info('cluster link up', { cluster: cluster.name, address: cluster.url })
    this.#listener?.changed(cluster.name)
    this.#settle(({ name }) => name === cluster.name)
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

  /**
   * The cluster, when it is there or comes soon: it may have been started a moment ago, or the root.
   * @throws MeshError LINK_CLOSED when it stays away
   */
  async linkedSoon(name: string): Promise<LinkedCluster> {
    const { clock, returnMs } = this.#options
    if (!this.#linked.has(name) && returnMs > 0) {
      const { promise, resolve } = Promise.withResolvers<void>()
      const waiting = { name, settle: resolve }
      this.#waiting.add(waiting)
      const cancel = clock.after(returnMs, resolve)
      await promise
      cancel()
      this.#waiting.delete(waiting)
    }
    return this.require(name)
  }

  all(): Iterable<LinkedCluster> {
    return this.#linked.values()
  }

  isLost(name: string): boolean {
    const since = this.#downSince.get(name)
    if (since === undefined) return !this.#linked.has(name)
    return this.#options.clock.now() - since > this.#options.lostMs
  }

  /** The cluster is asked to take it: its demand is off the free capacity from now on, so that it is not counted on twice. */
  ask(name: string, instance: InstanceId, demand: Capacity): void {
    const cluster = this.#linked.get(name)
    if (cluster === undefined) return
    cluster.asked.set(instance, demand)
    cluster.summary = lessOne(cluster.summary, demand)
  }

  /** It has accepted, and its next summary counts it; or it has refused. */
  answered(name: string, instance: InstanceId, { isAccepted }: { isAccepted: boolean }): void {
    const cluster = this.#linked.get(name)
    const demand = cluster?.asked.get(instance)
    if (cluster === undefined || demand === undefined) return
    cluster.asked.delete(instance)
    const { summary } = cluster
    if (!isAccepted)
      cluster.summary = { ...summary, free: release(summary.free, demand), instances: summary.instances - 1 }
  }

  /** A summary from before the cluster has answered does not count what it was asked. */
  summarised(name: string, summary: ClusterSummary): void {
    const cluster = this.#linked.get(name)
    if (cluster !== undefined)
      cluster.summary = [...cluster.asked.values()].reduce(lessOne, { ...summary, cluster: name })
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

  /**
   * Sends each cluster the entries that it asked for, but for the one by each key, if any; what waits for a slow one is sent as it is
   * then.
   */
  publish(
    changed: ReadonlyMap<InterestKey, string | undefined>,
    entriesOf: (key: InterestKey) => KeyEntries,
    toldTo: (cluster: string, entries: KeyEntries) => KeyEntries,
  ): void {
    const known = new Map<InterestKey, KeyEntries>()
    const once = (key: InterestKey) => {
      const entries = known.get(key) ?? entriesOf(key)
      known.set(key, entries)
      return entries
    }
    for (const cluster of this.#linked.values()) {
      const wanted = [...changed].flatMap(([key, except]) =>
        except !== cluster.name && cluster.keys.has(key) ? [key] : [],
      )
      if (wanted.length === 0) continue
      if (cluster.later.size === 0 && !cluster.link.isCongested) {
        const told = wanted.map((key) => toldTo(cluster.name, once(key)))
        sendEntries(cluster.link, told)
      } else sendLater(cluster, wanted, (key) => toldTo(cluster.name, entriesOf(key)))
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
    this.#settle((waiting) => waiting.name === name)
  }

  close(): void {
    this.#settle(() => true)
    for (const link of this.#links.values()) link.goAway(Math.random() * 1_000)
  }

  #settle(isMeant: (waiting: { name: string }) => boolean): void {
    for (const waiting of this.#waiting) if (isMeant(waiting)) waiting.settle()
  }
}

export function sendEntries(link: ClusterLink, entries: readonly KeyEntries[]): void {
  for (let start = 0; start < entries.length; start += SENT_AT_ONCE)
    link.notify('known', { known: entries.slice(start, start + SENT_AT_ONCE) })
}

/** Of many keys, a few in each turn of the event loop, as they are then. */
export async function sendInSlices(
  link: ClusterLink,
  keys: Iterable<InterestKey>,
  entriesOf: (key: InterestKey) => KeyEntries,
): Promise<void> {
  const all = [...keys]
  for (let start = 0; start < all.length && link.isOpen; start += SENT_AT_ONCE) {
    if (start > 0) await new Promise((resolve) => setImmediate(resolve))
    await link.uncongested()
    sendEntries(link, all.slice(start, start + SENT_AT_ONCE).map(entriesOf))
  }
}

function sendLater(
  { link, later }: LinkedCluster,
  keys: readonly InterestKey[],
  entriesOf: (key: InterestKey) => KeyEntries,
): void {
  const isUnderWay = later.size > 0
  for (const key of keys) later.add(key)
  if (isUnderWay) return
  const send = async () => {
    while (later.size > 0 && link.isOpen) {
      await link.uncongested()
      const some = [...later].slice(0, SENT_AT_ONCE)
      for (const key of some) later.delete(key)
      sendEntries(link, some.map(entriesOf))
    }
  }
  void send()
}

function lessOne(summary: ClusterSummary, demand: Capacity): ClusterSummary {
  return { ...summary, free: reserve(summary.free, demand), instances: summary.instances + 1 }
}
