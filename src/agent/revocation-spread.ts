import { deflateSync, inflateSync } from 'node:zlib'
import type { ReceivedSignal, Signal, Signals, SignalOf } from '../../proxy/paths/signals.ts'
import type { Peers, Session } from '../../proxy/tunnel/contract.ts'
import type { RevocationView } from '../core/identity/contract.ts'
import { MAX_LIST_CHARS } from '../core/identity/revocation-list.ts'
import { BoundedMap } from '../core/kit/bounded-map.ts'
import type { Clock } from '../core/kit/clock.ts'
import type { Lifetime } from '../core/kit/lifetime.ts'
import type { Log } from '../core/kit/log.ts'
import type { NodeId } from '../core/model/ids.ts'

/** How often new sessions and a newer list are looked for. */
const ANNOUNCE_MS = 500
/** A signal has 2,048 bytes; what is around the data takes less than 200. */
const PART_CHARS = 1_600
const MOST_PARTS = 1_000
/** Parts that a receiver takes at once, and its rate from then on (signals.ts has 20 and 5 a second). */
const BURST = 12
const PACE_MS = 250
/** Lists that are put together at a time, and asked for again when a part was lost. */
const MOST_SENDERS = 64
const ASK_AGAIN_MS = 5_000

export interface RevocationSpreadOptions {
  revocations: RevocationView
  signals: Pick<Signals, 'on' | 'send'>
  peers: Pick<Peers, 'all'>
  clock: Clock
  log: Log
}

/** A list that arrives in parts. */
interface Arriving {
  number: number
  parts: (string | undefined)[]
}

/**
 * Passes the list of revoked certificates on to the peers of our sessions, so that it also reaches nodes whose control link is down.
 * The root has signed it: it does not matter who passes it on.
 *
 *     session, or a newer list ─▶ revocations(number) ─▶ older there? ─▶ revocations-get ─▶ revocations-part × n ─▶ offer
 */
export class RevocationSpread {
  readonly #options: RevocationSpreadOptions
  readonly #life: Lifetime
  /** The number that was announced on each session. */
  readonly #announced = new WeakMap<Session, number>()
  readonly #arriving = new BoundedMap<NodeId, Arriving>(MOST_SENDERS)
  readonly #sending = new Set<NodeId>()
  #askedAt = Number.NEGATIVE_INFINITY
  #askedFor = 0

  private constructor(life: Lifetime, options: RevocationSpreadOptions) {
    this.#life = life
    this.#options = options
  }

  static start(life: Lifetime, options: RevocationSpreadOptions): RevocationSpread {
    const spread = new RevocationSpread(life, options)
    const { signals } = options
    signals.on('revocations', (received) => spread.#announcedBy(received))
    signals.on('revocations-get', ({ from, reply }) => spread.#send(from, reply))
    signals.on('revocations-part', ({ from, signal }) => spread.#take(from, signal))
    life.every(ANNOUNCE_MS, () => spread.announce(), 'revocation announcements')
    life.defer(options.revocations.onChanged(() => spread.announce()))
    return spread
  }

  /** Tells each peer the number of our list, once for each number. */
  announce(): void {
    const { revocations, signals, peers } = this.#options
    if (revocations.number === 0) return
    for (const session of peers.all()) {
      if ((this.#announced.get(session) ?? 0) >= revocations.number) continue
      const announcement: Signal = { type: 'revocations', number: revocations.number }
      if (signals.send({ id: session.peer, relays: [] }, announcement)) this.#announced.set(session, revocations.number)
    }
  }

  #announcedBy({ signal, reply }: ReceivedSignal<SignalOf<'revocations'>>): void {
    const { revocations, clock } = this.#options
    if (signal.number <= revocations.number) return
    // one peer is enough; another is asked when that one has not delivered
    if (signal.number <= this.#askedFor && clock.now() - this.#askedAt < ASK_AGAIN_MS) return
    this.#askedFor = signal.number
    this.#askedAt = clock.now()
    reply({ type: 'revocations-get' })
  }

  /** As fast as the peer takes signals. */
  #send(to: NodeId, reply: (signal: Signal) => boolean): void {
    const { revocations, clock } = this.#options
    const { text, number } = revocations
    if (text === undefined || this.#sending.has(to)) return
    const data = deflateSync(text).toString('base64')
    const parts = Math.ceil(data.length / PART_CHARS)
    if (parts > MOST_PARTS) return
    this.#sending.add(to)
    const sendFrom = (part: number): void => {
      const end = Math.min(parts, part + (part === 0 ? BURST : 1))
      for (let at = part; at < end; at += 1) {
        const slice = data.slice(at * PART_CHARS, (at + 1) * PART_CHARS)
        if (!reply({ type: 'revocations-part', number, part: at, parts, data: slice }))
          return void this.#sending.delete(to)
      }
      if (end < parts && !this.#life.signal.aborted) clock.after(PACE_MS, () => sendFrom(end))
      else this.#sending.delete(to)
    }
    sendFrom(0)
  }

  #take(from: NodeId, { number, part, parts, data }: SignalOf<'revocations-part'>): void {
    const { revocations, log } = this.#options
    if (number <= revocations.number || part >= parts) return
    const before = this.#arriving.get(from)
    const arriving =
      before?.number === number && before.parts.length === parts
        ? before
        : { number, parts: Array.from<string | undefined>({ length: parts }) }
    arriving.parts[part] = data
    this.#arriving.set(from, arriving)
    if (arriving.parts.includes(undefined)) return
    this.#arriving.delete(from)
    try {
      const text = inflateSync(Buffer.from(arriving.parts.join(''), 'base64'), { maxOutputLength: MAX_LIST_CHARS })
      revocations.offer(text.toString('utf8'))
    } catch (error) {
      log.warn('list of revoked certificates ignored', { peer: from, error })
    }
  }
}
