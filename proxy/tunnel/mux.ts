import type { NodeId } from '../../src/model/ids.ts'
import type { Carrier, FrameUser } from './carrier.ts'
import { REFUSALS, type IncomingStream, type Refusal, type Stream, type StreamEvents } from './contract.ts'
import { FRAME, frameInvalid, MAX_OPEN_BYTES, readCount, type FrameType } from './frame.ts'
import { Incoming } from './incoming.ts'
import type { TunnelLimits } from './limits.ts'
import { MuxStream, type StreamOwner } from './mux-stream.ts'
import { carrierFor } from './placement.ts'

export interface MuxOptions {
  peer: NodeId
  /** The node with the smaller id opens odd streams, the other even ones. */
  opens: 'odd' | 'even'
  limits: TunnelLimits
  now: () => number
  accept: (incoming: IncomingStream) => void
  /** The peer said that it goes away; no carrier is worth keeping. */
  goneAway: () => void
  rtt: (carrier: Carrier, rttMs: number) => void
  ignored: () => void
}

/**
 * The streams of a session, over any number of carriers; free of I/O (carriers are). A stream belongs to the session and
 * points at the carrier it is placed on, so that a later version can move it.
 *
 *     user ─open/write─▶ MuxStream ─▶ carrier.outbox ─▶ bytes
 *     bytes ─▶ carrier's decoder ─▶ data/frame here ─▶ MuxStream ─▶ events ─▶ user
 *
 * Frames for a stream that is not there any more are dropped: they crossed our RESET.
 */
export class Mux implements FrameUser, StreamOwner {
  readonly limits: TunnelLimits
  readonly carriers: Carrier[] = []
  readonly #options: MuxOptions
  readonly #streams = new Map<number, MuxStream>()
  readonly #pending = new Set<Incoming>()
  #nextId: number
  #theirs = 0
  #heldBytes = 0
  #grownBytes = 0
  #openTokens = Number.POSITIVE_INFINITY
  #openTokensAt: number
  /** We go away: no new streams either way. */
  isDraining = false
  /** The peer goes away. */
  isPeerDraining = false

  constructor(options: MuxOptions) {
    this.#options = options
    this.limits = options.limits
    this.#nextId = options.opens === 'odd' ? 1 : 2
    this.#openTokensAt = options.now()
    if (options.limits.opensPerSecond !== undefined) this.#openTokens = options.limits.opensPerSecond
  }

  get streams(): number {
    return this.#streams.size
  }

  /** Received and not yet consumed, over all streams. */
  get heldBytes(): number {
    return this.#heldBytes
  }

  get rttMs(): number | undefined {
    let least: number | undefined
    for (const { pulse } of this.carriers) {
      if (pulse.rttMs !== undefined && (least === undefined || pulse.rttMs < least)) least = pulse.rttMs
    }
    return least
  }

  // ── the user's side ──

  open(request: Buffer, events: StreamEvents): Stream {
    if (request.length > MAX_OPEN_BYTES) throw new Error(`a request of ${request.length} bytes does not fit in OPEN`)
    const carrier = carrierFor(this.carriers)
    if (carrier === undefined) return refused(events, 'unreachable')
    if (this.isDraining || this.isPeerDraining) return refused(events, 'draining')
    if (this.#streams.size - this.#theirs >= this.limits.streams) return refused(events, 'overloaded')
    const stream = new MuxStream(this.#takeId(), 'opening', carrier, this, events)
    this.#add(stream)
    carrier.outbox.control(FRAME.OPEN, stream.id, request)
    return stream
  }

  /** Says to the peer, on every carrier, that no new streams are wanted. */
  drain(): void {
    if (this.isDraining) return
    this.isDraining = true
    for (const carrier of this.carriers) carrier.outbox.control(FRAME.DRAIN, 0, Buffer.of(1))
  }

  /** Says goodbye on every carrier. */
  goAway(): void {
    for (const carrier of this.carriers) carrier.outbox.control(FRAME.GOAWAY, 0, Buffer.alloc(5))
  }

  attach(carrier: Carrier): void {
    this.carriers.push(carrier)
    if (this.isDraining) carrier.outbox.control(FRAME.DRAIN, 0, Buffer.of(1))
  }

  /** The carrier is gone: its streams are dead (V1: a carrier that just ends is a failure). */
  detach(carrier: Carrier): void {
    const at = this.carriers.indexOf(carrier)
    if (at >= 0) this.carriers.splice(at, 1)
    for (const stream of this.#streams.values()) {
      if (stream.carrier === carrier) this.#fail(stream)
    }
  }

  /** Refuses what nobody answered in time. */
  tick(now: number): void {
    for (const incoming of this.#pending) {
      if (now - incoming.since < this.limits.openTimeoutMs) return // the set is in order of time
      incoming.refuse('timeout')
      incoming.gone()
    }
  }

  // ── the peer's frames ──

  data(id: number, piece: Buffer): void {
    this.#streams.get(id)?.gotData(piece)
  }

  frame(carrier: Carrier, kind: FrameType, id: number, payload: Buffer): void {
    switch (kind) {
      case FRAME.OPEN:
        return this.#gotOpen(carrier, id, payload)
      case FRAME.OPENED:
        return this.#streams.get(id)?.gotOpened()
      case FRAME.REFUSED:
        return this.#gotRefused(id, REFUSALS[payload[0]!] ?? 'unreachable')
      case FRAME.END:
        return this.#streams.get(id)?.gotEnd()
      case FRAME.RESET: {
        const stream = this.#streams.get(id)
        if (stream !== undefined) this.#fail(stream, 'reset')
        return
      }
      case FRAME.ACK:
        return this.#streams.get(id)?.gotAck(readCount(payload, 0), payload.readUInt32BE(8))
      case FRAME.DATAGRAM:
        return this.#streams.get(id)?.gotDatagram(payload)
      case FRAME.DRAIN:
        this.isPeerDraining = true
        return
      case FRAME.GOAWAY:
        return this.#options.goneAway()
      case FRAME.HELLO:
      case FRAME.DATA:
      case FRAME.PING:
      case FRAME.PONG:
      case FRAME.RESUME:
        throw new Error('the carrier keeps these to itself')
      default:
        kind satisfies never
    }
  }

  rtt(carrier: Carrier, rttMs: number): void {
    this.#options.rtt(carrier, rttMs)
  }

  ignored(): void {
    this.#options.ignored()
  }

  #gotOpen(carrier: Carrier, id: number, payload: Buffer): void {
    const isTheirs = (id & 1) === (this.#options.opens === 'odd' ? 0 : 1)
    if (!isTheirs) throw frameInvalid('OPEN of a stream that is ours to open', { stream: id })
    if (this.#streams.has(id)) throw frameInvalid('OPEN of a stream that is open', { stream: id })
    const refusal = this.#whyNot()
    if (refusal !== undefined) return carrier.outbox.control(FRAME.REFUSED, id, Buffer.of(REFUSALS.indexOf(refusal)))
    const stream = new MuxStream(id, 'pending', carrier, this, NO_EVENTS)
    this.#theirs += 1
    this.#add(stream)
    const incoming = new Incoming(this.#options.peer, stream, Buffer.from(payload), this.now(), (done) =>
      this.#pending.delete(done),
    )
    this.#pending.add(incoming)
    stream.events = incoming.untilAccepted
    this.#options.accept(incoming)
  }

  #whyNot(): Refusal | undefined {
    if (this.isDraining) return 'draining'
    if (this.#theirs >= this.limits.streams || this.#pending.size >= this.limits.pendingOpens) return 'overloaded'
    const perSecond = this.limits.opensPerSecond
    if (perSecond === undefined) return undefined
    const now = this.now()
    this.#openTokens = Math.min(perSecond, this.#openTokens + ((now - this.#openTokensAt) / 1000) * perSecond)
    this.#openTokensAt = now
    if (this.#openTokens < 1) return 'overloaded'
    this.#openTokens -= 1
    return undefined
  }

  #gotRefused(id: number, refusal: Refusal): void {
    const stream = this.#streams.get(id)
    if (stream === undefined) return
    if (stream.state !== 'opening') throw frameInvalid('REFUSED without OPEN', { stream: id })
    stream.close()
    stream.events.refused(refusal)
  }

  #fail(stream: MuxStream, because: 'reset' | 'lost' = 'lost'): void {
    const wasOpening = stream.state === 'opening'
    if (stream.state === 'closed') return
    stream.close()
    if (wasOpening && because === 'lost') stream.events.refused('unreachable')
    else stream.events.reset()
  }

  #takeId(): number {
    let id = this.#nextId
    while (this.#streams.has(id)) id = following(id) // only after two thousand million streams
    this.#nextId = following(id)
    return id
  }

  #add(stream: MuxStream): void {
    this.#streams.set(stream.id, stream)
    stream.carrier.streams += 1
  }

  // ── StreamOwner ──

  now(): number {
    return this.#options.now()
  }

  held(bytes: number): void {
    this.#heldBytes += bytes
    if (bytes > 0 && this.#heldBytes > this.limits.bufferedBytes) this.#shed()
  }

  mayGrow(bytes: number): boolean {
    return this.#grownBytes + bytes <= this.limits.windowGrowthBytes
  }

  grew(bytes: number): void {
    this.#grownBytes += bytes
  }

  freed(stream: MuxStream): void {
    this.#streams.delete(stream.id)
    this.#grownBytes -= stream.grownBytes
    stream.carrier.streams -= 1
    if ((stream.id & 1) === (this.#options.opens === 'odd' ? 0 : 1)) this.#theirs -= 1
  }

  /** Too much is held for readers that do not read: the one that holds most pays. */
  #shed(): void {
    let most: MuxStream | undefined
    for (const stream of this.#streams.values()) {
      if (most === undefined || stream.heldBytes > most.heldBytes) most = stream
    }
    if (most === undefined) return
    most.reset()
    most.events.reset()
  }
}

const NO_EVENTS: StreamEvents = {
  opened: () => undefined,
  refused: () => undefined,
  data: () => undefined,
  end: () => undefined,
  reset: () => undefined,
  drain: () => undefined,
}

const DEAD_STREAM: Stream = {
  write: () => true,
  datagram: () => false,
  end: () => undefined,
  reset: () => undefined,
  consumed: () => undefined,
}

function refused(events: StreamEvents, refusal: Refusal): Stream {
  queueMicrotask(() => events.refused(refusal)) // never before `open` has returned
  return DEAD_STREAM
}

function following(id: number): number {
  return id + 2 > 0xffff_ffff ? 2 - (id & 1) : id + 2
}
