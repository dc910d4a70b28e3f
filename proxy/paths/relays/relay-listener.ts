import { randomBytes } from 'node:crypto'
import { isMeshError, MeshError } from '../../../src/core/errors.ts'
import { onAbort } from '../../../src/core/kit/abort.ts'
import { background } from '../../../src/core/kit/background.ts'
import { systemClock, type Clock } from '../../../src/core/kit/clock.ts'
import { Lifetime } from '../../../src/core/kit/lifetime.ts'
import type { Log } from '../../../src/core/kit/log.ts'
import { dialText, type Channel } from '../../../src/core/kit/websocket.ts'
import type { NodeId } from '../../../src/core/model/ids.ts'
import {
  LEG_REQUESTS_HEADER,
  LISTEN,
  readFromRelay,
  refusalOf,
  SIGNALS,
  TAKE,
  type FromListener,
  type FromRelay,
  type Welcome,
} from '../../relay/wire/messages.ts'
import type { RawConnection } from '../contract.ts'
import type { RelayedSignal } from '../signals.ts'
import { ReconnectPolicy } from './reconnect-policy.ts'
import { dialLeg, refusalReason, relayUrl, type AnnouncedLeg, type RelayCredentials } from './relayed-dialer.ts'

export interface RelayListenerOptions {
  /** `wss://host:port/relay`. */
  url: string
  credentials: RelayCredentials
  onConnection: (raw: RawConnection) => void
  /** Called when others can reach us there, and when they no longer can. */
  onListening?: () => void
  /** Receives a signal of another node that listens at the relay. */
  onSignal?: (signal: RelayedSignal) => void
  /** The relay supports signals, and may have an observer. */
  onWelcome?: (welcome: Welcome, relay: string) => void
  clock?: Clock
  random?: () => number
}

/** Legs being dialled at the same time; more are refused. Larger lets dialers keep us busy; smaller fails in bursts. */
const MAX_TAKING = 64
/** After a change of the network the relay must answer within this. */
const RECHECK_MS = 1_500
/** While streams wait, a channel must answer within this or within four round trips, and is probed this often. */
const ANSWER_MS = 400
const PROBE_MS = 1_000
/** Of failures in a row, one in this many is logged as a warning. */
const WARN_EACH = 8
/** The round trip assumed for a relay that was not measured. */
const UNMEASURED_MS = 100

/** What the listener does while it has no channel. */
type Waiting = { state: 'dialling'; since: number } | { state: 'resting'; until: number; mayBeShortened: boolean }

/**
 * Keeps this node reachable through one relay, by a control channel that is dialled again whenever it ends.
 *
 *     dialling ──▶ listening ──channel ended──▶ resting ──▶ dialling        the rests: reconnect-policy.ts
 *         └──────────── failed ─────────────────▲
 */
export class RelayListener implements AsyncDisposable {
  readonly #options: RelayListenerOptions
  readonly #log: Log
  readonly #life: Lifetime
  readonly #clock: Clock
  readonly #reconnect: ReconnectPolicy
  /** The channel while we listen, and what the relay supports. */
  #listening: { channel: Channel; hasSignals: boolean; takesLegRequests: boolean } | undefined
  #waiting: Waiting | undefined
  /** Aborted to dial again at once, instead of a dial or a rest. */
  #again = new AbortController()
  #probedAt = Number.NEGATIVE_INFINITY
  #failures = 0
  #taking = 0

  private constructor(options: RelayListenerOptions, log: Log, life: Lifetime) {
    this.#options = options
    this.#log = log.child({ part: 'relay listener', address: options.url })
    this.#life = life
    this.#clock = options.clock ?? systemClock
    this.#reconnect = new ReconnectPolicy(this.#clock, options.random ?? Math.random)
  }

  /** Returns at once: an unreachable relay is dialled again and again, and is no reason not to start. */
  static start(options: RelayListenerOptions, log: Log): RelayListener {
    const life = new Lifetime()
    const listener = new RelayListener(options, log, life)
    life.spawn((signal) => listener.#keepListening(signal), 'relay listener')
    return listener
  }

  get url(): string {
    return this.#options.url
  }

  /** Whether others can reach us there now. */
  get isListening(): boolean {
    return this.#listening !== undefined
  }

  /** Sends a signal to a node that listens there too; false when that is not possible. It may be lost. */
  signal(to: NodeId, body: string): boolean {
    if (this.#listening?.hasSignals !== true) return false
    this.#listening.channel.send(JSON.stringify({ type: 'signal', to, body } satisfies FromListener))
    return true
  }

  /** Announces a leg of ours to a node that listens there too; `undefined`: it must be dialled without an announcement. */
  requestLeg(to: NodeId): AnnouncedLeg | undefined {
    if (this.#listening?.takesLegRequests !== true) return undefined
    const { channel } = this.#listening
    const nonce = randomBytes(16).toString('hex')
    const send = (message: FromListener) => channel.send(JSON.stringify(message))
    send({ type: 'knock', to, nonce })
    return { nonce, withdraw: () => send({ type: 'withdraw', nonce }) }
  }

  /** One round trip to the relay. @throws MeshError LINK_CLOSED */
  async measure(): Promise<number> {
    if (this.#listening === undefined) throw new MeshError('LINK_CLOSED', { address: this.url })
    return this.#listening.channel.measure()
  }

  /** A channel must show that it is alive; without one the relay is dialled at once. */
  networkChanged(isHere: (address: string) => boolean): void {
    this.#reconnect.networkChanged()
    if (this.#listening === undefined) this.#dialAgain('the network has changed')
    else this.#listening.channel.recheck?.(isHere, RECHECK_MS)
  }

  /**
   * Streams are waiting for a path; called again for as long as they do. A channel must show that it is alive, since a router
   * that forgot the connection does not report it; without a channel no rest and no hanging dial lasts long.
   */
  expedite(rttMs = UNMEASURED_MS): void {
    this.#reconnect.expedite()
    if (this.#listening !== undefined) this.#probe(this.#listening.channel, rttMs)
    else if (this.#waiting?.state === 'dialling') {
      if (this.#reconnect.isHung(this.#waiting.since)) this.#dialAgain('the dial hangs')
    } else if (this.#waiting?.mayBeShortened === true) this.#shorten(this.#waiting)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }

  #probe(channel: Channel, rttMs: number): void {
    const now = this.#clock.now()
    if (now - this.#probedAt < PROBE_MS) return
    this.#probedAt = now
    channel.recheck?.(isAnywhere, Math.max(ANSWER_MS, 4 * rttMs))
  }

  #shorten(rest: Waiting & { state: 'resting' }): void {
    const restMs = this.#reconnect.shortened(rest.until)
    if (restMs === undefined) return
    rest.until = this.#clock.now() + restMs
    const again = this.#again
    this.#clock.after(restMs, () => again.abort(new MeshError('NOT_RUNNING', { reason: 'streams are waiting' })))
  }

  #dialAgain(reason: string): void {
    this.#again.abort(new MeshError('NOT_RUNNING', { reason }))
  }

  async #keepListening(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      this.#again = new AbortController()
      const limit = AbortSignal.any([signal, this.#again.signal])
      const rest = await this.#listenOnce(limit, signal)
      if (signal.aborted) return
      if (rest === undefined) continue
      this.#waiting = { state: 'resting', until: this.#clock.now() + rest.ms, mayBeShortened: rest.mayBeShortened }
      await this.#clock.sleep(rest.ms, limit)
    }
  }

  /** Dials, and listens until the channel ends. Returns how to rest then; `undefined` to dial again at once. */
  async #listenOnce(
    limit: AbortSignal,
    closing: AbortSignal,
  ): Promise<{ ms: number; mayBeShortened: boolean } | undefined> {
    const { url, credentials } = this.#options
    this.#waiting = { state: 'dialling', since: this.#clock.now() }
    try {
      const dial = { ...credentials(), headers: { [LEG_REQUESTS_HEADER]: '1' } }
      const channel = await dialText(relayUrl(url, LISTEN, SIGNALS), dial, limit)
      const since = this.#clock.now()
      this.#waiting = undefined
      this.#reconnect.connected()
      this.#failures = 0
      const reason = await this.#listen(channel, closing)
      if (closing.aborted) return undefined
      this.#log.warn('relay lost', { reason })
      const isReplaced = reason === 'replaced'
      return { ms: this.#reconnect.afterLoss(since, isReplaced), mayBeShortened: !isReplaced }
    } catch (error) {
      if (limit.aborted) return undefined
      const level = this.#failures % WARN_EACH === 0 ? 'warn' : 'debug'
      this.#failures += 1
      this.#log[level]('cannot reach the relay', { error: refusalReason(error, url) })
      return { ms: this.#reconnect.afterFailure(), mayBeShortened: true }
    }
  }

  /** Resolves to the reason when the channel ends. */
  #listen(channel: Channel, closing: AbortSignal): Promise<string> {
    const { promise, resolve } = Promise.withResolvers<string>()
    const listener = onAbort(closing, () => channel.close('leaving'))
    this.#listening = { channel, hasSignals: false, takesLegRequests: false }
    this.#log.info('listening at the relay')
    this.#options.onListening?.()
    channel.onText((text) => this.#receive(channel, text, closing))
    channel.onClose((reason) => {
      this.#listening = undefined
      listener[Symbol.dispose]()
      this.#options.onListening?.()
      resolve(reason)
    })
    return promise
  }

  #receive(channel: Channel, text: string, closing: AbortSignal): void {
    let message: FromRelay
    try {
      message = readFromRelay(text)
    } catch (error) {
      this.#log.warn('the relay sent a malformed message', { error })
      return channel.close('malformed message')
    }
    switch (message.type) {
      case 'incoming':
        return this.#answer(channel, message, closing)
      case 'goaway':
        return this.#reconnect.relayGoesAway(message.backInMs)
      case 'signal': {
        const { from, seen, body } = message
        return this.#options.onSignal?.({ from, seenAddress: seen, body, relay: this.url })
      }
      case 'welcome':
        this.#listening = { channel, hasSignals: true, takesLegRequests: message.knocks === true }
        return this.#options.onWelcome?.(message, this.url)
      default:
        message satisfies never
    }
  }

  #answer(channel: Channel, { nonce, from }: FromRelay & { type: 'incoming' }, closing: AbortSignal): void {
    if (this.#taking >= MAX_TAKING)
      return channel.send(JSON.stringify({ type: 'refuse', nonce } satisfies FromListener))
    this.#taking += 1
    const done = () => (this.#taking -= 1)
    void background.run('connection through a relay', () => this.#take(nonce, from, closing)).finally(done)
  }

  /** Dials our leg. `from` is only what the relay says; TLS inside proves who it is. */
  async #take(nonce: string, from: NodeId, closing: AbortSignal): Promise<void> {
    const { url, credentials, onConnection } = this.#options
    try {
      const stream = await dialLeg(relayUrl(url, TAKE, nonce), credentials(), closing)
      onConnection({ path: 'relayed', stream, via: url })
    } catch (error) {
      if (closing.aborted) return
      // a node that announced a leg and has found a better path meanwhile is no fault
      const isWithdrawn =
        isMeshError(error, 'REQUEST_FAILED') && refusalOf(error.details['status']) === 'nonce unknown or used'
      const level = isWithdrawn ? 'debug' : 'warn'
      this.#log[level]('cannot take a connection at the relay', { peer: from, error: refusalReason(error, url) })
    }
  }
}

function isAnywhere(): boolean {
  return true
}
