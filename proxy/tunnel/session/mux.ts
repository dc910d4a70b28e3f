import { SteadyMap } from '../../../src/core/kit/steady-map.ts'
import { TokenBucket } from '../../../src/core/kit/token-bucket.ts'
import { ANY_PATH, type PathRule } from '../../../src/core/model/path-rule.ts'
import type { Carrier, FrameUser } from '../carrier/carrier.ts'
import { Failover } from './failover.ts'
import {
  REFUSALS,
  type ByteStream,
  type ByteStreamEvents,
  type DatagramStream,
  type DatagramStreamEvents,
  type OpeningEvents,
  type Route,
  type Withdrawable,
} from '../contract.ts'
import { FRAME, frameInvalid, readCount, type FrameType } from '../wire/frame.ts'
import { FEATURE } from '../wire/hello.ts'
import type { TunnelLimits } from '../limits.ts'
import type { MuxStream } from '../stream/mux-stream.ts'
import { OutgoingStreams } from './outgoing-streams.ts'
import { PendingResets, Tombstones } from './closed-streams.ts'
import type { MuxOptions, MuxParts } from './mux-parts.ts'
import { IncomingStreams } from './incoming-streams.ts'
import { carrierFor } from './placement.ts'
import { Accounting } from './accounting.ts'

/**
 * The streams of a session, over any number of carriers; free of I/O (carriers are). A stream belongs to the session; which
 * carrier it sends on is placement, and changes.
 *
 *     user ─open/write─▶ MuxStream ─▶ carrier.outbox ─▶ bytes
 *     bytes ─▶ carrier's decoder ─▶ data/position/frame here ─▶ MuxStream ─▶ events ─▶ user
 *
 * outgoing-streams.ts and incoming-streams.ts open streams, failover.ts moves them between carriers.
 *
 * Frames for a stream that no longer exists are dropped: they crossed our RESET.
 */
export class Mux implements FrameUser {
  readonly limits: TunnelLimits
  readonly carriers: Carrier[] = []
  /** What all streams together hold, and owe. */
  readonly accounting: Accounting
  readonly failover: Failover
  readonly #options: MuxOptions
  readonly #streams = new SteadyMap<number, MuxStream>()
  readonly #incoming: IncomingStreams
  readonly #outgoing: OutgoingStreams
  readonly #pendingResets = new PendingResets()
  readonly #signals: TokenBucket

  constructor(options: MuxOptions) {
    const { limits, now, sealed } = options
    this.#options = options
    this.limits = limits
    this.#signals = new TokenBucket({ perSecond: SIGNALS_PER_SECOND, burst: SIGNALS_AT_ONCE, now })
    const { carriers } = this
    const streams = this.#streams
    const pendingResets = this.#pendingResets
    const tombstones = new Tombstones()
    const ownBit = (options.ids.next & 1) as 0 | 1
    const recentRttMs = () => this.recentRttMs
    const accounting = new Accounting({ limits, now, recentRttMs, streams, ownBit, pendingResets, tombstones, sealed })
    this.accounting = accounting
    const parts: MuxParts = { carriers, streams, ownBit, accounting, pendingResets, tombstones }
    this.#incoming = new IncomingStreams(options, parts)
    this.#outgoing = new OutgoingStreams(options, parts, this.#incoming)
    this.failover = new Failover(options, parts, this.#incoming)
  }

  /** We go away: no new streams either way. */
  get isDraining(): boolean {
    return this.#incoming.isDraining
  }

  /** The peer goes away. */
  get isPeerDraining(): boolean {
    return this.#outgoing.isPeerDraining
  }

  /** Open ones; those that only wait for a last acknowledgement are not counted. */
  get streams(): number {
    return this.accounting.ours + this.accounting.theirs
  }

  /** Received and not yet consumed, over all streams. */
  get heldBytes(): number {
    return this.accounting.heldBytes
  }

  /** No stream is open, and the peer knows of every RESET: the session can end. */
  get isVoid(): boolean {
    return this.#streams.size === 0 && this.#pendingResets.size === 0
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

  /** The carrier that a new stream under this rule would get. */
  route(rule: PathRule): Route | undefined {
    const carrier = carrierFor(this.carriers, 'small', rule)
    if (carrier === undefined) return undefined
    const { path, keepalive, peerFeatures } = carrier
    return {
      path,
      rttMs: keepalive.recentRttMs,
      takesEarly: this.accounting.isResumable && (peerFeatures & FEATURE.early) !== 0,
      silentMs: keepalive.silentMs(this.#options.now()),
    }
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
    return this.#outgoing.open(request, events, rule)
  }

  openDatagrams(
    request: Buffer,
    events: OpeningEvents & DatagramStreamEvents,
    rule: PathRule = ANY_PATH,
  ): DatagramStream & Withdrawable {
    return this.#outgoing.openDatagrams(request, events, rule)
  }

  /** Sends a signal, which belongs to no stream; false when there is no carrier for it, or the peer does not support signals. */
  signal(payload: Buffer): boolean {
    const carrier = carrierFor(this.carriers) ?? this.carriers[0]
    if (carrier === undefined || (carrier.peerFeatures & FEATURE.signals) === 0) return false
    carrier.outbox.control(FRAME.SIGNAL, 0, payload)
    return true
  }

  /** Sends DRAIN on every carrier: no new streams are wanted. */
  drain(): void {
    if (this.isDraining) return
    this.#incoming.drain()
    for (const carrier of this.carriers) carrier.outbox.control(FRAME.DRAIN, 0, Buffer.of(1))
  }

  /** Sends GOAWAY on every carrier. */
  goAway(): void {
    for (const carrier of this.carriers) carrier.outbox.control(FRAME.GOAWAY, 0, Buffer.alloc(5))
  }

  /** The HELLO of a carrier that was used before it came: the peer takes more than was presumed. */
  answered({ peerWindowBytes }: Carrier): void {
    for (const stream of this.#streams.values()) stream.grant(peerWindowBytes)
  }

  /** The session ends: every open stream fails. */
  end(): void {
    for (const stream of this.#streams.values()) stream.fail('lost')
    this.#options.sealed?.close()
  }

  // ── every 250 ms ──

  /** Sends what is owed, moves streams to better carriers, and gives up what has waited too long. */
  tick(now: number): void {
    this.accounting.settle()
    this.accounting.bulkDetector.measure()
    this.failover.rebalance()
    const isShared = this.carriers.filter((carrier) => carrier.haveSmallStreamsMoved()).length > 0
    for (const { outbox } of this.carriers) outbox.inFlight.isShared = isShared
    this.#options.sealed?.tick(now)
    this.failover.giveUpDetached(now)
    this.#incoming.tick(now)
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
    if (!this.accounting.isResumable) throw frameInvalid('a position was not agreed on')
    this.#streams.get(id)?.gotPosition(carrier, run, offset)
  }

  frame(carrier: Carrier, kind: FrameType, id: number, payload: Buffer, isFlagged: boolean): void {
    switch (kind) {
      case FRAME.OPEN:
        return this.#incoming.got(carrier, id, payload, isFlagged)
      case FRAME.WITHDRAW:
        return this.#incoming.withdrawn(id)
      case FRAME.OPENED:
        return this.#streams.get(id)?.gotOpened()
      case FRAME.REFUSED:
        return this.#outgoing.gotRefused(id, REFUSALS[payload[0]!] ?? 'unreachable')
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
        if (this.#signals.tryTake()) this.#options.owner.signalled(payload)
        return
      case FRAME.RESUME:
        return this.failover.gotResume(carrier, payload)
      case FRAME.DRAIN:
        this.#outgoing.isPeerDraining = true
        return
      case FRAME.GOAWAY:
        return this.#options.owner.peerWentAway()
      case FRAME.HELLO:
      case FRAME.DATA:
      case FRAME.PING:
      case FRAME.PONG:
        throw new Error('the carrier handles these itself')
      default:
        kind satisfies never
    }
  }

  rtt(carrier: Carrier, rttMs: number): void {
    this.#pendingResets.confirmed(carrier, this.#options.now() - rttMs)
    this.#options.owner.roundTripMeasured(carrier, rttMs)
  }

  ignored(): void {
    this.#options.owner.frameIgnored()
  }
}

/** Signals of one peer; a hole punch takes four. Larger: a peer can make us search the table more often; smaller: punches fail. */
const SIGNALS_PER_SECOND = 10
const SIGNALS_AT_ONCE = 30
