import { allows, type PathRule } from '../../../src/core/model/path-rule.ts'
import type { Carrier } from '../carrier/carrier.ts'
import { FRAME, frameInvalid } from '../wire/frame.ts'
import { FEATURE } from '../wire/hello.ts'
import type { MuxOptions, MuxParts } from './mux.ts'
import type { MuxStream } from '../stream/mux-stream.ts'
import type { IncomingStreams } from './incoming-streams.ts'
import { carrierFor, rebalance, type Move } from './placement.ts'
import { decodeResume, encodeResume, CARRIERS_PER_RESUME } from '../wire/resume.ts'
import { DetachedStreams } from './detached-streams.ts'

/**
 * How the streams of a session change carriers.
 *
 *     a carrier dies ─▶ detach ─▶ its streams go on on another, or wait (OPENs under way fail)
 *     the next comes ─▶ attach ─▶ RESUME, and all that waited goes on
 *     elsewhere it is better ─▶ move
 *     waits for a path its rule allows ─▶ given up after `resumeMs`, as the session itself would be
 */
export class Failover {
  readonly #options: MuxOptions
  readonly #parts: MuxParts
  readonly #opens: IncomingStreams
  readonly #stranded = new DetachedStreams<MuxStream>()
  /** Numbers of carriers that are gone, for the peer to close them too. */
  #lost: number[] = []
  /** Streams that changed carriers. */
  moved = 0

  constructor(options: MuxOptions, parts: MuxParts, opens: IncomingStreams) {
    this.#options = options
    this.#parts = parts
    this.#opens = opens
  }

  /** The rule of a stream that waits for a carrier, while there are some that it may not be on. */
  get missing(): PathRule | undefined {
    return this.#parts.carriers.length === 0 ? undefined : this.#stranded.first?.rule
  }

  /** @throws MeshError FRAME_INVALID when the carrier cannot do what the session's others can. */
  attach(carrier: Carrier): void {
    const { carriers, streams, shares } = this.#parts
    const canResume = (carrier.peerFeatures & FEATURE.resume) !== 0
    if (carriers.length === 0 && streams.size === 0) shares.isResumable = canResume
    else if (shares.isResumable !== canResume) throw frameInvalid('carriers of one session differ')
    this.#lost = this.#lost.filter((number) => number !== carrier.number)
    carriers.push(carrier)
    this.#options.sealed?.attached(carrier)
    if (this.#opens.isDraining) carrier.outbox.control(FRAME.DRAIN, 0, Buffer.of(1))
    const waiting = [...streams.values()].filter((stream) => stream.carrier === undefined)
    // whatever is on carriers that may be dead goes on at once
    if (carriers.some(({ isDoubtful }) => isDoubtful)) this.rebalance()
    if (carriers.length > 1 && waiting.length === 0) return
    this.#tellResume(carrier, waiting)
    for (const stream of waiting) {
      if (!allows(stream.rule, carrier.path)) this.#stranded.add(stream, this.#options.now())
      else stream.moveTo(carrier)
    }
  }

  /** The carrier is gone: its streams go on on others, or wait for the next; OPENs under way fail when there is none, unless
   * bytes of theirs are with the peer already. */
  detach(carrier: Carrier): void {
    const { carriers, shares, unheard } = this.#parts
    const at = carriers.indexOf(carrier)
    if (at < 0) return
    carriers.splice(at, 1)
    this.#options.sealed?.detached(carrier)
    this.#lost = [...this.#lost, carrier.number].slice(-CARRIERS_PER_RESUME)
    unheard.carrierLost(carrier)
    const streams = [...this.#parts.streams.values()]
    const next = carrierFor(carriers)
    if (!shares.isResumable) {
      for (const stream of streams) if (stream.carrier === carrier) stream.fail('lost')
    } else if (next === undefined) {
      for (const stream of streams) this.#suspend(stream)
    } else {
      const touched = streams.filter((stream) => stream.carrier === carrier || stream.receiver.carrier === carrier)
      this.#tellResume(next, touched)
      for (const stream of touched) if (stream.carrier === carrier) this.#replace(stream, next)
    }
  }

  /** Streams leave carriers that are dead, worse, or crowded. */
  rebalance(): void {
    this.move(rebalance(this.#parts.carriers, this.#parts.streams.values()))
  }

  /** Streams leave carriers that live, for where they are better. */
  move(moves: Iterable<Move<Carrier, MuxStream>>): void {
    if (!this.#parts.shares.isResumable) return
    for (const { stream, to } of moves) {
      // its OPEN may still arrive where it was said, and must not arrive twice
      if (stream.state === 'opening' || stream.state === 'closed' || to === stream.carrier) continue
      stream.moveTo(to)
      this.moved += 1
    }
  }

  /** An OPEN that is said again follows RESUME on the same carrier: from the lost one nothing can come any more then. */
  #replace(stream: MuxStream, resumedOn: Carrier): void {
    const { state, rule } = stream
    if (state !== 'opening') stream.moveTo(carrierFor(this.#parts.carriers, stream.isBulk ? 'bulk' : 'small', rule))
    else if (allows(rule, resumedOn.path)) stream.moveTo(resumedOn)
    else this.#suspend(stream)
    if (stream.carrier === undefined) this.#stranded.add(stream, this.#options.now())
    else this.moved += 1
  }

  #suspend(stream: MuxStream): void {
    if (stream.state !== 'opening' || stream.hasSentEarly) return stream.moveTo(undefined)
    this.#parts.unheard.add(stream.id, undefined, this.#options.now())
    stream.fail('lost')
  }

  #tellResume(carrier: Carrier, streams: readonly MuxStream[]): void {
    if (!this.#parts.shares.isResumable) return
    const told = streams.filter(({ state }) => state !== 'opening').map(({ receiver }) => receiver.entry)
    for (const payload of encodeResume({ lost: this.#lost, streams: told })) {
      carrier.outbox.control(FRAME.RESUME, 0, payload)
    }
    for (const id of this.#parts.unheard.resend(carrier, this.#options.now())) carrier.outbox.control(FRAME.RESET, id)
  }

  /** @throws MeshError FRAME_INVALID */
  gotResume(carrier: Carrier, payload: Buffer): void {
    if (!this.#parts.shares.isResumable) return this.#options.ignored()
    const { lost, streams } = decodeResume(payload)
    for (const number of lost) {
      if (number === carrier.number) throw frameInvalid('RESUME of the carrier it comes on')
      const ours = this.#parts.carriers.find((one) => one.number === number)
      if (ours !== undefined) this.#options.lostByPeer(ours)
    }
    for (const told of streams) {
      const stream = this.#parts.streams.get(told.stream)
      if (stream === undefined) carrier.outbox.control(FRAME.RESET, told.stream)
      else stream.gotResume(told)
    }
  }

  /** Gives up what waits for a path beside carriers of others: as long as a session waits for a carrier, and no longer. */
  giveUpStranded(now: number): void {
    const carrier = carrierFor(this.#parts.carriers)
    if (carrier === undefined) return // the session itself waits
    for (const stream of this.#stranded.late(now - this.#options.limits.resumeMs)) {
      carrier.outbox.control(FRAME.RESET, stream.id)
      this.#parts.unheard.add(stream.id, carrier, now)
      stream.fail('lost')
    }
  }
}
