import { randomBytes } from 'node:crypto'
import { background } from '../../../src/core/kit/background.ts'
import type { NodeId } from '../../../src/core/model/ids.ts'
import { isMeshError, MeshError } from '../../../src/core/errors.ts'
import { onAbort } from '../../../src/core/kit/abort.ts'
import { systemClock, type Clock } from '../../../src/core/kit/clock.ts'
import { Lifetime } from '../../../src/core/kit/lifetime.ts'
import type { Log } from '../../../src/core/kit/log.ts'
import { dialText, type Channel } from '../../../src/core/kit/websocket.ts'
import {
  KNOCKS_HEADER,
  LISTEN,
  readFromRelay,
  refusalOf,
  SIGNALS,
  TAKE,
  type FromListener,
  type FromRelay,
  type Welcome,
} from '../../relay/wire/messages.ts'
import { ReconnectPolicy } from './reconnect-policy.ts'
import type { RawConnection } from '../contract.ts'
import { at, dialLeg, readable, type AnnouncedLeg, type RelayCredentials } from './relayed-dialer.ts'

export interface RelayListenerOptions {
  /** `wss://host:port/relay`. */
  url: string
  credentials: RelayCredentials
  onConnection: (raw: RawConnection) => void
  /** Others can reach us there now, or not any more. */
  onListening?: () => void
  /** Another node that listens there says something. */
  onSignal?: (signal: RelayedSignal) => void
  /** The relay knows signals, and perhaps tells where it sees us. */
  onWelcome?: (welcome: Welcome, relay: string) => void
  clock?: Clock
  random?: () => number
}

/** What a node says through the relay: `from` is who it has proved to be there, `seen` the address it comes from. */
export interface RelayedSignal {
  from: NodeId
  seen: string
  body: string
  relay: string
}

/** Connections being fetched at once; more are refused. Larger lets diallers keep us busy, smaller fails in bursts. */
const MAX_TAKING = 64
/** After a change of the network the relay must answer within this. */
const RECHECK_MS = 1_500
/** A channel that is doubted must answer within this, or within four round trips; and is asked so often. */
const ANSWER_MS = 400
const PROBE_MS = 1_000
/** Tries in vain that are one line of the log. */
const TOLD_EACH = 8
/** Of a relay that was not measured. */
const UNMEASURED_MS = 100

/** Keeps this node reachable through one relay: a control channel that comes back by itself. */
export class RelayListener implements AsyncDisposable {
  readonly #options: RelayListenerOptions
  readonly #log: Log
  readonly #life: Lifetime
  readonly #clock: Clock
  readonly #comeback: ReconnectPolicy
  #isListening = false
  #channel: Channel | undefined
  #knowsSignals = false
  #takesKnocks = false
  /** Ends a dial or a rest, for another try at once. */
  #again = new AbortController()
  #doing: { what: 'dialling'; since: number } | { what: 'resting'; until: number; isFirm: boolean } | undefined
  #probedAt = Number.NEGATIVE_INFINITY
  /** Tries in vain since it was listened at. */
  #missed = 0
  #taking = 0

  private constructor(options: RelayListenerOptions, log: Log, life: Lifetime) {
    this.#options = options
    this.#log = log.child({ part: 'relay listener', address: options.url })
    this.#life = life
    this.#clock = options.clock ?? systemClock
    this.#comeback = new ReconnectPolicy(this.#clock, options.random ?? Math.random)
  }

  /** Returns at once: an unreachable relay is tried again and again, and is no reason not to start. */
  static start(options: RelayListenerOptions, log: Log): RelayListener {
    const life = new Lifetime()
    const listener = new RelayListener(options, log, life)
    life.spawn((signal) => listener.#keep(signal), 'relay listener')
    return listener
  }

  /** True while the relay can send others to us. */
  get isListening(): boolean {
    return this.#isListening
  }

  /** Says something to a node that listens here too; false when that cannot be. Nobody knows whether it arrives. */
  signal(to: NodeId, body: string): boolean {
    if (this.#channel === undefined || !this.#knowsSignals) return false
    this.#channel.send(JSON.stringify({ type: 'signal', to, body } satisfies FromListener))
    return true
  }

  /** Says to a node that listens here too, and to the relay, that a leg of ours is coming; nothing: it must come unannounced. */
  knock(to: NodeId): AnnouncedLeg | undefined {
    const channel = this.#channel
    if (channel === undefined || !this.#takesKnocks) return undefined
    const nonce = randomBytes(16).toString('hex')
    const say = (message: FromListener) => channel.send(JSON.stringify(message))
    say({ type: 'knock', to, nonce })
    return { nonce, withdraw: () => say({ type: 'withdraw', nonce }) }
  }

  get url(): string {
    return this.#options.url
  }

  /** One round trip to the relay. @throws MeshError LINK_CLOSED */
  async measure(): Promise<number> {
    if (this.#channel === undefined) throw new MeshError('LINK_CLOSED', { address: this.#options.url })
    return this.#channel.measure()
  }

  /** The machine's network is another one: a channel must show that it lives, without one the relay is dialled at once. */
  networkChanged(isHere: (address: string) => boolean): void {
    this.#comeback.afresh()
    if (this.#channel === undefined) this.#tryAgain('the network has changed')
    else this.#channel.recheck?.(isHere, RECHECK_MS)
  }

  /**
   * Streams wait for a path, now; said again as long as they do. A channel must show that it lives (a router that forgot it says
   * nothing); without one no rest is long, and no dial hangs for long. `rttMs`: how far the relay is, when that is known.
   */
  hurry(rttMs = UNMEASURED_MS): void {
    this.#comeback.hurried()
    if (this.#channel !== undefined) {
      const now = this.#clock.now()
      if (now - this.#probedAt < PROBE_MS) return
      this.#probedAt = now
      this.#channel.recheck?.(isAnywhere, Math.max(ANSWER_MS, 4 * rttMs))
    } else if (this.#doing?.what === 'dialling') {
      if (this.#comeback.hangs(this.#doing.since)) this.#tryAgain('the dial hangs')
    } else if (this.#doing?.isFirm === false) {
      const inMs = this.#comeback.sooner(this.#doing.until)
      if (inMs === undefined) return
      this.#doing.until = this.#clock.now() + inMs
      const again = this.#again
      this.#clock.after(inMs, () => again.abort(new MeshError('NOT_RUNNING', { reason: 'streams wait' })))
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }

  async #keep(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      let pauseMs: number
      let isFirm = false
      this.#again = new AbortController()
      const limit = AbortSignal.any([signal, this.#again.signal])
      this.#doing = { what: 'dialling', since: this.#clock.now() }
      try {
        const dial = { ...this.#options.credentials(), headers: { [KNOCKS_HEADER]: '1' } }
        const channel = await dialText(at(this.#options.url, LISTEN, SIGNALS), dial, limit)
        const since = this.#clock.now()
        this.#doing = undefined
        this.#comeback.reached()
        this.#missed = 0
        const reason = await this.#listen(channel, signal)
        if (signal.aborted) return
        isFirm = reason === 'replaced'
        pauseMs = this.#comeback.afterLoss(since, isFirm)
        this.#log.warn('relay lost', { reason })
      } catch (error) {
        if (signal.aborted) return
        if (this.#again.signal.aborted) continue
        const told = this.#missed % TOLD_EACH === 0 ? 'warn' : 'debug'
        this.#missed += 1
        this.#log[told]('relay not reached', { error: readable(error, this.#options.url) })
        pauseMs = this.#comeback.afterFailure()
      }
      this.#doing = { what: 'resting', until: this.#clock.now() + pauseMs, isFirm }
      await this.#clock.sleep(pauseMs, limit)
    }
  }

  #tryAgain(reason: string): void {
    this.#again.abort(new MeshError('NOT_RUNNING', { reason }))
  }

  /** Resolves to the reason when the channel ends. */
  #listen(channel: Channel, signal: AbortSignal): Promise<string> {
    return new Promise((resolve) => {
      const listener = onAbort(signal, () => channel.close('leaving'))
      channel.onClose((reason) => {
        this.#isListening = false
        this.#channel = undefined
        this.#knowsSignals = false
        this.#takesKnocks = false
        listener[Symbol.dispose]()
        this.#options.onListening?.()
        resolve(reason)
      })
      channel.onText((text) => this.#hear(channel, text, signal))
      this.#isListening = true
      this.#channel = channel
      this.#log.info('listening at the relay')
      this.#options.onListening?.()
    })
  }

  #hear(channel: Channel, text: string, signal: AbortSignal): void {
    let message: FromRelay
    try {
      message = readFromRelay(text)
    } catch (error) {
      this.#log.warn('relay sent something malformed', { error })
      return channel.close('malformed message')
    }
    switch (message.type) {
      case 'incoming':
        return this.#fetch(channel, message, signal)
      case 'goaway':
        return this.#comeback.asked(message.backInMs)
      case 'signal':
        return this.#options.onSignal?.({ ...message, relay: this.url })
      case 'welcome':
        this.#knowsSignals = true
        this.#takesKnocks = message.knocks === true
        return this.#options.onWelcome?.(message, this.url)
      default:
        message satisfies never
    }
  }

  #fetch(channel: Channel, { nonce, from }: FromRelay & { type: 'incoming' }, signal: AbortSignal): void {
    if (this.#taking >= MAX_TAKING)
      return channel.send(JSON.stringify({ type: 'refuse', nonce } satisfies FromListener))
    this.#taking += 1
    void background.run('connection through a relay', () =>
      this.#take(nonce, from, signal).finally(() => {
        this.#taking -= 1
      }),
    )
  }

  /** `from` is only what the relay says: who it is, TLS inside proves. */
  async #take(nonce: string, from: NodeId, signal: AbortSignal): Promise<void> {
    const { url, credentials, onConnection } = this.#options
    try {
      const stream = await dialLeg(at(url, TAKE, nonce), credentials(), signal)
      onConnection({ path: 'relayed', stream, via: url })
    } catch (error) {
      if (signal.aborted) return
      // a node that knocked and has found a better way meanwhile is no fault
      const isGone =
        isMeshError(error, 'REQUEST_FAILED') && refusalOf(error.details['status']) === 'nonce unknown or used'
      this.#log[isGone ? 'debug' : 'warn']('connection at the relay not taken', {
        peer: from,
        error: readable(error, url),
      })
    }
  }
}

function isAnywhere(): boolean {
  return true
}
