import { DatagramQueue } from './datagram-queue.ts'
import { InFlightLimit } from './in-flight.ts'
import { ACK_BYTES, FRAME, HEADER_BYTES, MAX_PAYLOAD, writeCount, writeHeader } from '../wire/frame.ts'

/** Something that takes turns in sending: the outbox's view of a stream. */
export interface Turn {
  /** Writes frames at `out[at…]`, at most `room` bytes; returns how many. */
  writeFrames(out: Buffer, at: number, room: number): number
  /** There is something to send now. */
  readonly isReady: boolean
  /** Bytes that wait. */
  readonly backlog: number
  /** There is room again after a write that returned false. */
  drained(): void
  /** Links of the ring; for the outbox alone. */
  nextTurn: Turn | undefined
  previousTurn: Turn | undefined
  hasTurn: boolean
}

/** What each of several waiting streams may send in its turn. Larger: small streams wait for longer; smaller: more headers. */
const SHARED_TURN = HEADER_BYTES + 16 * 1024
const ALONE_TURN = HEADER_BYTES + MAX_PAYLOAD
/** With less room left, no turn begins: the frame would hardly be worth its header. */
const MIN_ROOM = 512
/** A carrier whose peer causes this many unread answers is closed. */
const MAX_CONTROL_BYTES = 4 * 1024 * 1024
const FIRST_CONTROL_BYTES = 1024
/** The first half of the payload of a PING that marks bytes; in a keepalive it is 0. */
export const IN_FLIGHT_MARK = 1

/**
 * What waits to leave on one carrier: control frames as bytes, in order, and the streams that have data, as a ring.
 *
 *     control: [OPEN│ACK│PONG│…]──┐ first
 *     datagrams: [d│d│d]──────────┼─▶ fill(out): one buffer, one write per event-loop turn
 *     ring: s7 ─▶ s3 ─▶ s9 ───────┘ ≤ 16 KiB a turn, up to 64 KiB a frame when alone
 *
 * Datagrams get half of a buffer when streams wait too, and late ones are dropped.
 */
export class Outbox {
  /** Datagrams that go as frames. */
  readonly datagrams = new DatagramQueue()
  /** What the peer has not read yet. */
  readonly inFlight = new InFlightLimit()
  readonly #wake: () => void
  readonly #now: () => number
  #control = Buffer.allocUnsafeSlow(FIRST_CONTROL_BYTES)
  #controlStart = 0
  #controlEnd = 0
  #isOverfull = false
  #first: Turn | undefined
  #last: Turn | undefined
  #drained: Turn[] = []

  /** `wake` is called whenever something is added, also when something waited already. */
  constructor(wake: () => void, now: () => number = () => 0) {
    this.#wake = wake
    this.#now = now
  }

  /** Nothing may be sent now: nothing waits, or too much is in flight. */
  get isEmpty(): boolean {
    const hasTurns = this.#first !== undefined && this.inFlight.room >= MIN_ROOM
    return !hasTurns && this.#controlStart === this.#controlEnd && this.datagrams.isEmpty
  }

  /** The peer causes answers and does not read them. */
  get isOverfull(): boolean {
    return this.#isOverfull
  }

  /** `type` may carry FLAGGED. */
  control(type: number, stream: number, payload?: Buffer): void {
    const length = payload === undefined ? 0 : payload.length
    const at = this.#reserve(type, stream, length)
    if (at >= 0 && payload !== undefined) payload.copy(this.#control, at)
  }

  /** Queues a datagram; false: it is dropped. */
  datagram(stream: number, payload: Buffer): boolean {
    if (!this.datagrams.push(stream, payload, this.#now())) return false
    this.#wake()
    return true
  }

  /** Bytes that are frames already. */
  raw(frames: Buffer): void {
    const at = this.#room(frames.length)
    if (at >= 0) frames.copy(this.#control, at)
  }

  ack(stream: number, consumed: number, windowBytes: number): void {
    const at = this.#reserve(FRAME.ACK, stream, ACK_BYTES)
    if (at < 0) return
    writeCount(this.#control, at, consumed)
    this.#control.writeUInt32BE(windowBytes, at + 8)
  }

  /** Puts a stream that has something to send into the ring, unless it is there already. */
  join(turn: Turn): void {
    if (turn.hasTurn) return
    this.#append(turn)
    this.#wake()
  }

  /** Writes what is due into `out`, in one go; returns how many bytes. */
  fill(out: Buffer): number {
    let at = this.#takeControl(out)
    if (!this.datagrams.isEmpty) {
      const share = this.#first === undefined ? out.length : out.length >>> 1
      at += this.datagrams.fill(out, at, share, this.#now())
    }
    const until = Math.min(out.length, at + Math.max(this.inFlight.room, 0))
    while (this.#first !== undefined && until - at >= MIN_ROOM) {
      const turn = this.#first
      this.leave(turn)
      const most = this.#first === undefined ? ALONE_TURN : SHARED_TURN
      at += turn.writeFrames(out, at, Math.min(most, until - at))
      if (!turn.hasTurn && turn.isReady) this.#append(turn)
    }
    this.inFlight.sent(at)
    if (this.inFlight.isMarkDue) this.#mark()
    if (this.#drained.length > 0) this.#callDrained()
    return at
  }

  /** The PONG of one of our marks: what waited because too much was in flight may go on. */
  answered(sequence: number): void {
    this.inFlight.answered(sequence, this.#now())
    if (this.inFlight.isMarkDue) this.#mark() // what was sent meanwhile has none yet
    if (!this.isEmpty) this.#wake()
  }

  /** Marks this position in the bytes; the PONG proves that everything before it has arrived. */
  #mark(): void {
    const mark = Buffer.allocUnsafe(8)
    mark.writeUInt32BE(IN_FLIGHT_MARK, 0)
    mark.writeUInt32BE(this.inFlight.mark(this.#now()), 4)
    this.control(FRAME.PING, 0, mark)
  }

  /** Calls `turn.drained()` at the end of `fill`, when it may write again. */
  drainLater(turn: Turn): void {
    this.#drained.push(turn)
  }

  /** Takes a stream out of the ring. */
  leave(turn: Turn): void {
    const { nextTurn, previousTurn } = turn
    if (previousTurn === undefined) this.#first = nextTurn
    else previousTurn.nextTurn = nextTurn
    if (nextTurn === undefined) this.#last = previousTurn
    else nextTurn.previousTurn = previousTurn
    turn.nextTurn = undefined
    turn.previousTurn = undefined
    turn.hasTurn = false
  }

  #append(turn: Turn): void {
    turn.hasTurn = true
    turn.previousTurn = this.#last
    if (this.#last === undefined) this.#first = turn
    else this.#last.nextTurn = turn
    this.#last = turn
  }

  #callDrained(): void {
    const drained = this.#drained
    this.#drained = []
    for (const turn of drained) turn.drained()
  }

  #takeControl(out: Buffer): number {
    const size = Math.min(this.#controlEnd - this.#controlStart, out.length)
    if (size === 0) return 0
    this.#control.copy(out, 0, this.#controlStart, this.#controlStart + size)
    this.#controlStart += size
    if (this.#controlStart === this.#controlEnd) this.#controlStart = this.#controlEnd = 0
    return size
  }

  #reserve(type: number, stream: number, length: number): number {
    const at = this.#room(HEADER_BYTES + length)
    if (at < 0) return -1
    writeHeader(this.#control, at, type, stream, length)
    return at + HEADER_BYTES
  }

  /** Where `length` more control bytes go; -1 when the peer has left too many unread. */
  #room(length: number): number {
    this.#wake()
    const held = this.#controlEnd - this.#controlStart
    if (held + length > MAX_CONTROL_BYTES) {
      this.#isOverfull = true
      return -1
    }
    if (this.#controlEnd + length > this.#control.length) {
      const larger =
        held + length > this.#control.length / 2
          ? Buffer.allocUnsafeSlow(Math.max(this.#control.length * 2, held + length))
          : this.#control
      this.#control.copy(larger, 0, this.#controlStart, this.#controlEnd)
      this.#control = larger
      this.#controlStart = 0
      this.#controlEnd = held
    }
    const at = this.#controlEnd
    this.#controlEnd += length
    return at
  }
}
