import { TokenBucket } from '../../../src/core/kit/token-bucket.ts'
import type { NodeId } from '../../../src/core/model/ids.ts'
import { ANY_PATH, type PathRule } from '../../../src/core/model/path-rule.ts'
import type { Carrier, FrameUser } from '../carrier/carrier.ts'
import { Failover } from './failover.ts'
import {
  REFUSALS,
  type ByteStream,
  type ByteStreamEvents,
  type DatagramStream,
  type DatagramStreamEvents,
  type IncomingStream,
  type OpeningEvents,
  type Withdrawable,
} from '../contract.ts'
import { FRAME, frameInvalid, readCount, type FrameType } from '../wire/frame.ts'
import { FEATURE } from '../wire/hello.ts'
import type { TunnelLimits } from '../limits.ts'
import type { MuxStream } from '../stream/mux-stream.ts'
import { OutgoingStreams, type StreamIds } from './outgoing-streams.ts'
import { Tombstones } from './tombstones.ts'
import { IncomingStreams } from './incoming-streams.ts'
import { carrierFor, type Move } from './placement.ts'
import type { SealedLink } from '../sealed/contract.ts'
import { Accounting } from './accounting.ts'
import { PendingResets } from './pending-resets.ts'

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

/** What the parts of a session work on together. */
export interface MuxParts {
  carriers: Carrier[]
  /** By id. */
  streams: Map<number, MuxStream>
  /** The lowest bit of ids of streams that this side opened. */
  isOurs: 0 | 1
  shares: Accounting
  unheard: PendingResets
  past: Tombstones
}

/**
 * The streams of a session, over any number of carriers; free of I/O (carriers are). A stream belongs to the session; which
 * carrier it sends on is placement, and changes.
 *
 *     user ─open/write─▶ MuxStream ─▶ carrier.outbox ─▶ bytes
 *     bytes ─▶ carrier's decoder ─▶ data/place/frame here ─▶ MuxStream ─▶ events ─▶ user
 *
 * Who opens is in our-opens.ts and peer-opens.ts, how streams change carriers in changeover.ts.
 *
 * Frames for a stream that is not there any more are dropped: they crossed our RESET.
 */
export class Mux implements FrameUser {
  readonly limits: TunnelLimits
  readonly carriers: Carrier[] = []
  /** What all streams together hold, and owe. */
  readonly shares: Accounting
  readonly #options: MuxOptions
  readonly #streams = new Map<number, MuxStream>()
  readonly #opens: IncomingStreams
  readonly #ours: OutgoingStreams
  readonly #changeover: Failover
  readonly #unheard = new PendingResets()
  readonly #signals: TokenBucket

  constructor(options: MuxOptions) {
    this.#options = options
    this.limits = options.limits
    const isOurs = (options.ids.next & 1) as 0 | 1
    const past = new Tombstones()
    this.#signals = new TokenBucket({ perSecond: SIGNALS_PER_SECOND, burst: SIGNALS_AT_ONCE, now: options.now })
    this.shares = new Accounting({
      limits: options.limits,
      now: options.now,
      recentRttMs: () => this.recentRttMs,
      streams: this.#streams,
      isOurs,
      unheard: this.#unheard,
      past,
      sealed: options.sealed,
    })
    const { carriers, shares } = this
    const parts = { carriers, shares, streams: this.#streams, isOurs, unheard: this.#unheard, past }
    this.#opens = new IncomingStreams(options, parts)
    this.#ours = new OutgoingStreams(options, parts, this.#opens)
    this.#changeover = new Failover(options, parts, this.#opens)
  }

  /** We go away: no new streams either way. */
  get isDraining(): boolean {
    return this.#opens.isDraining
  }

  /** The peer goes away. */
  get isPeerDraining(): boolean {
    return this.#ours.isPeerDraining
  }

  /** Streams that changed carriers. */
  get moved(): number {
    return this.#changeover.moved
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
    for (const { keepalive } of this.carriers) {
      if (keepalive.rttMs !== undefined && (least === undefined || keepalive.rttMs < least)) least = keepalive.rttMs
    }
    return least
  }

  /** The shortest of the last few round trips on any carrier. */
  get recentRttMs(): number | undefined {
    let least: number | undefined
    for (const { keepalive } of this.carriers) {
      const { recentRttMs } = keepalive
      if (recentRttMs !== undefined && (least === undefined || recentRttMs < least)) least = recentRttMs
    }
    return least
  }

  /** The rule of a stream that waits for a carrier, while there are some that it may not be on. */
  get missing(): PathRule | undefined {
    return this.#changeover.missing
  }

  /** What is written to a stream that is opened now travels before it is open. */
  get takesEarly(): boolean {
    const features = carrierFor(this.carriers)?.peerFeatures ?? 0
    return this.shares.isResumable && (features & FEATURE.early) !== 0
  }

  /** How long the peer owes a sign of life where a new stream would go. */
  get silentMs(): number {
    return carrierFor(this.carriers)?.keepalive.silentMs(this.#options.now()) ?? 0
  }

  all(): Iterable<MuxStream> {
    return this.#streams.values()
  }

  // ── the user's side ──

  open(
    request: Buffer,
    events: OpeningEvents & ByteStreamEvents,
    rule: PathRule = ANY_PATH,
  ): ByteStream & Withdrawable {
    return this.#ours.open(request, events, rule)
  }

  openDatagrams(
    request: Buffer,
    events: OpeningEvents & DatagramStreamEvents,
    rule: PathRule = ANY_PATH,
  ): DatagramStream & Withdrawable {
    return this.#ours.openDatagrams(request, events, rule)
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
    this.#changeover.attach(carrier)
  }

  /** A carrier that was used before its HELLO: the peer takes more than was presumed. */
  answered({ peerWindowBytes }: Carrier): void {
    for (const stream of this.#streams.values()) stream.grant(peerWindowBytes)
  }

  /** The carrier is gone: its streams go on on others, or wait for the next; OPENs under way fail when there is none, unless
   * bytes of theirs are with the peer already. */
  detach(carrier: Carrier): void {
    this.#changeover.detach(carrier)
  }

  /** Streams leave carriers that live, for where they are better. */
  move(moves: Iterable<Move<Carrier, MuxStream>>): void {
    this.#changeover.move(moves)
  }

  /** Nothing comes after this: whatever is open is told. */
  end(): void {
    for (const stream of this.#streams.values()) stream.fail('lost')
    this.#options.sealed?.close()
  }

  // ── every so often ──

  /** Refuses what nobody answered in time, says what is owed, and moves what is better elsewhere. */
  tick(now: number): void {
    this.shares.settle()
    this.shares.bulkDetector.measure()
    this.#changeover.rebalance()
    const isShared = this.carriers.filter((carrier) => carrier.haveSmallStreamsMoved()).length > 0
    for (const { outbox } of this.carriers) outbox.inFlight.isShared = isShared
    this.#options.sealed?.tick(now)
    this.#changeover.giveUpStranded(now)
    this.#opens.tick(now)
  }

  // ── the peer's frames ──

  data(carrier: Carrier, id: number, piece: Buffer): void {
    this.#streams.get(id)?.receiver.gotData(carrier, piece)
  }

  /** A datagram that came sealed. */
  datagram(id: number, payload: Buffer): void {
    this.#streams.get(id)?.receiver.gotDatagram(payload)
  }

  position(carrier: Carrier, id: number, run: number, offset: number): void {
    if (!this.shares.isResumable) throw frameInvalid('a place was not agreed on')
    this.#streams.get(id)?.gotPosition(carrier, run, offset)
  }

  frame(carrier: Carrier, kind: FrameType, id: number, payload: Buffer, isFlagged: boolean): void {
    switch (kind) {
      case FRAME.OPEN:
        return this.#opens.got(carrier, id, payload, isFlagged)
      case FRAME.WITHDRAW:
        return this.#opens.withdrawn(id)
      case FRAME.OPENED:
        return this.#streams.get(id)?.gotOpened()
      case FRAME.REFUSED:
        return this.#ours.gotRefused(id, REFUSALS[payload[0]!] ?? 'unreachable')
      case FRAME.END:
        return this.#streams.get(id)?.receiver.gotEnd(carrier)
      case FRAME.RESET:
        return this.#streams.get(id)?.fail('reset')
      case FRAME.ACK:
        return this.#streams.get(id)?.gotAck(readCount(payload, 0), payload.readUInt32BE(8))
      case FRAME.DATAGRAM:
        return this.#streams.get(id)?.receiver.gotDatagram(payload)
      case FRAME.SEALED:
        return this.#options.sealed?.offered(carrier, payload)
      case FRAME.SIGNAL:
        if (this.#signals.tryTake()) this.#options.signalled?.(payload)
        return
      case FRAME.RESUME:
        return this.#changeover.gotResume(carrier, payload)
      case FRAME.DRAIN:
        this.#ours.isPeerDraining = true
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
    this.#unheard.confirmed(carrier, this.#options.now() - rttMs)
    this.#options.rtt(carrier, rttMs)
  }

  ignored(): void {
    this.#options.ignored()
  }
}

/** Of the peer's; a punch takes four. More are dropped: each may cost us a look at the table. */
const SIGNALS_PER_SECOND = 10
const SIGNALS_AT_ONCE = 30
