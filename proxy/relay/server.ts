import { randomBytes } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { Principal } from '../../src/identity/contract.ts'
import type { Log } from '../../src/kit/log.ts'
import { acceptUpgrade, asksForBytes } from '../../src/kit/upgrade.ts'
import { Bucket } from '../../src/kit/bucket.ts'
import { refuseUpgrade, WebSocketDoor, type Channel } from '../../src/kit/websocket.ts'
import type { Metrics } from '../../src/metrics.ts'
import type { NodeId } from '../../src/model/ids.ts'
import {
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
} from './messages.ts'
import type { Observer } from './observer.ts'
import { join } from './join.ts'
import { Knocks } from './knocks.ts'
import { Paces } from './pace.ts'
import { Places, type PlaceLimits } from './places.ts'

export interface RelayLimits extends PlaceLimits {
  /** A connection that its listener has not taken by then is refused. */
  takeMs: number
  /** What one node may send, over all its connections. */
  nodeBytesPerSecond: number
  /** How often one node may begin to listen, to dial or to measure; more at once after a rest. */
  nodeKnocksPerSecond: number
}

/** Smaller starves busy nodes; larger lets one node take what all share. */
export const RELAY_LIMITS: RelayLimits = {
  total: 8_192,
  dialled: 256,
  accepted: 1_024,
  pair: 32,
  takeMs: 5_000,
  nodeBytesPerSecond: 250_000_000,
  nodeKnocksPerSecond: 50,
}
/** A relay that goes away has its listeners come back over so long, for each of them; and over no longer than that. */
const BACK_MS_EACH = 5
const BACK_MS_MOST = 5_000
const BACK_MS_LEAST = 250
/** A channel that only measures is closed then. */
const PING_MS = 15_000

/** Of one node, and how many at once: a punch takes four, tried for a few peers at the same time. */
const SIGNALS_PER_SECOND = 20
const SIGNALS_AT_ONCE = 60

/** Legs of which neither end says anything any more are found by the kernel. */
const KEEPALIVE_MS = 30_000

/** The relay (protocol: messages.ts): it sees who meets whom and how much they say, never what. */
export class Relay implements AsyncDisposable {
  readonly #takeMs: number
  readonly #places: Places
  readonly #paces: Paces
  readonly #knocks: Knocks
  readonly #log: Log
  readonly #metrics: RelayMetrics
  readonly #door = new WebSocketDoor()
  readonly #listeners = new Map<NodeId, Listening>()
  #observer: Observer | undefined
  readonly #waiting = new Map<string, Waiting>()
  /** Legs, and the nodes at both ends of what they belong to. */
  readonly #legs = new Map<Duplex, { from: NodeId; to: NodeId }>()
  #isClosing = false

  private constructor(limits: RelayLimits, log: Log, metrics: RelayMetrics) {
    const { takeMs, nodeBytesPerSecond, nodeKnocksPerSecond, ...places } = limits
    this.#takeMs = takeMs
    this.#places = new Places(places)
    this.#paces = new Paces(nodeBytesPerSecond, () => metrics.relayPauses.inc())
    this.#knocks = new Knocks(nodeKnocksPerSecond)
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
    const knock: Knock = { request, socket, head }
    socket.on('error', () => socket.destroy())
    if (socket instanceof Socket) socket.setNoDelay(true).setKeepAlive(true, KEEPALIVE_MS)
    if (this.#isClosing) return this.#refuse(knock, 'relay is closing')
    if (principal.role !== 'node') return this.#refuse(knock, 'not a node')
    const node: NodeId = `${principal.cluster}/${principal.node}`
    const query = new URLSearchParams((request.url ?? '').split('?')[1])
    const to = query.get(TO)
    const nonce = query.get(TAKE)
    // takes are not counted: a node is told to take, and others must not be able to use up its share
    if (nonce === null && !this.#knocks.may(node)) return this.#refuse(knock, 'too many connections')
    if (query.size === 1 && query.has(LISTEN)) this.#listen(knock, node, query.get(LISTEN) === SIGNALS)
    else if (query.size === 1 && to !== null) this.#dial(knock, node, to)
    else if (query.size === 1 && nonce !== null) this.#take(knock, node, nonce)
    else if (query.size === 1 && query.has(PING)) this.#ping(knock)
    else this.#refuse(knock, 'malformed')
  }

  /** Ends everything of a node whose certificate no longer counts. */
  cut(node: NodeId): void {
    this.#listeners.get(node)?.channel.close('revoked')
    for (const waiting of this.#waiting.values()) {
      if (waiting.from === node || waiting.to === node) this.#give(waiting, 'node not connected here')
    }
    for (const [leg, { from, to }] of this.#legs) if (from === node || to === node) leg.destroy()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosing = true
    for (const waiting of this.#waiting.values()) this.#give(waiting, 'relay is closing')
    const spreadMs = Math.min(BACK_MS_MOST, BACK_MS_EACH * this.#listeners.size)
    for (const { channel } of this.#listeners.values()) {
      const backInMs = Math.round(BACK_MS_LEAST + Math.random() * spreadMs)
      channel.send(JSON.stringify({ type: 'goaway', backInMs } satisfies FromRelay))
      channel.close('relay is closing')
    }
    for (const leg of this.#legs.keys()) leg.destroy()
  }

  #listen({ request, socket, head }: Knock, node: NodeId, hearsSignals: boolean): void {
    const seen = (request.socket.remoteAddress ?? '').replace(/^::ffff:(?=\d)/, '')
    this.#door.acceptText(request, socket, head, (channel) => {
      const older = this.#listeners.get(node)
      const tokens = new Bucket({ perSecond: SIGNALS_PER_SECOND, burst: SIGNALS_AT_ONCE })
      const listening: Listening = { channel, node, seen, hearsSignals, tokens }
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
    for (const [nonce, { from, to }] of this.#waiting) {
      if (to === node) channel.send(JSON.stringify({ type: 'incoming', from, nonce } satisfies FromRelay))
    }
  }

  /** Returns the cookie that it was given. */
  #welcome({ channel, seen }: Listening): string | undefined {
    const observer = this.#observer?.admit()
    const welcome: FromRelay = { type: 'welcome', seen, ...(observer === undefined ? {} : { observer }) }
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
        const waiting = this.#waiting.get(message.nonce)
        if (waiting?.to === node) this.#give(waiting, 'refused by the node')
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

  /** Takes the places before it keeps anything: what a node makes us hold is bounded first. */
  #dial(knock: Knock, from: NodeId, to: NodeId): void {
    const listener = this.#listeners.get(to)
    if (listener === undefined || to === from) return this.#refuse(knock, 'node not connected here')
    const leave = this.#places.take(from, to)
    if (leave === undefined) {
      this.#log.warn('too many connections through the relay', { node: from, peer: to })
      return this.#refuse(knock, 'too many connections')
    }
    const nonce = randomBytes(16).toString('hex')
    const late = setTimeout(() => this.#give(waiting, 'not taken in time'), this.#takeMs)
    const gaveUp = () => {
      waiting.forget()
      leave()
    }
    const forget = () => {
      clearTimeout(late)
      knock.socket.off('close', gaveUp)
      this.#waiting.delete(nonce)
    }
    const waiting: Waiting = { ...knock, from, to, forget, leave }
    this.#waiting.set(nonce, waiting)
    knock.socket.once('close', gaveUp)
    listener.channel.send(JSON.stringify({ type: 'incoming', from, nonce } satisfies FromRelay))
  }

  #take(knock: Knock, node: NodeId, nonce: string): void {
    const waiting = this.#waiting.get(nonce)
    if (waiting?.to !== node) return this.#refuse(knock, 'nonce unknown or used')
    waiting.forget()
    const dialled = this.#accept(waiting)
    if (dialled === undefined) {
      waiting.leave()
      return this.#refuse(knock, 'nonce unknown or used')
    }
    const taken = this.#accept(knock)
    if (taken === undefined) {
      waiting.leave()
      dialled.destroy()
      return
    }
    this.#join(dialled, taken, waiting)
  }

  /** `undefined` when the request asks for nothing we speak: the door has answered it then. It calls back at once or never. */
  #accept({ request, socket, head }: Knock): Duplex | undefined {
    if (asksForBytes(request)) return acceptUpgrade(socket, head)
    const accepted: Duplex[] = []
    this.#door.acceptBytes(request, socket, head, (stream) => accepted.push(stream))
    return accepted[0]
  }

  #join(dialled: Duplex, taken: Duplex, { from, to, leave }: Waiting): void {
    const { relayBytes, relayConnections } = this.#metrics
    let bytes = 0
    for (const leg of [dialled, taken]) this.#legs.set(leg, { from, to })
    relayConnections.inc()
    join(
      { stream: dialled, pace: this.#paces.of(from) },
      { stream: taken, pace: this.#paces.of(to) },
      {
        passed: (more) => {
          bytes += more
          relayBytes.inc(more)
        },
        over: () => {
          for (const leg of [dialled, taken]) this.#legs.delete(leg)
          leave()
          relayConnections.dec()
          this.#log.debug('relayed connection ended', { node: from, peer: to, bytes })
        },
      },
    )
  }

  #give(waiting: Waiting, refusal: RelayRefusal): void {
    waiting.forget()
    waiting.leave()
    this.#log.debug('relayed connection refused', { node: waiting.from, peer: waiting.to, reason: refusal })
    this.#refuse(waiting, refusal)
  }

  #refuse({ socket }: Knock, refusal: RelayRefusal): void {
    this.#metrics.relayRefusals.labels(refusal).inc()
    refuseUpgrade(socket, REFUSALS[refusal], refusal)
  }

  #ping({ request, socket, head }: Knock): void {
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
  tokens: Bucket
}

/** Of one channel whose node does not read; signals beyond it are dropped. */
const MAX_BACKLOG = 256 * 1024

/** An upgrade whose answer is still open. */
interface Knock {
  request: IncomingMessage
  socket: Duplex
  head: Buffer
}

/** A dialler whose listener has been told. */
interface Waiting extends Knock {
  from: NodeId
  to: NodeId
  /** It waits no longer: its nonce is used up. */
  forget: () => void
  /** Its places are free again. */
  leave: () => void
}
