import { allows, type PathRule } from '../../../src/core/model/path-rule.ts'
import type { Carrier } from '../carrier/carrier.ts'
import { FRAME, frameInvalid } from '../wire/frame.ts'
import { FEATURE } from '../wire/hello.ts'
import type { MuxOptions, MuxParts } from './mux-parts.ts'
import type { MuxStream } from '../stream/mux-stream.ts'
import type { IncomingStreams } from './incoming-streams.ts'
import { carrierFor, rebalance, type Move } from './placement.ts'
import { decodeResume, encodeResume, CARRIERS_PER_RESUME } from '../wire/resume.ts'

/**
 * Moves the streams of a session between its carriers.
 *
 *     a carrier dies ─▶ detach ─▶ its streams go on on another one, or wait (OPENs that were not answered fail)
 *     the next one comes ─▶ attach ─▶ RESUME, and all that waited go on
 *     another carrier is better ─▶ move
 *     no carrier is on a path that the stream's rule allows ─▶ given up after `resumeMs`, as the session itself would be
 */
export class Failover {
  readonly #options: MuxOptions
  readonly #parts: MuxParts
  readonly #incoming: IncomingStreams
  readonly #detached = new DetachedStreams<MuxStream>()
  /** Numbers of carriers that are gone, for the peer to close them too. */
  #lost: number[] = []
  /** Streams that changed carriers. */
  moved = 0

  constructor(options: MuxOptions, parts: MuxParts, incoming: IncomingStreams) {
    this.#options = options
    this.#parts = parts
    this.#incoming = incoming
  }

  /** The rule of a stream that waits, while the session has carriers only on paths that the rule does not allow. */
  get missing(): PathRule | undefined {
    return this.#parts.carriers.length === 0 ? undefined : this.#detached.first?.rule
  }

  /** @throws MeshError FRAME_INVALID when the carrier cannot do what the session's others can. */
  attach(carrier: Carrier): void {
    const { carriers, streams, accounting } = this.#parts
    const canResume = (carrier.peerFeatures & FEATURE.resume) !== 0
    if (carriers.length === 0 && streams.size === 0) accounting.isResumable = canResume
    else if (accounting.isResumable !== canResume) throw frameInvalid('carriers of one session differ')
    this.#lost = this.#lost.filter((number) => number !== carrier.number)
    carriers.push(carrier)
    this.#options.sealed?.attached(carrier)
    if (this.#incoming.isDraining) carrier.outbox.control(FRAME.DRAIN, 0, Buffer.of(1))
    const waiting = [...streams.values()].filter((stream) => stream.carrier === undefined)
    // what is on carriers that may be dead moves at once
    if (carriers.some(({ isDoubtful }) => isDoubtful)) this.rebalance()
    if (carriers.length > 1 && waiting.length === 0) return
    this.#sendResume(carrier, waiting)
    for (const stream of waiting) {
      if (!allows(stream.rule, carrier.path)) this.#detached.add(stream, this.#options.now())
      else stream.moveTo(carrier)
    }
  }

  /**
   * The carrier is gone: its streams go on on others, or wait for the next one. Without one, an OPEN that was not answered fails,
   * unless the peer may have early bytes of it.
   */
  detach(carrier: Carrier): void {
    const { carriers, accounting, pendingResets } = this.#parts
    const at = carriers.indexOf(carrier)
    if (at < 0) return
    carriers.splice(at, 1)
    this.#options.sealed?.detached(carrier)
    this.#lost = [...this.#lost, carrier.number].slice(-CARRIERS_PER_RESUME)
    pendingResets.carrierLost(carrier)
    const streams = [...this.#parts.streams.values()]
    const next = carrierFor(carriers)
    if (!accounting.isResumable) {
      for (const stream of streams) if (stream.carrier === carrier) stream.fail('lost')
    } else if (next === undefined) {
      for (const stream of streams) this.#suspend(stream)
    } else {
      const touched = streams.filter((stream) => stream.carrier === carrier || stream.receiver.carrier === carrier)
      this.#sendResume(next, touched)
      for (const stream of touched) if (stream.carrier === carrier) this.#moveFromLost(stream, next)
    }
  }

  /** Streams leave carriers that are dead, worse, or crowded. */
  rebalance(): void {
    this.move(rebalance(this.#parts.carriers, this.#parts.streams.values()))
  }

  /** Moves streams from carriers that live to better ones. */
  move(moves: Iterable<Move<Carrier, MuxStream>>): void {
    if (!this.#parts.accounting.isResumable) return
    for (const { stream, to } of moves) {
      // its OPEN may still arrive on the first carrier, and must not arrive twice
      if (stream.state === 'opening' || stream.state === 'closed' || to === stream.carrier) continue
      stream.moveTo(to)
      this.moved += 1
    }
  }

  /** A repeated OPEN follows RESUME on the same carrier: after that, nothing of the lost one is taken by the peer. */
  #moveFromLost(stream: MuxStream, resumedOn: Carrier): void {
    const { state, rule } = stream
    if (state !== 'opening') stream.moveTo(carrierFor(this.#parts.carriers, stream.isBulk ? 'bulk' : 'small', rule))
    else if (allows(rule, resumedOn.path)) stream.moveTo(resumedOn)
    else this.#suspend(stream)
    if (stream.carrier === undefined) this.#detached.add(stream, this.#options.now())
    else this.moved += 1
  }

  #suspend(stream: MuxStream): void {
    if (stream.state !== 'opening' || stream.hasSentEarly) return stream.moveTo(undefined)
    this.#parts.pendingResets.add(stream.id, undefined, this.#options.now())
    stream.fail('lost')
  }

  #sendResume(carrier: Carrier, streams: readonly MuxStream[]): void {
    if (!this.#parts.accounting.isResumable) return
    const entries = streams.filter(({ state }) => state !== 'opening').map(({ receiver }) => receiver.entry)
    for (const payload of encodeResume({ lost: this.#lost, streams: entries })) {
      carrier.outbox.control(FRAME.RESUME, 0, payload)
    }
    for (const id of this.#parts.pendingResets.resend(carrier, this.#options.now()))
      carrier.outbox.control(FRAME.RESET, id)
  }

  /** @throws MeshError FRAME_INVALID */
  gotResume(carrier: Carrier, payload: Buffer): void {
    if (!this.#parts.accounting.isResumable) return this.#options.owner.frameIgnored()
    const { lost, streams } = decodeResume(payload)
    for (const number of lost) {
      if (number === carrier.number) throw frameInvalid('RESUME of the carrier it comes on')
      const ours = this.#parts.carriers.find((one) => one.number === number)
      if (ours !== undefined) this.#options.owner.peerLostCarrier(ours)
    }
    for (const entry of streams) {
      const stream = this.#parts.streams.get(entry.stream)
      if (stream === undefined) carrier.outbox.control(FRAME.RESET, entry.stream)
      else stream.gotResume(entry)
    }
  }

  /** Gives up streams that have waited for a path beside other carriers for as long as a session waits for any. */
  giveUpDetached(now: number): void {
    const carrier = carrierFor(this.#parts.carriers)
    if (carrier === undefined) return // the session itself is suspended
    for (const stream of this.#detached.late(now - this.#options.limits.resumeMs)) {
      carrier.outbox.control(FRAME.RESET, stream.id)
      this.#parts.pendingResets.add(stream.id, carrier, now)
      stream.fail('lost')
    }
  }
}

/** A stream, as far as waiting for a carrier matters. */
export interface Detachable {
  readonly carrier: object | undefined
  readonly state: string
  readonly rule: PathRule
}

/** Streams that wait for a path although the session has carriers: their rule allows none of those. */
export class DetachedStreams<S extends Detachable> {
  readonly #since = new Map<S, number>()

  add(stream: S, now: number): void {
    if (!this.#since.has(stream)) this.#since.set(stream, now)
  }

  get first(): S | undefined {
    for (const stream of this.#since.keys()) {
      if (isWaiting(stream)) return stream
      this.#since.delete(stream)
    }
    return undefined
  }

  /** Those that have waited since before then; they are forgotten. */
  late(before: number): S[] {
    const late: S[] = []
    for (const [stream, since] of this.#since) {
      if (isWaiting(stream) && since > before) continue
      this.#since.delete(stream)
      if (isWaiting(stream)) late.push(stream)
    }
    return late
  }
}

function isWaiting({ carrier, state }: Detachable): boolean {
  return carrier === undefined && state !== 'closed'
}
