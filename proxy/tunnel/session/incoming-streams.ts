import { SteadyMap } from '../../../src/core/kit/steady-map.ts'
import { TokenBucket } from '../../../src/core/kit/token-bucket.ts'
import type { Carrier } from '../carrier/carrier.ts'
import { REFUSALS, type Refusal } from '../contract.ts'
import { FRAME, frameInvalid } from '../wire/frame.ts'
import { Incoming } from './incoming.ts'
import type { MuxOptions, MuxParts } from './mux-parts.ts'
import { MuxStream } from '../stream/mux-stream.ts'
import type { StreamUser } from '../stream/stream-user.ts'

/** How long after our DRAIN the peer may still open streams: it had not read DRAIN when it sent these. */
const LATE_OPEN_MS = 1_000

/**
 * After so many OPENs the connection is not read for a moment, and others have their turn: the system hands over up to 2 MB of one
 * connection in one turn of the event loop, which are 30,000 OPENs. Smaller: many flows at once open more slowly.
 */
const OPENS_AT_ONCE = 128
const MOMENT_MS = 1

/** Streams that the peer opens, until each is accepted, refused or withdrawn, or was not answered in time. */
export class IncomingStreams {
  readonly #options: MuxOptions
  readonly #parts: MuxParts
  readonly #opens: TokenBucket | undefined
  /** Refusals have a rate too: beyond it what the peer sends is read more slowly, so that a flood costs it more than us. */
  readonly #refusals: TokenBucket | undefined
  /** In the order of time. */
  readonly #pending = new SteadyMap<number, Incoming>()
  #drainedAt: number | undefined
  #count = 0

  constructor(options: MuxOptions, parts: MuxParts) {
    this.#options = options
    this.#parts = parts
    const { opensPerSecond: perSecond } = options.limits
    if (perSecond === undefined) return
    this.#opens = new TokenBucket({ perSecond, burst: perSecond, now: options.now })
    this.#refusals = new TokenBucket({ perSecond, burst: perSecond, now: options.now })
  }

  /** No new streams are wanted. */
  get isDraining(): boolean {
    return this.#drainedAt !== undefined
  }

  drain(): void {
    this.#drainedAt ??= this.#options.now()
  }

  /** @throws MeshError FRAME_INVALID */
  got(carrier: Carrier, id: number, payload: Buffer, isRepeated: boolean): void {
    const { streams, ownBit, accounting, pendingResets, tombstones } = this.#parts
    if ((id & 1) === ownBit) throw frameInvalid('OPEN of a stream that is ours to open', { stream: id })
    const held = streams.get(id)
    if (held !== undefined) {
      if (!isRepeated || !accounting.isResumable) throw frameInvalid('OPEN of a stream that is open', { stream: id })
      if (held.carrier !== carrier) held.moveTo(carrier)
      return
    }
    if (pendingResets.has(id) || (isRepeated && tombstones.has(id))) return carrier.outbox.control(FRAME.RESET, id)
    this.#take(carrier, id, payload)
  }

  #take(carrier: Carrier, id: number, payload: Buffer): void {
    const { accounting } = this.#parts
    this.#count += 1
    if (this.#count % OPENS_AT_ONCE === 0) carrier.rest(MOMENT_MS)
    const refusal = this.#whyNot()
    if (refusal !== undefined) return this.#refuse(carrier, id, refusal)
    const user: StreamUser = { takes: 'nothing', events: { reset: () => incoming.gone() } }
    const stream = new MuxStream(id, carrier, accounting, { user })
    accounting.add(stream)
    const opened = {
      peer: this.#options.peer,
      path: carrier.path,
      request: Buffer.from(payload),
      since: this.#options.now(),
    }
    const incoming = new Incoming(opened, stream, () => this.#pending.delete(id))
    this.#pending.set(id, incoming)
    this.#options.owner.accept(incoming)
  }

  #refuse(carrier: Carrier, id: number, refusal: Refusal): void {
    carrier.outbox.control(FRAME.REFUSED, id, Buffer.of(REFUSALS.indexOf(refusal)))
    if (this.#refusals === undefined) return
    this.#refusals.take(1)
    carrier.rest(this.#refusals.waitMs)
  }

  /** WITHDRAW: the opener wants to try elsewhere. A stream that was accepted stays. */
  withdrawn(id: number): void {
    this.#pending.get(id)?.giveUp()
  }

  /** Refuses what was not answered in time. */
  tick(now: number): void {
    for (const incoming of this.#pending.values()) {
      if (now - incoming.since < this.#options.limits.openTimeoutMs) return
      incoming.giveUp()
    }
  }

  #whyNot(): Refusal | undefined {
    // an OPEN that crossed our DRAIN is as welcome as those before it
    if (this.#drainedAt !== undefined && this.#options.now() - this.#drainedAt > LATE_OPEN_MS) return 'draining'
    const { accounting } = this.#parts
    const { streams, pendingOpens } = this.#options.limits
    if (accounting.isCrowded || accounting.theirs >= streams || this.#pending.size >= pendingOpens) return 'overloaded'
    return this.#opens?.tryTake() === false ? 'overloaded' : undefined
  }
}
