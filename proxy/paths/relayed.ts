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
import {
  LISTEN,
  PING,
  readFromRelay,
  refusalOf,
  SIGNALS,
  TAKE,
  TO,
  type FromListener,
  type FromRelay,
  type Welcome,
} from '../relay/messages.ts'
import type { Dialer, RawConnection } from './contract.ts'
import { orderRelays } from './relay-choice.ts'
import { staggered } from './stagger.ts'

/** How this node proves itself to relays; asked anew for each connection, because certificates renew. */
export type RelayCredentials = () => Pick<DialOptions, 'tls' | 'verify' | 'egress'>

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

/** A dialler may wait at the relay for the listener; this is longer than the relay's own limit, so its reason arrives. */
const DIAL_MS = 7_000
/** How long one relay is alone before the next is tried beside it; two nodes seldom meet at a relay any slower. */
const STAGGER_MS = 200
/** A node listens at two or three. */
const MOST_TRIED = 4
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

export interface RelayedDialerOptions {
  credentials: RelayCredentials
  /** How far a relay is from here, where that was measured. */
  rttMs?: (url: string) => number | undefined
  clock?: Clock
}

/** Reaches nodes through the relays they listen at: the one that is nearest to both first, and soon the next beside it. */
export function relayedDialer({ credentials, rttMs = unknown, clock = systemClock }: RelayedDialerOptions): Dialer {
  const through = async (relay: string, id: NodeId, signal: AbortSignal): Promise<RawConnection> => {
    try {
      const stream = await dialLeg(at(relay, TO, id), { ...credentials(), timeoutMs: DIAL_MS }, signal)
      return { path: 'relayed', stream, via: relay }
    } catch (error) {
      throw signal.aborted ? error : readable(error, relay, id)
    }
  }
  return {
    path: 'relayed',
    suits: ({ relays }) => relays.length > 0,
    dial: async ({ id, relays }: NodeReach, signal) => {
      const tries = orderRelays(relays.slice(0, MOST_TRIED), rttMs).map(
        (relay) => (limit: AbortSignal) => through(relay, id, limit),
      )
      const discard = ({ stream }: RawConnection) => stream.destroy()
      try {
        return await staggered(tries, { staggerMs: STAGGER_MS, clock, discard }, signal)
      } catch (error) {
        if (!(error instanceof AggregateError)) throw error
        if (error.errors.length === 1) throw error.errors[0]
        throw new MeshError('RELAY_REFUSED', { node: id, relays }, { cause: error.errors[0] })
      }
    },
  }
}

/** How far a relay is at which this node does not listen: the shortest of a few round trips. @throws MeshError */
export async function measureRelay(url: string, credentials: RelayCredentials, signal: AbortSignal): Promise<number> {
  const channel = await dialText(at(url, PING, ''), credentials(), signal)
  try {
    let shortest = Number.POSITIVE_INFINITY
    for (let tries = 0; tries < 3; tries += 1) shortest = Math.min(shortest, await channel.measure())
    return shortest
  } finally {
    channel.close('measured')
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

function unknown(): undefined {
  return undefined
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
