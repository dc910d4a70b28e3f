import type { Carrier } from '../carrier/carrier.ts'
import { frameInvalid } from '../wire/frame.ts'
import type { TunnelLimits } from '../limits.ts'
import { Window } from './window.ts'

/** Half of all run numbers: a number at least this far ahead is in fact older (serial number arithmetic, RFC 1982). */
const OLDER = 0x8000

/**
 * The positions of the receiving direction of a stream. DATA counts only on the carrier of the latest run (frame.ts); a run may
 * begin with bytes that have arrived already, but must not leave any out.
 *
 *     consumed ≤ received ≤ promised = the largest sum of consumed and window that we ever sent
 */
export class Receiving {
  received = 0
  consumed = 0
  endReceived = false
  /** The carrier of the latest run. */
  carrier: Carrier | undefined
  readonly window: Window
  #run = 0
  #runAt = 0
  #endRun = 0
  #promised: number
  /** What our last ACK reported; END counts as one. */
  #acked = 0

  constructor(carrier: Carrier | undefined, { windowBytes, maxWindowBytes }: TunnelLimits, now: number) {
    this.carrier = carrier
    this.window = new Window({ first: windowBytes, limit: maxWindowBytes, now })
    this.#promised = windowBytes
  }

  /** Received and not yet consumed. */
  get held(): number {
    return this.received - this.consumed
  }

  /** What an ACK would report now. */
  get count(): number {
    return this.endReceived && this.consumed === this.received ? this.consumed + 1 : this.consumed
  }

  /** There is something that no ACK has reported yet. */
  get owesAck(): boolean {
    return this.count > this.#acked
  }

  /** Everything has arrived, is consumed, and acknowledged. */
  get isDone(): boolean {
    return this.#acked > this.received
  }

  /** A quarter of the window is not acknowledged: later, the sender would have to stop. */
  get mustAck(): boolean {
    return !this.endReceived && this.consumed - this.#acked >= this.window.bytes >>> 2
  }

  /** An ACK with `count` is sent. */
  ackSent(): void {
    this.#acked = this.count
    this.#promised = Math.max(this.#promised, this.consumed + this.window.bytes)
  }

  /** The sender goes on here, in this run. False when a newer run has overtaken it. @throws MeshError FRAME_INVALID */
  moveTo(carrier: Carrier, run: number, offset: number): boolean {
    const ahead = (run - this.#run) & 0xffff
    if (ahead >= OLDER) return false
    if (ahead === 0 && carrier !== this.carrier) throw frameInvalid('one run on two carriers')
    if (offset > this.received) throw frameInvalid('a run that leaves bytes out')
    this.carrier = carrier
    this.#run = run
    this.#runAt = offset
    return true
  }

  /** The part of the piece that is new, if any. @throws MeshError FRAME_INVALID */
  gotData(carrier: Carrier, piece: Buffer): Buffer | undefined {
    if (carrier !== this.carrier) return undefined
    let fresh = piece
    if (this.#runAt < this.received) {
      const known = Math.min(piece.length, this.received - this.#runAt)
      this.#runAt += known
      if (known === piece.length) return undefined
      fresh = piece.subarray(known)
    }
    if (this.endReceived) throw frameInvalid('data after END')
    // before it is counted: `held` must never be more than the session has counted
    if (this.received + fresh.length > this.#promised) throw frameInvalid('data beyond the window')
    this.#runAt += fresh.length
    this.received += fresh.length
    return fresh
  }

  /** True when the stream has just ended; END may come again in a later run. @throws MeshError FRAME_INVALID */
  gotEnd(carrier: Carrier): boolean {
    if (carrier !== this.carrier) return false
    if (this.#runAt < this.received) throw frameInvalid('END before bytes that have arrived already')
    if (this.endReceived) {
      if (this.#endRun === this.#run) throw frameInvalid('a second END')
      this.#endRun = this.#run
      return false
    }
    this.#endRun = this.#run
    this.endReceived = true
    return true
  }
}
