import { randomBytes } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { Principal } from '../../src/core/identity/contract.ts'
import type { Log } from '../../src/core/kit/log.ts'
import { queryOf } from '../../src/core/kit/request-target.ts'
import { acceptUpgrade, asksForBytes } from '../../src/core/kit/upgrade.ts'
import { refuseUpgrade, WebSocketAcceptor, type WebSocketLimits } from '../../src/core/kit/websocket-acceptor.ts'
import type { Metrics } from '../../src/core/metrics.ts'
import type { NodeId } from '../../src/core/model/ids.ts'
import { join } from './join.ts'
import { RELAY_LIMITS, type RelayLimits } from './limits.ts'
import { Listeners, type ListenerEvents } from './listeners.ts'
import type { Observer } from './observer.ts'
import { Pairings, type LegRequest, type Pairing, type Side } from './pairings.ts'
import { ConnectionQuotas } from './quotas.ts'
import { RateLimits } from './rate-limit.ts'
import { RequestRate } from './request-rate.ts'
import { LEG_REQUEST, LISTEN, PING, REFUSALS, SIGNALS, TAKE, TO, type RelayRefusal } from './wire/messages.ts'

/** A channel that only measures is closed after this. */
const PING_MS = 15_000
/** A node has one control channel, and a second one while it reconnects; nothing it sends is longer than a signal. */
const CONTROL_LIMITS: WebSocketLimits = { messageBytes: 8 * 1024, connections: 4, unfinishedBytes: 64 * 1024 }
/** A channel that only measures carries no messages. */
const PING_LIMITS: WebSocketLimits = { messageBytes: 125, connections: 8, unfinishedBytes: 16 * 1024 }
/** The quotas bound the connections; senders write 64 KiB at a time. */
const LEG_LIMITS: WebSocketLimits = { messageBytes: 1024 * 1024, connections: Infinity, unfinishedBytes: Infinity }
/** Legs whose two ends have both vanished are found by the kernel. */
const KEEPALIVE_MS = 30_000

/** The relay (protocol: wire/messages.ts). It learns which nodes are connected and how much they send, and never what. */
export class Relay implements AsyncDisposable, ListenerEvents {
  readonly #quotas: ConnectionQuotas
  readonly #rateLimits: RateLimits
  readonly #requests: RequestRate
  readonly #log: Log
  readonly #metrics: RelayMetrics
  readonly #controlChannels = new WebSocketAcceptor(CONTROL_LIMITS)
  readonly #pingChannels = new WebSocketAcceptor(PING_LIMITS)
  readonly #webSocketLegs = new WebSocketAcceptor(LEG_LIMITS)
  readonly #listeners: Listeners
  readonly #pairings: Pairings
  /** The joined legs, and the two nodes of each. */
  readonly #legs = new Map<Duplex, { from: NodeId; to: NodeId }>()
  #isClosing = false

  private constructor(limits: RelayLimits, log: Log, metrics: RelayMetrics) {
    const { takeMs, nodeBytesPerSecond, nodeRequestsPerSecond, ...quotas } = limits
    this.#log = log.child({ part: 'relay' })
    this.#metrics = metrics
    this.#listeners = new Listeners(this, this.#log, metrics.relayListeners)
    this.#pairings = new Pairings({ takeMs, refuse: (leg, refusal) => this.#refuse(leg, refusal) })
    this.#quotas = new ConnectionQuotas(quotas)
    this.#rateLimits = new RateLimits(nodeBytesPerSecond, () => metrics.relayPauses.inc())
    this.#requests = new RequestRate(nodeRequestsPerSecond)
  }

  static create(limits: Partial<RelayLimits>, log: Log, metrics: RelayMetrics): Relay {
    return new Relay({ ...RELAY_LIMITS, ...limits }, log, metrics)
  }

  /** From now on `welcome` tells listeners about the observer. */
  announce(observer: Observer): void {
    this.#listeners.observer = observer
  }

  /** The nodes that keep a control channel here. */
  get listening(): Iterable<NodeId> {
    return this.#listeners.nodes
  }

  /** Every node that listens here or has a relayed connection. */
  get nodes(): Set<NodeId> {
    const legs = Array.from(this.#legs.values(), ({ from, to }) => [from, to]).flat()
    return new Set([...this.#listeners.nodes, ...legs])
  }

  /** Answers an upgrade of `/relay?…`; the caller has proved the principal by its certificate. */
  upgrade(request: IncomingMessage, socket: Duplex, head: Buffer, principal: Principal): void {
    const leg: LegRequest = { request, socket, head }
    socket.on('error', () => socket.destroy())
    if (socket instanceof Socket) socket.setNoDelay(true).setKeepAlive(true, KEEPALIVE_MS)
    if (this.#isClosing) return this.#refuse(leg, 'relay is closing')
    if (principal.role !== 'node') return this.#refuse(leg, 'not a node')
    this.#route(leg, `${principal.cluster}/${principal.node}`)
  }

  /** Ends everything of a node whose certificate was revoked. */
  cut(node: NodeId): void {
    this.#listeners.close(node, 'revoked')
    for (const pairing of this.#pairings.all()) {
      if (pairing.from === node || pairing.to === node) this.#end(pairing, 'node not connected here')
    }
    for (const [leg, { from, to }] of this.#legs) if (from === node || to === node) leg.destroy()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosing = true
    for (const pairing of this.#pairings.all()) this.#end(pairing, 'relay is closing')
    this.#listeners.sendAway()
    for (const leg of this.#legs.keys()) leg.destroy()
  }

  // ── what listeners report ──

  /** The announcements that a channel which was already dead has missed are repeated. */
  arrived(node: NodeId): void {
    for (const { nonce, from, to, legs } of this.#pairings.all()) {
      if (to === node && legs.taken === undefined) this.#listeners.send(node, { type: 'incoming', from, nonce })
    }
  }

  /** An announcement that is not accepted is not answered; the leg that follows is. */
  legRequested(from: NodeId, { to, nonce }: { to: NodeId; nonce: string }): void {
    if (this.#pairings.of(nonce) === undefined && this.#requests.allows(from)) this.#pair({ from, to, nonce })
  }

  legRefused(by: NodeId, nonce: string): void {
    const pairing = this.#pairings.of(nonce)
    if (pairing?.to === by) this.#end(pairing, 'refused by the node')
  }

  legWithdrawn(by: NodeId, nonce: string): void {
    const pairing = this.#pairings.of(nonce)
    if (pairing?.from === by) this.#end(pairing, 'nonce unknown or used')
  }

  // ── requests ──

  #route(leg: LegRequest, node: NodeId): void {
    const query = queryOf(leg.request.url)
    const to = query.get(TO)
    const nonce = query.get(TAKE)
    const announced = query.has(LEG_REQUEST) ? this.#pairings.of(query.get(LEG_REQUEST) ?? '') : undefined
    const isCounted = announced?.from === node
    // taking is not counted: others make a node do it, and must not be able to use up its share
    if (nonce === null && !isCounted && !this.#requests.allows(node)) return this.#refuse(leg, 'too many connections')
    if (query.size === 1 && query.has(LISTEN)) this.#listen(leg, node, query.get(LISTEN) === SIGNALS)
    else if (query.size === (query.has(LEG_REQUEST) ? 2 : 1) && to !== null)
      this.#dial(leg, { from: node, to }, announced)
    else if (query.size === 1 && nonce !== null) this.#take(leg, node, nonce)
    else if (query.size === 1 && query.has(PING)) this.#ping(leg, node)
    else this.#refuse(leg, 'malformed')
  }

  #listen({ request, socket, head }: LegRequest, node: NodeId, hasSignals: boolean): void {
    this.#controlChannels.acceptText({ request, socket, head, peer: node }, (channel) =>
      this.#listeners.add(node, channel, request, hasSignals),
    )
  }

  #ping({ request, socket, head }: LegRequest, node: NodeId): void {
    this.#pingChannels.acceptText({ request, socket, head, peer: node }, (channel) => {
      const timer = setTimeout(() => channel.close('measured'), PING_MS)
      channel.onClose(() => clearTimeout(timer))
    })
  }

  #dial(leg: LegRequest, { from, to }: Pick<Pairing, 'from' | 'to'>, announced: Pairing | undefined): void {
    const isAnnounced = announced?.from === from && announced.to === to && announced.legs.dialled === undefined
    const pairing = isAnnounced ? announced : this.#pair({ from, to, nonce: randomBytes(16).toString('hex') })
    if (typeof pairing === 'string') return this.#refuse(leg, pairing)
    this.#addLeg(pairing, 'dialled', leg)
  }

  #take(leg: LegRequest, node: NodeId, nonce: string): void {
    const pairing = this.#pairings.of(nonce)
    if (pairing?.to !== node || pairing.legs.taken !== undefined) return this.#refuse(leg, 'nonce unknown or used')
    this.#addLeg(pairing, 'taken', leg)
  }

  /** Counts against the quotas before it keeps anything: what a node makes us hold is bounded first. */
  #pair({ from, to, nonce }: Pick<Pairing, 'from' | 'to' | 'nonce'>): Pairing | RelayRefusal {
    if (!this.#listeners.has(to) || to === from) return 'node not connected here'
    const releaseQuota = this.#quotas.take(from, to)
    if (releaseQuota === undefined) {
      this.#log.warn('too many connections through the relay', { node: from, peer: to })
      return 'too many connections'
    }
    this.#listeners.send(to, { type: 'incoming', from, nonce })
    return this.#pairings.begin({ nonce, from, to }, releaseQuota)
  }

  #addLeg(pairing: Pairing, side: Side, leg: LegRequest): void {
    const complete = this.#pairings.addLeg(pairing, side, leg)
    if (complete === undefined) return
    const dialled = this.#accept(complete.dialled, pairing.from)
    const taken = dialled === undefined ? undefined : this.#accept(complete.taken, pairing.to)
    if (dialled !== undefined && taken !== undefined)
      return this.#join(dialled, taken, { ...pairing, releaseQuota: complete.releaseQuota })
    complete.releaseQuota()
    dialled?.destroy()
    if (dialled === undefined) this.#refuse(complete.taken, 'nonce unknown or used')
  }

  /** `undefined` when the request is for no protocol we speak; it is answered then. `acceptBytes` calls back at once or never. */
  #accept({ request, socket, head }: LegRequest, node: NodeId): Duplex | undefined {
    if (asksForBytes(request)) return acceptUpgrade(socket, head)
    const accepted: Duplex[] = []
    this.#webSocketLegs.acceptBytes({ request, socket, head, peer: node }, (stream) => accepted.push(stream))
    return accepted[0]
  }

  #join(dialled: Duplex, taken: Duplex, { from, to, releaseQuota }: Pairing & { releaseQuota: () => void }): void {
    const { relayBytes, relayConnections } = this.#metrics
    let bytes = 0
    for (const leg of [dialled, taken]) this.#legs.set(leg, { from, to })
    relayConnections.inc()
    const onBytes = (more: number) => {
      bytes += more
      relayBytes.inc(more)
    }
    const onEnd = () => {
      for (const leg of [dialled, taken]) this.#legs.delete(leg)
      releaseQuota()
      relayConnections.dec()
      this.#log.debug('relayed connection ended', { node: from, peer: to, bytes })
    }
    const near = { stream: dialled, rateLimit: this.#rateLimits.of(from) }
    const far = { stream: taken, rateLimit: this.#rateLimits.of(to) }
    join(near, far, { onBytes, onEnd })
  }

  #end(pairing: Pairing, refusal: RelayRefusal): void {
    this.#log.debug('relayed connection refused', { node: pairing.from, peer: pairing.to, reason: refusal })
    this.#pairings.end(pairing, refusal)
  }

  #refuse({ socket }: LegRequest, refusal: RelayRefusal): void {
    this.#metrics.relayRefusals.labels(refusal.replaceAll(' ', '-')).inc()
    refuseUpgrade(socket, REFUSALS[refusal], refusal)
  }
}

type RelayMetrics = Pick<
  Metrics,
  'relayBytes' | 'relayConnections' | 'relayListeners' | 'relayPauses' | 'relayRefusals'
>
