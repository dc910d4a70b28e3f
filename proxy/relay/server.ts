import { randomBytes } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { Principal } from '../../src/core/identity/contract.ts'
import type { Log } from '../../src/core/kit/log.ts'
import { acceptUpgrade, asksForBytes } from '../../src/core/kit/upgrade.ts'
import { TokenBucket } from '../../src/core/kit/token-bucket.ts'
import { refuseUpgrade, WebSocketAcceptor, type Channel } from '../../src/core/kit/websocket.ts'
import type { Metrics } from '../../src/core/metrics.ts'
import type { NodeId } from '../../src/core/model/ids.ts'
import {
  LEG_REQUEST,
  LEG_REQUESTS_HEADER,
  LISTEN,
  PING,
  readFromListener,
  REFUSALS,
  SIGNALS,
  TAKE,
  TO,
  type FromListener,
  type FromRelay,
  type RelayRefusal,
} from './wire/messages.ts'
import type { Observer } from './observer.ts'
import { join } from './join.ts'
import { backInMs, RELAY_LIMITS, type RelayLimits } from './limits.ts'
import { Pairings, type LegRequest, type Pairing, type Side } from './pairings.ts'
import { RequestRate } from './request-rate.ts'
import { RateLimits } from './rate-limit.ts'
import { ConnectionQuotas } from './quotas.ts'
import { unmapped } from '../../src/core/kit/host-port.ts'

/** A channel that only measures is closed then. */
const PING_MS = 15_000

/** Of one node, and how many at once: a punch takes four, tried for a few peers at the same time. */
const SIGNALS_PER_SECOND = 20
const SIGNALS_AT_ONCE = 60

/** Legs of which neither end says anything any more are found by the kernel. */
const KEEPALIVE_MS = 30_000

/** The relay (protocol: messages.ts): it sees who meets whom and how much they say, never what. */
export class Relay implements AsyncDisposable {
  readonly #places: ConnectionQuotas
  readonly #paces: RateLimits
  readonly #knocks: RequestRate
  readonly #log: Log
  readonly #metrics: RelayMetrics
  readonly #door = new WebSocketAcceptor()
  readonly #listeners = new Map<NodeId, Listening>()
  #observer: Observer | undefined
  readonly #meetings: Pairings
  /** Legs, and the nodes at both ends of what they belong to. */
  readonly #legs = new Map<Duplex, { from: NodeId; to: NodeId }>()
  #isClosing = false

  private constructor(limits: RelayLimits, log: Log, metrics: RelayMetrics) {
    const { takeMs, nodeBytesPerSecond, nodeRequestsPerSecond, ...places } = limits
    this.#meetings = new Pairings({ takeMs, refuse: (knock, refusal) => this.#refuse(knock, refusal) })
    this.#places = new ConnectionQuotas(places)
    this.#paces = new RateLimits(nodeBytesPerSecond, () => metrics.relayPauses.inc())
    this.#knocks = new RequestRate(nodeRequestsPerSecond)
    this.#log = log.child({ part: 'relay' })
    this.#metrics = metrics
  }

  static create(limits: Partial<RelayLimits>, log: Log, metrics: RelayMetrics): Relay {
    return new Relay({ ...RELAY_LIMITS, ...limits }, log, metrics)
  }

  /** Who listens from now on is told of it. */
  announce(observer: Observer): void {
    this.#observer = observer
  }

  /** Nodes that keep a control channel here now. */
  get listening(): Iterable<NodeId> {
    return this.#listeners.keys()
  }

  /** Answers an upgrade of `/relay?…`; the caller has proved the principal from the certificate. */
  upgrade(request: IncomingMessage, socket: Duplex, head: Buffer, principal: Principal): void {
    const knock: LegRequest = { request, socket, head }
    socket.on('error', () => socket.destroy())
    if (socket instanceof Socket) socket.setNoDelay(true).setKeepAlive(true, KEEPALIVE_MS)
    if (this.#isClosing) return this.#refuse(knock, 'relay is closing')
    if (principal.role !== 'node') return this.#refuse(knock, 'not a node')
    const node: NodeId = `${principal.cluster}/${principal.node}`
    const query = new URLSearchParams((request.url ?? '').split('?')[1])
    const to = query.get(TO)
    const nonce = query.get(TAKE)
    const announced = query.get(LEG_REQUEST) === null ? undefined : this.#meetings.of(query.get(LEG_REQUEST) ?? '')
    const isCounted = announced?.from === node
    // takes are not counted: a node is told to take, and others must not be able to use up its share
    if (nonce === null && !isCounted && !this.#knocks.may(node)) return this.#refuse(knock, 'too many connections')
    if (query.size === 1 && query.has(LISTEN)) this.#listen(knock, node, query.get(LISTEN) === SIGNALS)
    else if (query.size === (query.has(LEG_REQUEST) ? 2 : 1) && to !== null) this.#dial(knock, node, to, announced)
    else if (query.size === 1 && nonce !== null) this.#take(knock, node, nonce)
    else if (query.size === 1 && query.has(PING)) this.#ping(knock)
    else this.#refuse(knock, 'malformed')
  }

  /** Every node that listens here or has a relayed connection. */
  get nodes(): Set<NodeId> {
    const legs = Array.from(this.#legs.values(), ({ from, to }) => [from, to]).flat()
    return new Set([...this.#listeners.keys(), ...legs])
  }

  /** Ends everything of a node whose certificate no longer counts. */
  cut(node: NodeId): void {
    this.#listeners.get(node)?.channel.close('revoked')
    for (const meeting of this.#meetings.all()) {
      if (meeting.from === node || meeting.to === node) this.#give(meeting, 'node not connected here')
    }
    for (const [leg, { from, to }] of this.#legs) if (from === node || to === node) leg.destroy()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosing = true
    for (const meeting of this.#meetings.all()) this.#give(meeting, 'relay is closing')
    for (const { channel } of this.#listeners.values()) {
      const goaway: FromRelay = { type: 'goaway', backInMs: backInMs(this.#listeners.size) }
      channel.send(JSON.stringify(goaway))
      channel.close('relay is closing')
    }
    for (const leg of this.#legs.keys()) leg.destroy()
  }

  #listen({ request, socket, head }: LegRequest, node: NodeId, hearsSignals: boolean): void {
    const seen = unmapped(request.socket.remoteAddress ?? '')
    this.#door.acceptText(request, socket, head, (channel) => {
      const older = this.#listeners.get(node)
      const tokens = new TokenBucket({ perSecond: SIGNALS_PER_SECOND, burst: SIGNALS_AT_ONCE })
      const sendsKnocks = request.headers[LEG_REQUESTS_HEADER] !== undefined
      const listening: Listening = { channel, node, seen, hearsSignals, sendsKnocks, tokens }
      this.#listeners.set(node, listening)
      this.#metrics.relayListeners.set(this.#listeners.size)
      older?.channel.close('replaced')
      this.#log.info('node listens at the relay', { node })
      const cookie = hearsSignals ? this.#welcome(listening) : undefined
      this.#tellAgain(listening)
      channel.onText((text) => this.#hear(listening, text))
      channel.onClose((reason) => {
        if (cookie !== undefined) this.#observer?.forget(cookie)
        if (this.#listeners.get(node) !== listening) return
        this.#listeners.delete(node)
        this.#metrics.relayListeners.set(this.#listeners.size)
        this.#log.info('node left the relay', { node, reason })
      })
    })
  }

  /** Who waits for this node has knocked at a channel that was dead already. */
  #tellAgain({ channel, node }: Listening): void {
    for (const { nonce, from, to, legs } of this.#meetings.all()) {
      if (to === node && legs.taken === undefined)
        channel.send(JSON.stringify({ type: 'incoming', from, nonce } satisfies FromRelay))
    }
  }

  /** Returns the cookie that it was given. */
  #welcome({ channel, seen, sendsKnocks }: Listening): string | undefined {
    const observer = this.#observer?.admit()
    const more = { ...(observer === undefined ? {} : { observer }), ...(sendsKnocks ? { knocks: true as const } : {}) }
    const welcome: FromRelay = { type: 'welcome', seen, ...more }
    channel.send(JSON.stringify(welcome))
    return observer?.cookie
  }

  #hear(listening: Listening, text: string): void {
    const { channel, node } = listening
    let message: FromListener
    try {
      message = readFromListener(text)
    } catch (error) {
      this.#log.warn('node sent the relay something malformed', { node, error })
      return channel.close('malformed message')
    }
    switch (message.type) {
      case 'refuse': {
        const meeting = this.#meetings.of(message.nonce)
        if (meeting?.to === node) this.#give(meeting, 'refused by the node')
        return
      }
      case 'knock':
        // one that is not honoured is not answered: the leg that follows is
        if (this.#meetings.of(message.nonce) === undefined && this.#knocks.may(node))
          this.#meet({ from: node, ...message })
        return
      case 'withdraw': {
        const meeting = this.#meetings.of(message.nonce)
        if (meeting?.from === node) this.#give(meeting, 'nonce unknown or used')
        return
      }
      case 'signal':
        return this.#passOn(listening, message)
      default:
        message satisfies never
    }
  }

  /** Dropped without a word when there is nobody, or too much of it: signals are delivered at most once. */
  #passOn({ node, seen, tokens }: Listening, { to, body }: Extract<FromListener, { type: 'signal' }>): void {
    const listener = this.#listeners.get(to)
    if (!tokens.tryTake() || listener?.hearsSignals !== true) return
    if (listener.channel.backlog > MAX_BACKLOG) return
    listener.channel.send(JSON.stringify({ type: 'signal', from: node, seen, body } satisfies FromRelay))
  }

  #dial(knock: LegRequest, from: NodeId, to: NodeId, announced: Pairing | undefined): void {
    const isIt = announced?.from === from && announced.to === to && announced.legs.dialled === undefined
    const meeting = isIt ? announced : this.#meet({ from, to, nonce: randomBytes(16).toString('hex') })
    if (typeof meeting === 'string') return this.#refuse(knock, meeting)
    this.#bring(meeting, 'dialled', knock)
  }

  /** Takes the places before it keeps anything: what a node makes us hold is bounded first. */
  #meet({ from, to, nonce }: Pick<Pairing, 'from' | 'to' | 'nonce'>): Pairing | RelayRefusal {
    const listener = this.#listeners.get(to)
    if (listener === undefined || to === from) return 'node not connected here'
    const leave = this.#places.take(from, to)
    if (leave === undefined) {
      this.#log.warn('too many connections through the relay', { node: from, peer: to })
      return 'too many connections'
    }
    listener.channel.send(JSON.stringify({ type: 'incoming', from, nonce } satisfies FromRelay))
    return this.#meetings.begin({ nonce, from, to }, leave)
  }

  #take(knock: LegRequest, node: NodeId, nonce: string): void {
    const meeting = this.#meetings.of(nonce)
    if (meeting?.to !== node || meeting.legs.taken !== undefined) return this.#refuse(knock, 'nonce unknown or used')
    this.#bring(meeting, 'taken', knock)
  }

  #bring(meeting: Pairing, side: Side, knock: LegRequest): void {
    const met = this.#meetings.addLeg(meeting, side, knock)
    if (met === undefined) return
    const dialled = this.#accept(met.dialled)
    const taken = dialled === undefined ? undefined : this.#accept(met.taken)
    if (dialled !== undefined && taken !== undefined)
      return this.#join(dialled, taken, { ...meeting, leave: met.leave })
    met.leave()
    dialled?.destroy()
    if (dialled === undefined) this.#refuse(met.taken, 'nonce unknown or used')
  }

  /** `undefined` when the request asks for nothing we speak: the door has answered it then. It calls back at once or never. */
  #accept({ request, socket, head }: LegRequest): Duplex | undefined {
    if (asksForBytes(request)) return acceptUpgrade(socket, head)
    const accepted: Duplex[] = []
    this.#door.acceptBytes(request, socket, head, (stream) => accepted.push(stream))
    return accepted[0]
  }

  #join(dialled: Duplex, taken: Duplex, { from, to, leave }: Pairing & { leave: () => void }): void {
    const { relayBytes, relayConnections } = this.#metrics
    let bytes = 0
    for (const leg of [dialled, taken]) this.#legs.set(leg, { from, to })
    relayConnections.inc()
    join(
      { stream: dialled, rateLimit: this.#paces.of(from) },
      { stream: taken, rateLimit: this.#paces.of(to) },
      {
        onBytes: (more) => {
          bytes += more
          relayBytes.inc(more)
        },
        onEnd: () => {
          for (const leg of [dialled, taken]) this.#legs.delete(leg)
          leave()
          relayConnections.dec()
          this.#log.debug('relayed connection ended', { node: from, peer: to, bytes })
        },
      },
    )
  }

  #give(meeting: Pairing, refusal: RelayRefusal): void {
    this.#log.debug('relayed connection refused', { node: meeting.from, peer: meeting.to, reason: refusal })
    this.#meetings.end(meeting, refusal)
  }

  #refuse({ socket }: LegRequest, refusal: RelayRefusal): void {
    this.#metrics.relayRefusals.labels(refusal).inc()
    refuseUpgrade(socket, REFUSALS[refusal], refusal)
  }

  #ping({ request, socket, head }: LegRequest): void {
    this.#door.acceptText(request, socket, head, (channel) => {
      const enough = setTimeout(() => channel.close('measured'), PING_MS)
      channel.onClose(() => clearTimeout(enough))
    })
  }
}

type RelayMetrics = Pick<
  Metrics,
  'relayBytes' | 'relayConnections' | 'relayListeners' | 'relayPauses' | 'relayRefusals'
>

/** A node's control channel. */
interface Listening {
  channel: Channel
  node: NodeId
  /** The address it comes from. */
  seen: string
  hearsSignals: boolean
  /** It knows of `knocks` in `welcome`. */
  sendsKnocks: boolean
  tokens: TokenBucket
}

/** Of one channel whose node does not read; signals beyond it are dropped. */
const MAX_BACKLOG = 256 * 1024
