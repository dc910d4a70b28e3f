import type { PathKind } from '../../../src/core/model/path-rule.ts'
import { FrameDecoder, type FrameSink } from '../wire/frame-decoder.ts'
import { FRAME, frameInvalid, type FrameType } from '../wire/frame.ts'
import { decodeHello, encodeHello, type Hello } from '../wire/hello.ts'
import { Keepalive } from './keepalive.ts'
import { IN_FLIGHT_MARK, Outbox } from './outbox.ts'
import type { CarrierSecrets } from '../sealed/contract.ts'

/** Where a carrier's frames go once it belongs to a session. */
export interface FrameUser {
  data(carrier: Carrier, stream: number, piece: Buffer): void
  position(carrier: Carrier, stream: number, run: number, offset: number): void
  frame(carrier: Carrier, type: FrameType, stream: number, payload: Buffer, isFlagged: boolean): void
  rtt(carrier: Carrier, rttMs: number): void
  ignored(): void
}

/** What one stream adds to the load of its carrier. */
interface Load {
  readonly isBulk: boolean
  /** Bytes that wait to be sent. */
  readonly backlog: number
}

/** Pings and pongs between two ticks (250 ms) take less than this; anything above is traffic. */
const SILENT_BYTES = 1024

/**
 * One authenticated byte connection to a peer, without I/O: received bytes are passed to `receive`, bytes to send are taken from
 * `outbox.fill`, and time passes by `tick`. `pump.ts` joins it to a socket.
 *
 *     new ──HELLO──▶ attached ──drain()/DRAIN──▶ draining ──both sent DRAIN, no streams──▶ drained: may be closed
 */
export class Carrier implements FrameSink {
  readonly path: PathKind
  readonly outbox: Outbox
  readonly keepalive = new Keepalive()
  readonly #now: () => number
  readonly #decoder = new FrameDecoder(this)
  #user: FrameUser | undefined
  /** `bytesOut` at the last tick. */
  #bytesOutBefore = 0
  /** `bytesIn + bytesOut` when `haveSmallStreamsMoved` was called last. */
  #bytesBefore = 0
  #streams = 0
  #bulks = 0
  #backlog = 0
  #sentDrain = false
  #gotDrain = false
  /** Set by the handshake: takes the HELLO and attaches the carrier, or throws. */
  onHello: ((hello: Hello) => void) | undefined
  /** Set by the pump: called when there is something to send. */
  wake: () => void = () => undefined
  /** Unique within its session. */
  number = 0
  /** What we may send on a new stream before its first ACK. */
  peerWindowBytes = 0
  /** The features of the peer's HELLO (hello.ts). */
  peerFeatures = 0
  /** The address of the relay it goes through, if any. */
  relay: string | undefined
  /** How long the pump is to pause reading; see `rest`. */
  #restMs = 0
  /** Our address of the underlying connection, if it has one. */
  localAddress: string | undefined
  /** Exports keys from the underlying TLS connection; set by the handshake. */
  secrets: CarrierSecrets | undefined
  /** The cipher suite of the underlying TLS connection; set by the handshake. */
  cipher: string | undefined
  /** Only for streams whose path rule requires this path; set when it joins a session. */
  isPinned = false
  bytesIn = 0
  bytesOut = 0

  constructor(path: PathKind, now: () => number) {
    this.path = path
    this.#now = now
    this.outbox = new Outbox(() => this.wake(), now)
  }

  /** How many streams send here. */
  get streams(): number {
    return this.#streams
  }

  /** How many of these are bulk. */
  get bulks(): number {
    return this.#bulks
  }

  /** How many bytes of these streams wait to be sent. */
  get backlog(): number {
    return this.#backlog
  }

  /** A stream sends here from now on. Whoever adopts must release. */
  adopt({ isBulk, backlog }: Load): void {
    this.#streams += 1
    if (isBulk) this.#bulks += 1
    this.#backlog += backlog
  }

  /** A stream has ended, or sends elsewhere from now on. */
  release({ isBulk, backlog }: Load): void {
    this.#streams -= 1
    if (isBulk) this.#bulks -= 1
    this.#backlog -= backlog
  }

  /** The streams that send here have this many more bytes to send; negative: fewer. */
  queued(bytes: number): void {
    this.#backlog += bytes
  }

  /** A stream that sends here has become bulk (1), or is no longer (-1). */
  countBulk(by: 1 | -1): void {
    this.#bulks += by
  }

  /** Whether streams other than bulk may have moved bytes here since the last call. */
  haveSmallStreamsMoved(): boolean {
    const bytes = this.bytesIn + this.bytesOut
    const moved = bytes - this.#bytesBefore
    this.#bytesBefore = bytes
    return this.bulks === 0 ? moved > SILENT_BYTES : this.streams > this.bulks
  }

  /** No new streams go here. */
  get isDraining(): boolean {
    return this.#sentDrain || this.#gotDrain
  }

  get isDoubtful(): boolean {
    return this.keepalive.isDoubtful
  }

  /** Neither end uses it any longer: it can be closed. */
  get isDrained(): boolean {
    return this.#sentDrain && this.#gotDrain && this.streams === 0
  }

  sendHello(hello: Hello): void {
    this.outbox.raw(encodeHello(hello))
  }

  attach(user: FrameUser, hello: Hello): void {
    this.#user = user
    this.number = hello.carrier
    this.peerWindowBytes = hello.windowBytes
    this.peerFeatures = hello.features
  }

  /** Both ends stop placing new streams here; those that are here continue. */
  drain(): void {
    if (this.#sentDrain) return
    this.#sentDrain = true
    this.outbox.control(FRAME.DRAIN, 0, Buffer.of(0))
  }

  /** @throws MeshError FRAME_INVALID */
  receive(chunk: Buffer): void {
    this.bytesIn += chunk.length
    this.keepalive.received()
    this.#decoder.push(chunk)
  }

  /** Asks the pump to pause reading for this long, because the peer sends more than its share. */
  rest(ms: number): void {
    this.#restMs = Math.max(this.#restMs, ms)
  }

  /** For the pump: how long to pause reading. The pause is then no longer due. */
  takeRest(): number {
    const due = this.#restMs
    this.#restMs = 0
    return due
  }

  stop(): void {
    this.#decoder.stop()
  }

  /** Sends a ping when one is due; false when the peer is dead. */
  tick(isBusy: boolean): boolean {
    const beat = this.keepalive.tick(this.#now(), isBusy, this.bytesOut > this.#bytesOutBefore)
    this.#bytesOutBefore = this.bytesOut
    if (beat.due === 'ping') {
      const payload = Buffer.alloc(8)
      payload.writeUInt32BE(beat.sequence, 4)
      this.outbox.control(FRAME.PING, 0, payload)
    }
    return beat.due !== 'dead'
  }

  // ── FrameSink ──

  data(stream: number, piece: Buffer): void {
    this.#user?.data(this, stream, piece)
  }

  position(stream: number, run: number, offset: number): void {
    this.#user?.position(this, stream, run, offset)
  }

  frame(type: FrameType, stream: number, payload: Buffer, isFlagged = false): void {
    if (type === FRAME.HELLO) return this.#gotHello(decodeHello(payload))
    if (type === FRAME.PING) return this.outbox.control(FRAME.PONG, 0, payload)
    if (type === FRAME.PONG) return this.#pong(payload.readUInt32BE(0), payload.readUInt32BE(4))
    if (type === FRAME.DRAIN && payload[0] === 0) {
      this.#gotDrain = true
      return this.drain()
    }
    this.#user?.frame(this, type, stream, payload, isFlagged)
  }

  unknown(): void {
    this.#user?.ignored()
  }

  #gotHello(hello: Hello): void {
    if (this.onHello === undefined) throw frameInvalid('an unexpected HELLO')
    this.onHello(hello)
  }

  #pong(mark: number, sequence: number): void {
    if (mark === IN_FLIGHT_MARK) return this.outbox.answered(sequence)
    const rtt = this.keepalive.pong(sequence, this.#now())
    if (rtt !== undefined) this.#user?.rtt(this, rtt)
  }
}
