import type { Clock } from '../../core/kit/clock.ts'
import type { Log } from '../../core/kit/log.ts'
import type { Channel } from '../../core/kit/websocket.ts'
import type { Metrics } from '../../core/metrics.ts'
import type { Change } from '../../core/model/change.ts'
import type { InterestKey, NodeId } from '../../core/model/ids.ts'
import { Link, type RequestHandlers, type NotificationHandlers } from '../link/link.ts'
import { clusterToNode, nodeToCluster } from '../link/messages.ts'
import type { NodeFacts } from '../spec.ts'

export type NodeLink = Link<typeof clusterToNode, typeof nodeToCluster>

/** A node whose link is up and that has said hello. */
export interface LinkedNode {
  id: NodeId
  link: NodeLink
  facts: NodeFacts
  /** What it wants to be told about. */
  keys: Set<InterestKey>
  since: number
}

export interface NodesOptions {
  clock: Clock
  /** A closed link may come back within this time before the node counts as lost; a silent one counts at once. */
  graceMs: number
  requests: (node: NodeId, link: () => NodeLink) => RequestHandlers<typeof nodeToCluster>
  notifications: (node: NodeId) => NotificationHandlers<typeof nodeToCluster>
  onLost: (node: NodeId) => void
}

/**
 * The nodes as their links show them.
 *
 *     away ─▶ link ─▶ hello: alive ─▶ link closed: grace ─▶ lost
 *                       │  ▲                 │               │
 *                       │  └──────  hello  ──┴───────────────┘
 *                       └── silent or revoked ─────────────▶ lost
 */
export class Nodes {
  readonly #options: NodesOptions
  readonly #log: Log
  readonly #metrics: Metrics
  readonly #links = new Map<NodeId, NodeLink>()
  readonly #alive = new Map<NodeId, LinkedNode>()
  readonly #grace = new Map<NodeId, NodeJS.Timeout>()
  #isClosed = false

  constructor(options: NodesOptions, log: Log, metrics: Metrics) {
    this.#options = options
    this.#log = log
    this.#metrics = metrics
  }

  /** After a restart: nodes that had work may come back before they count as lost. */
  expect(nodes: Iterable<NodeId>, withinMs: number): void {
    for (const node of nodes) this.#waitFor(node, withinMs)
    this.#count()
  }

  /** Takes a link whose certificate says it is this node; an older link of the same node ends. */
  take(node: NodeId, channel: Channel): void {
    const { clock, requests, notifications, graceMs } = this.#options
    this.#links.get(node)?.close('another link of this node')
    const link: NodeLink = new Link(
      channel,
      {
        sends: clusterToNode,
        receives: nodeToCluster,
        onRequest: requests(node, () => link),
        onNotification: notifications(node),
      },
      { tier: 'node', peer: node, clock, log: this.#log, metrics: this.#metrics },
    )
    this.#links.set(node, link)
    void link.ended.then((end) => {
      if (this.#links.get(node) !== link) return
      this.#links.delete(node)
      const wasAlive = this.#alive.delete(node)
      this.#log.warn('node link down', { node, reason: end.kind === 'closed' ? end.reason : end.kind })
      if (end.kind === 'silent') this.#lose(node)
      else if (wasAlive) this.#waitFor(node, graceMs)
      this.#count()
    })
  }

  hello(node: Omit<LinkedNode, 'since' | 'keys'>): LinkedNode {
    const linked = { ...node, keys: new Set<InterestKey>(), since: this.#options.clock.wall() }
    this.#alive.set(node.id, linked)
    clearTimeout(this.#grace.get(node.id))
    this.#grace.delete(node.id)
    this.#log.info('node link up', { node: node.id })
    this.#count()
    return linked
  }

  /** Cuts the node's link; it counts as lost at once. */
  expel(node: NodeId, reason: string): void {
    const link = this.#links.get(node)
    this.#links.delete(node)
    this.#alive.delete(node)
    link?.close(reason)
    this.#lose(node)
    this.#count()
  }

  alive(node: NodeId): LinkedNode | undefined {
    return this.#alive.get(node)
  }

  /** True while it is linked, or may still come back. */
  isExpected(node: NodeId): boolean {
    return this.#alive.has(node) || this.#grace.has(node)
  }

  all(): Iterable<LinkedNode> {
    return this.#alive.values()
  }

  wants(key: InterestKey): boolean {
    return this.#alive.values().some(({ keys }) => keys.has(key))
  }

  /** Each node hears of the keys it asked for, in order. */
  publish(epoch: string, changes: readonly Change[]): void {
    for (const { link, keys } of this.#alive.values()) {
      const mine = changes.filter(({ key }) => keys.has(key))
      if (mine.length > 0) link.notify('changes', { epoch, changes: mine })
    }
  }

  tellRevoked(nodes: NodeId[]): void {
    for (const { link } of this.#alive.values()) link.notify('revoked', { nodes })
  }

  tellRelays(relays: string[]): void {
    for (const { link } of this.#alive.values()) link.notify('relays', { relays })
  }

  close(): void {
    this.#isClosed = true
    for (const timer of this.#grace.values()) clearTimeout(timer)
    // a thousand nodes do not come back in the same moment
    for (const link of this.#links.values()) link.goAway(Math.random() * Math.min(2_000, 2 * this.#links.size))
  }

  #waitFor(node: NodeId, ms: number): void {
    clearTimeout(this.#grace.get(node))
    const timer = setTimeout(() => {
      this.#lose(node)
      this.#count()
    }, ms)
    timer.unref()
    this.#grace.set(node, timer)
  }

  #lose(node: NodeId): void {
    clearTimeout(this.#grace.get(node))
    this.#grace.delete(node)
    if (this.#isClosed) return
    this.#log.warn('node lost', { node })
    this.#options.onLost(node)
  }

  #count(): void {
    this.#metrics.nodes.labels('alive').set(this.#alive.size)
    this.#metrics.nodes.labels('away').set(this.#grace.size)
  }
}
