import type { NodeId } from '../../src/model/ids.ts'
import { MeshError } from '../../src/errors.ts'
import { Backoff } from '../../src/kit/backoff.ts'
import { systemClock, type Clock } from '../../src/kit/clock.ts'
import { Lifetime } from '../../src/kit/lifetime.ts'
import type { Log } from '../../src/kit/log.ts'
import { dialText, type Channel } from '../../src/kit/websocket.ts'
import {
  LISTEN,
  readFromRelay,
  SIGNALS,
  TAKE,
  type FromListener,
  type FromRelay,
  type Welcome,
} from '../relay/messages.ts'
import type { RawConnection } from './contract.ts'
import { at, dialLeg, readable, type RelayCredentials } from './relayed.ts'

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

/** A relay may be gone for a second or for an hour, and with it all its nodes: soon at first, and never much too late. */
const BACK = { firstMs: 500, limitMs: 4_000 }
/** Connections being fetched at once; more are refused. Larger lets diallers keep us busy, smaller fails in bursts. */
const MAX_TAKING = 64
/** After another process with our identity has taken our place: slower, or the two chase each other. */
const REPLACED_MS = 30_000
/** After a change of the network the relay must answer within this. */
const RECHECK_MS = 1_500
/** A channel that held so long was good; a relay that ends each one at once is asked ever more slowly. */
const STEADY_MS = 10_000

/** Keeps this node reachable through one relay: a control channel that comes back by itself. */
export class RelayListener implements AsyncDisposable {
  readonly #options: RelayListenerOptions
  readonly #log: Log
  readonly #life: Lifetime
  readonly #clock: Clock
  readonly #backoff: Backoff
  #isListening = false
  #channel: Channel | undefined
  #knowsSignals = false
  /** Ends a dial or a rest, for another try at once. */
  #again = new AbortController()
  #taking = 0
  /** When the relay wants us back, as it said before it went. */
  #backInMs: number | undefined

  private constructor(options: RelayListenerOptions, log: Log, life: Lifetime) {
    this.#options = options
    this.#log = log.child({ part: 'relay listener', address: options.url })
    this.#life = life
    this.#clock = options.clock ?? systemClock
    this.#backoff = new Backoff({ ...BACK, ...(options.random === undefined ? {} : { random: options.random }) })
  }

  /** Returns at once: an unreachable relay is tried again and again, and is no reason not to start. */
  static start(options: RelayListenerOptions, log: Log): RelayListener {
    const life = new Lifetime()
    const listener = new RelayListener(options, log, life)
    life.spawn(
      (signal) => listener.#keep(signal),
      (error) => listener.#log.error('stopped listening at the relay', { error }),
    )
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
    this.#backoff.reset()
    if (this.#channel === undefined)
      this.#again.abort(new MeshError('NOT_RUNNING', { reason: 'the network has changed' }))
    else this.#channel.recheck?.(isHere, RECHECK_MS)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }

  async #keep(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      let pauseMs: number | undefined
      this.#again = new AbortController()
      const limit = AbortSignal.any([signal, this.#again.signal])
      try {
        const channel = await dialText(at(this.#options.url, LISTEN, SIGNALS), this.#options.credentials(), limit)
        const since = this.#clock.now()
        const reason = await this.#listen(channel, signal)
        if (signal.aborted) return
        if (this.#clock.now() - since > STEADY_MS) this.#backoff.reset()
        pauseMs = reason === 'replaced' ? REPLACED_MS : this.#backInMs
        this.#backInMs = undefined
        this.#log.warn('relay lost', { reason })
      } catch (error) {
        if (signal.aborted) return
        this.#log.warn('relay not reached', { error: readable(error, this.#options.url) })
      }
      await this.#clock.sleep(pauseMs ?? this.#backoff.nextMs(), limit)
    }
  }

  /** Resolves to the reason when the channel ends. */
  #listen(channel: Channel, signal: AbortSignal): Promise<string> {
    return new Promise((resolve) => {
      const stop = () => channel.close('leaving')
      signal.addEventListener('abort', stop, { once: true })
      channel.onClose((reason) => {
        this.#isListening = false
        this.#channel = undefined
        this.#knowsSignals = false
        signal.removeEventListener('abort', stop)
        this.#options.onListening?.()
        resolve(reason)
      })
      channel.onText((text) => this.#hear(channel, text, signal))
      this.#isListening = true
      this.#channel = channel
      this.#log.info('listening at the relay')
      this.#options.onListening?.()
      if (signal.aborted) stop()
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
        this.#backInMs = message.backInMs
        return
      case 'signal':
        return this.#options.onSignal?.({ ...message, relay: this.url })
      case 'welcome':
        this.#knowsSignals = true
        return this.#options.onWelcome?.(message, this.url)
      default:
        message satisfies never
    }
  }

  #fetch(channel: Channel, { nonce, from }: FromRelay & { type: 'incoming' }, signal: AbortSignal): void {
    if (this.#taking >= MAX_TAKING)
      return channel.send(JSON.stringify({ type: 'refuse', nonce } satisfies FromListener))
    this.#taking += 1
    void this.#take(nonce, from, signal).finally(() => {
      this.#taking -= 1
    })
  }

  /** `from` is only what the relay says: who it is, TLS inside proves. */
  async #take(nonce: string, from: NodeId, signal: AbortSignal): Promise<void> {
    const { url, credentials, onConnection } = this.#options
    try {
      const stream = await dialLeg(at(url, TAKE, nonce), credentials(), signal)
      onConnection({ path: 'relayed', stream, via: url })
    } catch (error) {
      if (!signal.aborted)
        this.#log.warn('connection at the relay not taken', { peer: from, error: readable(error, url) })
    }
  }
}
