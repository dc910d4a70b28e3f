import { isMeshError } from '../../core/errors.ts'
import type { Clock } from '../../core/kit/clock.ts'
import type { Log } from '../../core/kit/log.ts'
import type { Channel } from '../../core/kit/websocket.ts'
import type { Metrics } from '../../core/metrics.ts'
import type { InterestKey, NodeId } from '../../core/model/ids.ts'
import { HANDED_OVER, Link, type NotificationHandlers, type RequestHandlers } from '../link/link.ts'
import { clusterToNode, nodeToCluster } from '../link/messages/node-cluster.ts'
import { PeerLinks } from '../link/peer-links.ts'
import type { Condition } from '../scheduling/candidate.ts'
import type { NodeFacts } from '../spec.ts'
import type { Flaps } from './flaps.ts'
import { type Follower, Followers } from './followers.ts'

export type NodeLink = Link<typeof clusterToNode, typeof nodeToCluster>

/** A node whose link is up and that has said hello. */
export interface LinkedNode extends Follower {
  id: NodeId
  facts: NodeFacts
  /** When its link came up, milliseconds since 1970. */
  since: number
}

/** What acts on the messages of nodes, and on their loss. */
export interface NodeListener {
  requests(node: NodeId, link: () => NodeLink): RequestHandlers<typeof nodeToCluster>
  notifications(node: NodeId): NotificationHandlers<typeof nodeToCluster>
  lost(node: NodeId): void
}

export interface NodesOptions {
  clock: Clock
  /** How long a node whose link was closed may take to return before it is lost. A silent node is lost at once. */
  graceMs: number
  /** How long a process that ended may take to be started again: see `mayReturn`. */
  returnMs: number
  /** Somebody wants the node to take nothing new. */
  isCordoned: (node: NodeId) => boolean
  /** How often their links went down lately. */
  flaps: Pick<Flaps, 'down' | 'count' | 'dampedMs'>
  /** See link/held-back.ts. */
  pending?: () => Promise<void> | undefined
}

/** A process that said that it ends or hands over gets so much longer: on a small or busy machine its successor takes many seconds to say hello. */
const LEAVING_GRACE = 15

/**
 * That a node is lost is tried again after this time while the disk is full. Smaller takes those that come again as soon as there is room for
 * lost; larger places later what lost ones ran.
 */
const FULL_DISK_MS = 10_000

/**
 * The nodes as their links show them.
 *
 *     away ─▶ link ─▶ hello: alive ─▶ link closed: grace ─▶ lost
 *                       │  ▲                 │               │
 *                       │  └──────  hello  ──┴───────────────┘
 *                       └── silent or revoked ─────────────▶ lost
 *
 * A closed link means that the agent's process ended while its machine and the instances there may go on, and a supervisor starts it
 * again (see `mayReturn`). Silence means that the machine or its network is gone.
 */
export class Nodes {
  readonly #options: NodesOptions
  readonly #log: Log
  readonly #metrics: Metrics
  readonly #links: PeerLinks<NodeLink>
  readonly #duplicateAt = new Map<NodeId, number>()
  readonly #alive = new Map<NodeId, LinkedNode>()
  readonly #grace = new Map<NodeId, NodeJS.Timeout>()
  readonly followers = new Followers()
  readonly #flaps: NodesOptions['flaps']
  /** Nodes whose process has said that it ends. */
  readonly #leaving = new Set<NodeId>()
  /** Nodes whose process ended, and when by the monotonic clock. */
  readonly #closed = new Map<NodeId, { at: number; isAnnounced: boolean }>()
  /** When their links ended, by the monotonic clock. */
  readonly #downAt = new Map<NodeId, number>()
  readonly #startedAt: number
  #listener: NodeListener | undefined
  #isClosed = false

  constructor(options: NodesOptions, log: Log, metrics: Metrics) {
    this.#options = options
    this.#flaps = options.flaps
    this.#startedAt = options.clock.now()
    this.#log = log
    this.#metrics = metrics
    this.#links = new PeerLinks((node, link) => this.#reportDuplicate(node, link))
  }

  /** Must be called before the first link is accepted. */
  listen(listener: NodeListener): void {
    this.#listener = listener
  }

  /** After a restart: nodes that ran something may come back within this time before they are lost. */
  expect(nodes: Iterable<NodeId>, withinMs: number): void {
    for (const node of nodes) this.#waitFor(node, withinMs)
    this.#count()
  }

  /** Accepts a link whose certificate is this node's. It replaces an older one when it says hello. */
  accept(node: NodeId, channel: Channel): void {
    if (this.#listener === undefined) throw new Error('a link arrived before listen()')
    const { clock, pending } = this.#options
    const link: NodeLink = new Link(
      channel,
      {
        sends: clusterToNode,
        receives: nodeToCluster,
        onRequest: this.#listener.requests(node, () => link),
        onNotification: this.#listener.notifications(node),
      },
      { tier: 'node', peer: node, clock, log: this.#log, metrics: this.#metrics, pending },
    )
    this.#links.accept(node, link)
    void link.ended.then((end) => {
      if (this.#alive.get(node)?.link !== link) return // it never said hello, or was replaced
      this.#forget(node)
      this.#downAt.set(node, this.#options.clock.now())
      const isHandedOver = end.kind === 'closed' && end.reason === HANDED_OVER
      const isAnnounced = this.#leaving.delete(node) || isHandedOver
      if (end.kind !== 'away' && !this.#isClosed) this.#flaps.down(node, { at: this.#options.clock.now(), isAnnounced })
      this.#log.warn('node link down', { node, reason: end.kind === 'closed' ? end.reason : end.kind })
      if (end.kind === 'silent') this.#lose(node)
      else {
        this.#closed.set(node, { at: this.#options.clock.now(), isAnnounced })
        this.#waitFor(node, isAnnounced ? LEAVING_GRACE * this.#options.graceMs : this.#options.graceMs)
      }
      this.#count()
    })
  }

  /** @throws MeshError DUPLICATE_IDENTITY, LINK_CLOSED */
  async hello(node: Omit<LinkedNode, 'since' | 'keys'>, process?: string): Promise<LinkedNode> {
    await this.#links.claim(node.id, node.link, process)
    const linked = { ...node, keys: new Set<InterestKey>(), since: this.#options.clock.wall() }
    this.#forget(node.id)
    this.#alive.set(node.id, linked)
    this.followers.join(linked)
    clearTimeout(this.#grace.get(node.id))
    this.#grace.delete(node.id)
    this.#leaving.delete(node.id)
    this.#closed.delete(node.id)
    this.#log.info('node link up', { node: node.id })
    this.#count()
    return linked
  }

  /** Cuts the node's link; the node is lost at once. */
  expel(node: NodeId, reason: string): void {
    this.#forget(node)
    this.#downAt.set(node, this.#options.clock.now())
    this.#closed.delete(node)
    this.#links.expel(node, reason)
    this.#lose(node)
    this.#count()
  }

  /** The node's process hands over to another one, or ends and leaves its instances for the next one. */
  handOver(node: NodeId, isLeaving: boolean): void {
    this.#links.handOver(node, isLeaving)
    if (isLeaving) this.#leaving.add(node)
    else this.#leaving.delete(node)
  }

  /**
   * Whether the process of a lost node ended so recently that it may be starting again, with its instances running meanwhile:
   * `announced` where it said so, and they need no other place.
   */
  mayReturn(node: NodeId): 'announced' | 'perhaps' | undefined {
    const closed = this.#closed.get(node)
    if (closed === undefined) return undefined
    if (this.#options.clock.now() - closed.at < this.#options.returnMs)
      return closed.isAnnounced ? 'announced' : 'perhaps'
    this.#closed.delete(node)
    return undefined
  }

  /**
   * For how long it has certainly got no answer from this cluster, by the monotonic clock; 0 while it is linked. Of one that has not been
   * here since the cluster was started: since then.
   */
  awayMs(node: NodeId): number {
    if (this.#alive.has(node)) return 0
    return this.#options.clock.now() - (this.#downAt.get(node) ?? this.#startedAt)
  }

  /** When a second process with the identity of this node was refused last, milliseconds since 1970. */
  duplicateAt(node: NodeId): number | undefined {
    return this.#duplicateAt.get(node)
  }

  /** How often its link went down lately. */
  linksLost(node: NodeId): number {
    return this.#flaps.count(node, this.#options.clock.now())
  }

  /** Its link went down so often that it is given nothing that another node takes, for this long; 0 when it is relied on. */
  dampedMs(node: NodeId): number {
    return this.#flaps.dampedMs(node, this.#options.clock.now())
  }

  /** Of a linked node, for the scheduler. */
  conditionOf(node: NodeId): Condition {
    if (this.#options.isCordoned(node)) return 'cordoned'
    return this.dampedMs(node) > 0 ? 'flapping' : 'alive'
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

  notifyRevocations(list: string): void {
    for (const { link } of this.#alive.values()) link.notify('revocations', { list })
  }

  notifyRenew(isBehind: (node: NodeId) => boolean): void {
    for (const { id, link } of this.#alive.values()) if (isBehind(id)) link.notify('renew', {})
  }

  notifyRelays(relays: string[]): void {
    for (const { link } of this.#alive.values()) link.notify('relays', { relays })
  }

  close(): void {
    this.#isClosed = true
    for (const timer of this.#grace.values()) clearTimeout(timer)
    // spread out, so that a thousand nodes do not return in the same moment
    const links = this.#links.values()
    for (const link of links) link.goAway(Math.random() * Math.min(2_000, 2 * links.length))
  }

  #forget(node: NodeId): void {
    const linked = this.#alive.get(node)
    if (linked !== undefined) this.followers.leave(linked)
    this.#alive.delete(node)
  }

  /** What it said cannot be kept: it comes again, and says all of it. */
  putOff(node: NodeId): void {
    this.#leaving.add(node) // it has done nothing wrong
    this.#alive.get(node)?.link.goAway((LEAVING_GRACE * this.#options.graceMs) / 5)
  }

  #reportDuplicate(node: NodeId, link: NodeLink): void {
    this.#duplicateAt.set(node, this.#options.clock.wall())
    this.#log.error('second process with the identity of a node refused', { node })
    link.notify('duplicate', {})
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
    try {
      this.#listener?.lost(node)
    } catch (error) {
      if (!isMeshError(error, 'DISK_FULL')) throw error
      this.#log.warn('a lost node keeps its instances until the disk has room', { node, error })
      this.#waitFor(node, FULL_DISK_MS)
    }
  }

  #count(): void {
    this.#metrics.nodes.labels('alive').set(this.#alive.size)
    this.#metrics.nodes.labels('away').set(this.#grace.size)
  }
}

/** `n1` of `edge/n1`. */
export function nameOf(id: NodeId): string {
  return id.slice(id.indexOf('/') + 1)
}
