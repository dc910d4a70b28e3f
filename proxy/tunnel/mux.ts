import type { NodeId } from '../../src/model/ids.ts'
import { allows, ANY_PATH, type PathRule } from '../../src/model/path-rule.ts'
import type { Carrier, FrameUser } from './carrier.ts'
import { REFUSALS, type IncomingStream, type Refusal, type Stream, type StreamEvents } from './contract.ts'
import { FRAME, frameInvalid, MAX_OPEN_BYTES, readCount, type FrameType } from './frame.ts'
import { FEATURE } from './hello.ts'
import type { TunnelLimits } from './limits.ts'
import { MuxStream } from './mux-stream.ts'
import { Bucket } from '../../src/kit/bucket.ts'
import { Past } from './past.ts'
import { PeerOpens } from './peer-opens.ts'
import { carrierFor, rebalance, type Move } from './placement.ts'
import { decodeResume, encodeResume, LOST_A_RESUME } from './resume.ts'
import type { SealedLink } from './sealed/contract.ts'
import { Shares } from './shares.ts'
import { Stranded } from './stranded.ts'
import { Unheard } from './unheard.ts'

/** The ids of streams this node opens towards a peer: never used again while both run, so that late frames hit nobody. */
export interface StreamIds {
  /** The node with the smaller id opens odd streams, the other even ones. */
  next: number
}

export interface MuxOptions {
  peer: NodeId
  ids: StreamIds
  limits: TunnelLimits
  now: () => number
  accept: (incoming: IncomingStream) => void
  /** The peer has lost this carrier; ours is no use then. Ends in `detach`. */
  lostByPeer: (carrier: Carrier) => void
  /** The peer said that it goes away; no carrier is worth keeping. */
  goneAway: () => void
  rtt: (carrier: Carrier, rttMs: number) => void
  /** The peer says something that is no stream's. */
  signalled?: ((payload: Buffer) => void) | undefined
  ignored: () => void
  /** Datagrams go this way while it is open. */
  sealed?: SealedLink | undefined
}

/**
 * The streams of a session, over any number of carriers; free of I/O (carriers are). A stream belongs to the session; which
 * carrier it sends on is placement, and changes.
 *
 *     user ─open/write─▶ MuxStream ─▶ carrier.outbox ─▶ bytes
 *     bytes ─▶ carrier's decoder ─▶ data/place/frame here ─▶ MuxStream ─▶ events ─▶ user
 *
 *     a carrier dies ─▶ detach ─▶ its streams go on on another, or wait (OPENs under way fail)
 *     the next comes ─▶ attach ─▶ RESUME, and all that waited goes on
 *
 * Frames for a stream that is not there any more are dropped: they crossed our RESET.
 */
export class Mux implements FrameUser {
  readonly limits: TunnelLimits
  readonly carriers: Carrier[] = []
  /** What all streams together hold, and owe. */
  readonly shares: Shares
  readonly #options: MuxOptions
  readonly #isOurs: 0 | 1
  readonly #streams = new Map<number, MuxStream>()
  readonly #opens: PeerOpens
  readonly #unheard = new Unheard()
  readonly #past = new Past()
  readonly #stranded = new Stranded<MuxStream>()
  readonly #signals: Bucket
  /** Numbers of carriers that are gone, for the peer to close them too. */
  #lost: number[] = []
  /** The peer goes away. */
  isPeerDraining = false
  /** Streams that went on after all carriers had died, and that changed carriers. */
  resumed = 0
  moved = 0

  constructor(options: MuxOptions) {
    this.#options = options
    this.limits = options.limits
    this.#isOurs = (options.ids.next & 1) as 0 | 1
    this.#signals = new Bucket({ perSecond: SIGNALS_PER_SECOND, burst: SIGNALS_AT_ONCE, now: options.now })
    this.shares = new Shares({
      limits: options.limits,
      now: options.now,
      recentRttMs: () => this.recentRttMs,
      streams: this.#streams,
      isOurs: this.#isOurs,
      unheard: this.#unheard,
      past: this.#past,
      sealed: options.sealed,
    })
    this.#opens = new PeerOpens(options, this.shares)
  }

  /** We go away: no new streams either way. */
  get isDraining(): boolean {
    return this.#opens.isDraining
  }

  /** Open ones; those that only wait for a last acknowledgement are not counted. */
  get streams(): number {
    return this.shares.ours + this.shares.theirs
  }

  /** Received and not yet consumed, over all streams. */
  get heldBytes(): number {
    return this.shares.heldBytes
  }

  /** Nobody would miss this session. */
  get isVoid(): boolean {
    return this.#streams.size === 0 && this.#unheard.size === 0
  }

  /** Every stream has ended, and the peer knows. */
  get isQuiet(): boolean {
    return this.#streams.size === 0
  }

  get rttMs(): number | undefined {
    let least: number | undefined
    for (const { pulse } of this.carriers) {
      if (pulse.rttMs !== undefined && (least === undefined || pulse.rttMs < least)) least = pulse.rttMs
    }
    return least
  }

  /** The shortest of the last few round trips on any carrier. */
  get recentRttMs(): number | undefined {
    let least: number | undefined
    for (const { pulse } of this.carriers) {
      const { recentRttMs } = pulse
      if (recentRttMs !== undefined && (least === undefined || recentRttMs < least)) least = recentRttMs
    }
    return least
  }

  /** The rule of a stream that waits for a carrier, while there are some that it may not be on. */
  get missing(): PathRule | undefined {
    return this.carriers.length === 0 ? undefined : this.#stranded.first?.rule
  }

  /** What is written to a stream that is opened now travels before it is open. */
  get takesEarly(): boolean {
    const features = carrierFor(this.carriers)?.peerFeatures ?? 0
    return this.shares.isResumable && (features & FEATURE.early) !== 0
  }

  /** How long the peer owes a sign of life where a new stream would go. */
  get silentMs(): number {
    return carrierFor(this.carriers)?.pulse.silentMs(this.#options.now()) ?? 0
  }

  all(): Iterable<MuxStream> {
    return this.#streams.values()
  }

  // ── the user's side ──

  open(request: Buffer, events: StreamEvents, rule: PathRule = ANY_PATH): Stream {
    if (request.length > MAX_OPEN_BYTES) throw new Error(`a request of ${request.length} bytes does not fit in OPEN`)
    const carrier = carrierFor(this.carriers, 'small', rule)
    if (carrier === undefined) return refused(events, 'unreachable')
    if (this.isDraining || this.isPeerDraining) return refused(events, 'draining')
    if (this.shares.ours >= this.limits.streams || this.shares.isCrowded) return refused(events, 'overloaded')
    const stream = new MuxStream(this.#takeId(), 'opening', carrier, this.shares, events)
    stream.obey(rule)
    this.shares.add(stream)
    if (this.shares.isResumable) stream.request = request
    carrier.outbox.control(FRAME.OPEN, stream.id, request)
    carrier.pulse.asked(this.#options.now())
    return stream
  }

  /** Says something that is no stream's; false when there is no carrier for it, or the peer would not know. */
  signal(payload: Buffer): boolean {
    const carrier = carrierFor(this.carriers) ?? this.carriers[0]
    if (carrier === undefined || (carrier.peerFeatures & FEATURE.signals) === 0) return false
    carrier.outbox.control(FRAME.SIGNAL, 0, payload)
    return true
  }

  /** Says to the peer, on every carrier, that no new streams are wanted. */
  drain(): void {
    if (this.isDraining) return
    this.#opens.drain()
    for (const carrier of this.carriers) carrier.outbox.control(FRAME.DRAIN, 0, Buffer.of(1))
  }

  /** Says goodbye on every carrier. */
  goAway(): void {
    for (const carrier of this.carriers) carrier.outbox.control(FRAME.GOAWAY, 0, Buffer.alloc(5))
  }

  // ── carriers come and go ──

  /** @throws MeshError FRAME_INVALID when the carrier cannot do what the session's others can. */
  attach(carrier: Carrier): void {
    const canResume = (carrier.peerFeatures & FEATURE.resume) !== 0
    if (this.carriers.length === 0 && this.#streams.size === 0) this.shares.isResumable = canResume
    else if (this.shares.isResumable !== canResume) throw frameInvalid('carriers of one session differ')
    this.#lost = this.#lost.filter((number) => number !== carrier.number)
    this.carriers.push(carrier)
    this.#options.sealed?.attached(carrier)
    if (this.isDraining) carrier.outbox.control(FRAME.DRAIN, 0, Buffer.of(1))
    const waiting = [...this.#streams.values()].filter((stream) => stream.carrier === undefined)
    // whatever is on carriers that may be dead goes on at once
    if (this.carriers.some(({ isDoubtful }) => isDoubtful)) this.move(rebalance(this.carriers, this.#streams.values()))
    if (this.carriers.length > 1 && waiting.length === 0) return
    this.#tellResume(carrier, waiting)
    for (const stream of waiting) {
      if (!allows(stream.rule, carrier.path)) this.#stranded.add(stream, this.#options.now())
      else {
        stream.place(carrier)
        this.resumed += 1
      }
    }
  }

  /** A carrier that was used before its HELLO: the peer takes more than was presumed. */
  answered({ peerWindowBytes }: Carrier): void {
    for (const stream of this.#streams.values()) stream.grant(peerWindowBytes)
  }

  /** The carrier is gone: its streams go on on others, or wait for the next; OPENs under way fail when there is none, unless
   * bytes of theirs are with the peer already. */
  detach(carrier: Carrier): void {
    const at = this.carriers.indexOf(carrier)
    if (at < 0) return
    this.carriers.splice(at, 1)
    this.#options.sealed?.detached(carrier)
    this.#lost = [...this.#lost, carrier.number].slice(-LOST_A_RESUME)
    this.#unheard.lost(carrier)
    const streams = [...this.#streams.values()]
    const next = carrierFor(this.carriers)
    if (!this.shares.isResumable) {
      for (const stream of streams) if (stream.carrier === carrier) this.#fail(stream)
    } else if (next === undefined) {
      for (const stream of streams) this.#suspend(stream)
    } else {
      const touched = streams.filter((stream) => stream.carrier === carrier || stream.receiving.carrier === carrier)
      this.#tellResume(next, touched)
      for (const stream of touched) if (stream.carrier === carrier) this.#replace(stream, next)
    }
  }

  /** Streams leave carriers that live, for where they are better. */
  move(moves: Iterable<Move<Carrier, MuxStream>>): void {
    if (!this.shares.isResumable) return
    for (const { stream, to } of moves) {
      // its OPEN may still arrive where it was said, and must not arrive twice
      if (stream.state === 'opening' || stream.state === 'closed' || to === stream.carrier) continue
      stream.place(to)
      this.moved += 1
    }
  }

  /** Nothing comes after this: whatever is open is told. */
  end(): void {
    for (const stream of this.#streams.values()) this.#fail(stream)
    this.#options.sealed?.close()
  }

  /** An OPEN that is said again follows RESUME on the same carrier: from the lost one nothing can come any more then. */
  #replace(stream: MuxStream, resumedOn: Carrier): void {
    const { state, rule } = stream
    if (state !== 'opening') stream.place(carrierFor(this.carriers, stream.isBulk ? 'bulk' : 'small', rule))
    else if (allows(rule, resumedOn.path)) stream.place(resumedOn)
    else this.#suspend(stream)
    if (stream.carrier === undefined) this.#stranded.add(stream, this.#options.now())
    else this.moved += 1
  }

  #suspend(stream: MuxStream): void {
    if (stream.state !== 'opening' || stream.hasSpoken) return stream.place(undefined)
    this.#unheard.add(stream.id, undefined, this.#options.now())
    this.#fail(stream)
  }

  #tellResume(carrier: Carrier, streams: readonly MuxStream[]): void {
    if (!this.shares.isResumable) return
    const told = streams.filter(({ state }) => state !== 'opening').map(({ received }) => received)
    for (const payload of encodeResume({ lost: this.#lost, streams: told })) {
      carrier.outbox.control(FRAME.RESUME, 0, payload)
    }
    for (const id of this.#unheard.sayAgain(carrier, this.#options.now())) carrier.outbox.control(FRAME.RESET, id)
  }

  // ── every so often ──

  /** Refuses what nobody answered in time, says what is owed, and moves what is better elsewhere. */
  tick(now: number): void {
    this.shares.settle()
    this.shares.scales.weigh()
    this.move(rebalance(this.carriers, this.#streams.values()))
    const isShared = this.carriers.filter((carrier) => carrier.hasSpoken()).length > 0
    for (const { outbox } of this.carriers) outbox.flight.isShared = isShared
    this.#options.sealed?.tick(now)
    this.#giveUpStranded(now)
    this.#opens.tick(now)
  }

  /** As long as a session waits for a carrier, and no longer. */
  #giveUpStranded(now: number): void {
    const carrier = carrierFor(this.carriers)
    if (carrier === undefined) return // the session itself waits
    for (const stream of this.#stranded.late(now - this.limits.resumeMs)) {
      carrier.outbox.control(FRAME.RESET, stream.id)
      this.#unheard.add(stream.id, carrier, now)
      this.#fail(stream)
    }
  }

  // ── the peer's frames ──

  data(carrier: Carrier, id: number, piece: Buffer): void {
    this.#streams.get(id)?.gotData(carrier, piece)
  }

  /** A datagram that came sealed. */
  datagram(id: number, payload: Buffer): void {
    this.#streams.get(id)?.gotDatagram(payload)
  }

  place(carrier: Carrier, id: number, run: number, offset: number): void {
    if (!this.shares.isResumable) throw frameInvalid('a place was not agreed on')
    this.#streams.get(id)?.gotPlace(carrier, run, offset)
  }

  frame(carrier: Carrier, kind: FrameType, id: number, payload: Buffer, isFlagged: boolean): void {
    switch (kind) {
      case FRAME.OPEN:
        return this.#gotOpen(carrier, id, payload, isFlagged)
      case FRAME.WITHDRAW:
        return this.#opens.withdrawn(id)
      case FRAME.OPENED:
        return this.#streams.get(id)?.gotOpened()
      case FRAME.REFUSED:
        return this.#gotRefused(id, REFUSALS[payload[0]!] ?? 'unreachable')
      case FRAME.END:
        return this.#streams.get(id)?.gotEnd(carrier)
      case FRAME.RESET: {
        const stream = this.#streams.get(id)
        if (stream !== undefined) this.#fail(stream, 'reset')
        return
      }
      case FRAME.ACK:
        return this.#streams.get(id)?.gotAck(readCount(payload, 0), payload.readUInt32BE(8))
      case FRAME.DATAGRAM:
        return this.#streams.get(id)?.gotDatagram(payload)
      case FRAME.SEALED:
        return this.#options.sealed?.offered(carrier, payload)
      case FRAME.SIGNAL:
        if (this.#signals.tryTake()) this.#options.signalled?.(payload)
        return
      case FRAME.RESUME:
        return this.#gotResume(carrier, payload)
      case FRAME.DRAIN:
        this.isPeerDraining = true
        return
      case FRAME.GOAWAY:
        return this.#options.goneAway()
      case FRAME.HELLO:
      case FRAME.DATA:
      case FRAME.PING:
      case FRAME.PONG:
        throw new Error('the carrier keeps these to itself')
      default:
        kind satisfies never
    }
  }

  rtt(carrier: Carrier, rttMs: number): void {
    this.#unheard.heard(carrier, this.#options.now() - rttMs)
    this.#options.rtt(carrier, rttMs)
  }

  ignored(): void {
    this.#options.ignored()
  }

  #gotOpen(carrier: Carrier, id: number, payload: Buffer, isAgain: boolean): void {
    if ((id & 1) === this.#isOurs) throw frameInvalid('OPEN of a stream that is ours to open', { stream: id })
    const known = this.#streams.get(id)
    if (known !== undefined) {
      if (!isAgain || !this.shares.isResumable) throw frameInvalid('OPEN of a stream that is open', { stream: id })
      if (known.carrier !== carrier) known.place(carrier)
      return
    }
    if (this.#unheard.has(id) || (isAgain && this.#past.has(id))) return carrier.outbox.control(FRAME.RESET, id)
    this.#opens.got(carrier, id, payload)
  }

  #gotRefused(id: number, refusal: Refusal): void {
    const stream = this.#streams.get(id)
    if (stream === undefined) return
    if (stream.state !== 'opening') throw frameInvalid('REFUSED without OPEN', { stream: id })
    if (stream.wasSaidAgain && stream.hasSpoken) {
      stream.reset()
      return stream.events.reset()
    }
    stream.close()
    stream.events.refused(refusal)
  }

  #gotResume(carrier: Carrier, payload: Buffer): void {
    if (!this.shares.isResumable) return this.ignored()
    const { lost, streams } = decodeResume(payload)
    for (const number of lost) {
      if (number === carrier.number) throw frameInvalid('RESUME of the carrier it comes on')
      const ours = this.carriers.find((one) => one.number === number)
      if (ours !== undefined) this.#options.lostByPeer(ours)
    }
    for (const told of streams) {
      const stream = this.#streams.get(told.stream)
      if (stream === undefined) carrier.outbox.control(FRAME.RESET, told.stream)
      else stream.gotReceived(told)
    }
  }

  #fail(stream: MuxStream, because: 'reset' | 'lost' = 'lost'): void {
    const { state } = stream
    if (state === 'closed') return
    stream.close()
    if (state === 'lingering') return // both have ended; at most an acknowledgement was lost
    if (state === 'opening' && because === 'lost' && !stream.hasSpoken) stream.events.refused('unreachable')
    else stream.events.reset()
  }

  #takeId(): number {
    const { ids } = this.#options
    let id = ids.next
    while (this.#streams.has(id)) id = following(id) // only after two thousand million streams
    ids.next = following(id)
    return id
  }
}

/** Of the peer's; a punch takes four. More are dropped: each may cost us a look at the table. */
const SIGNALS_PER_SECOND = 10
const SIGNALS_AT_ONCE = 30

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
