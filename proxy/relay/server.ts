import { randomBytes } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { Principal } from '../../src/identity/contract.ts'
import type { Log } from '../../src/kit/log.ts'
import { acceptUpgrade, asksForBytes } from '../../src/kit/upgrade.ts'
import { refuseUpgrade, WebSocketDoor, type Channel } from '../../src/kit/websocket.ts'
import type { Metrics } from '../../src/metrics.ts'
import type { NodeId } from '../../src/model/ids.ts'
import {
  LISTEN,
  readFromListener,
  REFUSALS,
  TAKE,
  TO,
  type FromListener,
  type FromRelay,
  type RelayRefusal,
} from './messages.ts'
import { Places, type PlaceLimits } from './places.ts'

export interface RelayLimits extends PlaceLimits {
  /** A connection that its listener has not taken by then is refused. */
  takeMs: number
}

/** Smaller starves busy nodes; larger lets one node take what all share. */
export const RELAY_LIMITS: RelayLimits = { total: 8_192, dialled: 256, accepted: 1_024, pair: 32, takeMs: 5_000 }

/** Legs of which neither end says anything any more are found by the kernel. */
const KEEPALIVE_MS = 30_000

/** The relay (protocol: messages.ts): it sees who meets whom and how much they say, never what. */
export class Relay implements AsyncDisposable {
  readonly #takeMs: number
  readonly #places: Places
  readonly #log: Log
  readonly #metrics: RelayMetrics
  readonly #door = new WebSocketDoor()
  readonly #listeners = new Map<NodeId, Channel>()
  readonly #waiting = new Map<string, Waiting>()
  /** Legs, and the nodes at both ends of what they belong to. */
  readonly #legs = new Map<Duplex, { from: NodeId; to: NodeId }>()
  #isClosing = false

  private constructor({ takeMs, ...places }: RelayLimits, log: Log, metrics: RelayMetrics) {
    this.#takeMs = takeMs
    this.#places = new Places(places)
    this.#log = log.child({ part: 'relay' })
    this.#metrics = metrics
  }

  static create(limits: Partial<RelayLimits>, log: Log, metrics: RelayMetrics): Relay {
    return new Relay({ ...RELAY_LIMITS, ...limits }, log, metrics)
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
    if (this.#isClosing) return refuse(knock, 'relay is closing')
    if (principal.role !== 'node') return refuse(knock, 'not a node')
    const node: NodeId = `${principal.cluster}/${principal.node}`
    const query = new URLSearchParams((request.url ?? '').split('?')[1])
    const to = query.get(TO)
    const nonce = query.get(TAKE)
    if (query.size === 1 && query.has(LISTEN)) this.#listen(knock, node)
    else if (query.size === 1 && to !== null) this.#dial(knock, node, to)
    else if (query.size === 1 && nonce !== null) this.#take(knock, node, nonce)
    else refuse(knock, 'malformed')
  }

  /** Ends everything of a node whose certificate no longer counts. */
  cut(node: NodeId): void {
    this.#listeners.get(node)?.close('revoked')
    for (const waiting of this.#waiting.values()) {
      if (waiting.from === node || waiting.to === node) this.#give(waiting, 'node not connected here')
    }
    for (const [leg, { from, to }] of this.#legs) if (from === node || to === node) leg.destroy()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosing = true
    for (const waiting of this.#waiting.values()) this.#give(waiting, 'relay is closing')
    for (const channel of this.#listeners.values()) channel.close('relay is closing')
    for (const leg of this.#legs.keys()) leg.destroy()
  }

  #listen({ request, socket, head }: Knock, node: NodeId): void {
    this.#door.acceptText(request, socket, head, (channel) => {
      const older = this.#listeners.get(node)
      this.#listeners.set(node, channel)
      older?.close('replaced')
      this.#log.info('node listens at the relay', { node })
      channel.onText((text) => this.#hear(channel, node, text))
      channel.onClose((reason) => {
        if (this.#listeners.get(node) !== channel) return
        this.#listeners.delete(node)
        this.#log.info('node left the relay', { node, reason })
      })
    })
  }

  #hear(channel: Channel, node: NodeId, text: string): void {
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
      default:
        message.type satisfies never
    }
  }

  /** Takes the places before it keeps anything: what a node makes us hold is bounded first. */
  #dial(knock: Knock, from: NodeId, to: NodeId): void {
    const listener = this.#listeners.get(to)
    if (listener === undefined || to === from) return refuse(knock, 'node not connected here')
    const leave = this.#places.take(from, to)
    if (leave === undefined) {
      this.#log.warn('too many connections through the relay', { node: from, peer: to })
      return refuse(knock, 'too many connections')
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
    listener.send(JSON.stringify({ type: 'incoming', from, nonce } satisfies FromRelay))
  }

  #take(knock: Knock, node: NodeId, nonce: string): void {
    const waiting = this.#waiting.get(nonce)
    if (waiting?.to !== node) return refuse(knock, 'nonce unknown or used')
    waiting.forget()
    const dialled = this.#accept(waiting)
    if (dialled === undefined) {
      waiting.leave()
      return refuse(knock, 'nonce unknown or used')
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

  /** The hot path: bytes from leg to leg as they come, no faster than the other leg takes them. */
  #join(dialled: Duplex, taken: Duplex, { from, to, leave }: Waiting): void {
    const { relayBytes, relayConnections } = this.#metrics
    let bytes = 0
    const meter = (chunk: Buffer) => {
      bytes += chunk.length
      relayBytes.inc(chunk.length)
    }
    let isOver = false
    const over = () => {
      if (isOver) return
      isOver = true
      for (const leg of [dialled, taken]) {
        this.#legs.delete(leg)
        leg.destroy()
      }
      leave()
      relayConnections.dec()
      this.#log.debug('relayed connection ended', { node: from, peer: to, bytes })
    }
    for (const leg of [dialled, taken]) {
      this.#legs.set(leg, { from, to })
      leg.on('data', meter)
      leg.once('close', over)
    }
    relayConnections.inc()
    dialled.pipe(taken)
    taken.pipe(dialled)
  }

  #give(waiting: Waiting, refusal: RelayRefusal): void {
    waiting.forget()
    waiting.leave()
    this.#log.debug('relayed connection refused', { node: waiting.from, peer: waiting.to, reason: refusal })
    refuse(waiting, refusal)
  }
}

type RelayMetrics = Pick<Metrics, 'relayBytes' | 'relayConnections'>

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

function refuse({ socket }: Knock, refusal: RelayRefusal): void {
  refuseUpgrade(socket, REFUSALS[refusal], refusal)
}
