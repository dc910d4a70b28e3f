import type { Duplex } from 'node:stream'
import type { NodeId } from '../../src/model/ids.ts'
import type { NodeReach } from '../../src/model/node.ts'
import { isMeshError, MeshError } from '../../src/errors.ts'
import { Backoff } from '../../src/kit/backoff.ts'
import { systemClock, type Clock } from '../../src/kit/clock.ts'
import { Lifetime } from '../../src/kit/lifetime.ts'
import type { Log } from '../../src/kit/log.ts'
import { dialUpgrade } from '../../src/kit/upgrade.ts'
import { dialBytes, dialText, type Channel, type DialOptions } from '../../src/kit/websocket.ts'
import { LISTEN, readFromRelay, refusalOf, TAKE, TO, type FromListener, type FromRelay } from '../relay/messages.ts'
import type { Dialer, RawConnection } from './contract.ts'

/** How this node proves itself to relays; asked anew for each connection, because certificates renew. */
export type RelayCredentials = () => Pick<DialOptions, 'tls' | 'verify' | 'egress'>

export interface RelayListenerOptions {
  /** `wss://host:port/relay`. */
  url: string
  credentials: RelayCredentials
  onConnection: (raw: RawConnection) => void
  clock?: Clock
  random?: () => number
}

/** A dialler may wait at the relay for the listener; this is longer than the relay's own limit, so its reason arrives. */
const DIAL_MS = 7_000
/** Connections being fetched at once; more are refused. Larger lets diallers keep us busy, smaller fails in bursts. */
const MAX_TAKING = 64
/** After another process with our identity has taken our place: slower, or the two chase each other. */
const REPLACED_MS = 30_000
/** A channel that held so long was good; a relay that ends each one at once is asked ever more slowly. */
const STEADY_MS = 10_000

/** Reaches nodes through the relays they listen at, one after the other. */
export function relayedDialer({ credentials }: { credentials: RelayCredentials }): Dialer {
  return {
    path: 'relayed',
    suits: ({ relays }) => relays.length > 0,
    dial: async ({ id, relays }: NodeReach, signal) => {
      const refusals: unknown[] = []
      for (const relay of relays) {
        try {
          const stream = await dialLeg(at(relay, TO, id), { ...credentials(), timeoutMs: DIAL_MS }, signal)
          return { path: 'relayed', stream, via: relay }
        } catch (error) {
          if (signal.aborted) throw error
          refusals.push(readable(error, relay, id))
        }
      }
      if (refusals.length === 1) throw refusals[0]
      throw new MeshError('RELAY_REFUSED', { node: id, relays }, { cause: refusals[0] })
    },
  }
}

/** Keeps this node reachable through one relay: a control channel that comes back by itself. */
export class RelayListener implements AsyncDisposable {
  readonly #options: RelayListenerOptions
  readonly #log: Log
  readonly #life: Lifetime
  readonly #clock: Clock
  readonly #backoff: Backoff
  #isListening = false
  #taking = 0
  /** When the relay wants us back, as it said before it went. */
  #backInMs: number | undefined

  private constructor(options: RelayListenerOptions, log: Log, life: Lifetime) {
    this.#options = options
    this.#log = log.child({ part: 'relay listener', address: options.url })
    this.#life = life
    this.#clock = options.clock ?? systemClock
    this.#backoff = new Backoff(options.random === undefined ? {} : { random: options.random })
  }

  /** Returns at once: an unreachable relay is tried again and again, and is no reason not to start. */
  static start(options: RelayListenerOptions, log: Log): Promise<RelayListener> {
    return Lifetime.open((life) => {
      const listener = new RelayListener(options, log, life)
      life.spawn(
        (signal) => listener.#keep(signal),
        (error) => listener.#log.error('stopped listening at the relay', { error }),
      )
      return listener
    })
  }

  /** True while the relay can send others to us. */
  get isListening(): boolean {
    return this.#isListening
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }

  async #keep(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      let pauseMs: number | undefined
      try {
        const channel = await dialText(at(this.#options.url, LISTEN, ''), this.#options.credentials(), signal)
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
      await this.#clock.sleep(pauseMs ?? this.#backoff.nextMs(), signal)
    }
  }

  /** Resolves to the reason when the channel ends. */
  #listen(channel: Channel, signal: AbortSignal): Promise<string> {
    return new Promise((resolve) => {
      const stop = () => channel.close('leaving')
      signal.addEventListener('abort', stop, { once: true })
      channel.onClose((reason) => {
        this.#isListening = false
        signal.removeEventListener('abort', stop)
        resolve(reason)
      })
      channel.onText((text) => this.#hear(channel, text, signal))
      this.#isListening = true
      this.#log.info('listening at the relay')
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

/** Plain bytes after an upgrade; a WebSocket where somebody on the way answers who is not the relay. */
async function dialLeg(url: string, options: DialOptions, signal: AbortSignal): Promise<Duplex> {
  try {
    return await dialUpgrade(url, options, signal)
  } catch (error) {
    const isForeign = isMeshError(error, 'REQUEST_FAILED') && refusalOf(error.details['status']) === undefined
    if (!isForeign || signal.aborted) throw error
    return await dialBytes(url, options, signal)
  }
}

function at(relay: string, key: string, value: string): string {
  const url = new URL(relay)
  url.search = new URLSearchParams({ [key]: value }).toString()
  return url.href
}

/** A refusal's HTTP status, in words. */
function readable(error: unknown, relay: string, node?: NodeId): unknown {
  if (!isMeshError(error, 'REQUEST_FAILED')) return error
  const { status } = error.details
  return new MeshError('RELAY_REFUSED', { node, relay, reason: refusalOf(status) ?? `status ${String(status)}` })
}
