import type { IncomingMessage } from 'node:http'
import { unmapped } from '../../src/core/kit/host-port.ts'
import type { Log } from '../../src/core/kit/log.ts'
import { TokenBucket } from '../../src/core/kit/token-bucket.ts'
import type { Channel } from '../../src/core/kit/websocket.ts'
import type { Metrics } from '../../src/core/metrics.ts'
import type { NodeId } from '../../src/core/model/ids.ts'
import { backInMs } from './limits.ts'
import type { Observer } from './observer.ts'
import { LEG_REQUESTS_HEADER, readFromListener, type FromListener, type FromRelay } from './wire/messages.ts'

/** Signals of one node, and how many at once: a punch takes four, for a few peers at the same time. */
const SIGNALS_PER_SECOND = 20
const SIGNALS_BURST = 60
/** Unsent bytes of a channel whose node does not read; signals beyond it are dropped. */
const MAX_BACKLOG = 256 * 1024

/** A node's control channel. */
interface Listener {
  readonly channel: Channel
  readonly node: NodeId
  /** The address at which we see it. */
  readonly seen: string
  /** It understands `welcome` and `signal`. */
  readonly hasSignals: boolean
  /** It understands `knocks` in `welcome`. */
  readonly sendsLegRequests: boolean
  readonly tokens: TokenBucket
}

/** What the relay does about the messages and the arrival of listeners. */
export interface ListenerEvents {
  arrived(node: NodeId): void
  legRequested(from: NodeId, message: Extract<FromListener, { type: 'knock' }>): void
  legRefused(by: NodeId, nonce: string): void
  legWithdrawn(by: NodeId, nonce: string): void
}

/** The nodes that can be reached through this relay, each by its control channel. */
export class Listeners {
  readonly #events: ListenerEvents
  readonly #log: Log
  readonly #count: Metrics['relayListeners']
  readonly #listeners = new Map<NodeId, Listener>()
  observer: Observer | undefined

  constructor(events: ListenerEvents, log: Log, count: Metrics['relayListeners']) {
    this.#events = events
    this.#log = log
    this.#count = count
  }

  get nodes(): Iterable<NodeId> {
    return this.#listeners.keys()
  }

  has(node: NodeId): boolean {
    return this.#listeners.has(node)
  }

  /** Sends; nothing happens when the node does not listen here. */
  send(node: NodeId, message: FromRelay): void {
    this.#listeners.get(node)?.channel.send(JSON.stringify(message))
  }

  /** Takes a new control channel; an older one of the same node is closed. */
  add(node: NodeId, channel: Channel, request: IncomingMessage, hasSignals: boolean): void {
    const older = this.#listeners.get(node)
    const listener: Listener = {
      channel,
      node,
      seen: unmapped(request.socket.remoteAddress ?? ''),
      hasSignals,
      sendsLegRequests: request.headers[LEG_REQUESTS_HEADER] !== undefined,
      tokens: new TokenBucket({ perSecond: SIGNALS_PER_SECOND, burst: SIGNALS_BURST }),
    }
    this.#listeners.set(node, listener)
    this.#count.set(this.#listeners.size)
    older?.channel.close('replaced')
    this.#log.info('node listens at the relay', { node })
    const cookie = hasSignals ? this.#welcome(listener) : undefined
    this.#events.arrived(node)
    channel.onText((text) => this.#receive(listener, text))
    channel.onClose((reason) => {
      if (cookie !== undefined) this.observer?.forget(cookie)
      if (this.#listeners.get(node) === listener) this.#remove(listener, reason)
    })
  }

  close(node: NodeId, reason: string): void {
    this.#listeners.get(node)?.channel.close(reason)
  }

  /** Tells each listener when to return, and closes its channel. */
  sendAway(): void {
    for (const { channel } of this.#listeners.values()) {
      const goaway: FromRelay = { type: 'goaway', backInMs: backInMs(this.#listeners.size) }
      channel.send(JSON.stringify(goaway))
      channel.close('relay is closing')
    }
  }

  /** Returns the observer cookie that the listener was given. */
  #welcome({ channel, seen, sendsLegRequests }: Listener): string | undefined {
    const observer = this.observer?.admit()
    const welcome: FromRelay = {
      type: 'welcome',
      seen,
      ...(observer === undefined ? {} : { observer }),
      ...(sendsLegRequests ? { knocks: true as const } : {}),
    }
    channel.send(JSON.stringify(welcome))
    return observer?.cookie
  }

  #remove({ node }: Listener, reason: string): void {
    this.#listeners.delete(node)
    this.#count.set(this.#listeners.size)
    this.#log.info('node left the relay', { node, reason })
  }

  #receive(listener: Listener, text: string): void {
    const { channel, node } = listener
    let message: FromListener
    try {
      message = readFromListener(text)
    } catch (error) {
      this.#log.warn('a node sent the relay a malformed message', { node, error })
      return channel.close('malformed message')
    }
    switch (message.type) {
      case 'refuse':
        return this.#events.legRefused(node, message.nonce)
      case 'knock':
        return this.#events.legRequested(node, message)
      case 'withdraw':
        return this.#events.legWithdrawn(node, message.nonce)
      case 'signal':
        return this.#forward(listener, message)
      default:
        message satisfies never
    }
  }

  /** Signals are delivered at most once: one that cannot be, or is one too many, is dropped. */
  #forward({ node, seen, tokens }: Listener, { to, body }: Extract<FromListener, { type: 'signal' }>): void {
    const receiver = this.#listeners.get(to)
    if (!tokens.tryTake() || receiver?.hasSignals !== true) return
    if (receiver.channel.backlog > MAX_BACKLOG) return
    receiver.channel.send(JSON.stringify({ type: 'signal', from: node, seen, body } satisfies FromRelay))
  }
}
