import type { Carrier } from '../carrier/carrier.ts'
import { frameInvalid } from '../wire/frame.ts'
import type { TunnelLimits } from '../limits.ts'
import { Window } from './window.ts'

/** Half of all run numbers: whatever is as far behind or more is older (RFC 1982). */
const OLDER = 0x8000

/**
 * The half of a stream that receives. DATA counts only on the carrier of its latest run (frame.ts); a run may begin with bytes
 * that came already, never beyond what came.
 *
 *     consumed ≤ received ≤ promised = the largest sum of consumed and window that we ever sent
 */
export class Receiving {
  received = 0
  consumed = 0
  endReceived = false
  /** The carrier of the run. */
  carrier: Carrier | undefined
  readonly window: Window
  #run = 0
  #runAt = 0
  #endRun = 0
  #promised: number
  /** As our last ACK said; END counts as one. */
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

  /** What an ACK would say now. */
  get count(): number {
    return this.endReceived && this.consumed === this.received ? this.consumed + 1 : this.consumed
  }

  /** There is something that no ACK has said yet. */
  get owesAck(): boolean {
    return this.count > this.#acked
  }

  /** All has come, is consumed, and the sender was told. */
  get isDone(): boolean {
    return this.#acked > this.received
  }

  /** A quarter of the window is not acknowledged: the sender would run dry. */
  get mustAck(): boolean {
    return !this.endReceived && this.consumed - this.#acked >= this.window.bytes >>> 2
  }

  /** An ACK with `count` is sent. */
  ackSent(): void {
    this.#acked = this.count
    this.#promised = Math.max(this.#promised, this.consumed + this.window.bytes)
  }

  /** The sender goes on here. False when it is an older run, that was overtaken.
   * @throws MeshError FRAME_INVALID
   */
  moveTo(carrier: Carrier, run: number, offset: number): boolean {
    const ahead = (run - this.#run) & 0xffff
    if (ahead >= OLDER) return false
    if (ahead === 0 && carrier !== this.carrier) throw frameInvalid('one run on two carriers')
    if (offset > this.received) throw frameInvalid('a run that leaves out bytes')
    this.carrier = carrier
    this.#run = run
    this.#runAt = offset
    return true
  }

  /**
   * What of the piece is new, if anything.
   * @throws MeshError FRAME_INVALID
   */
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
    this.#runAt += fresh.length
    this.received += fresh.length
    if (this.received > this.#promised) throw frameInvalid('data beyond the window')
    return fresh
  }

  /** True when the stream has ended just now; END may come again in a later run.
   * @throws MeshError FRAME_INVALID
   */
  gotEnd(carrier: Carrier): boolean {
    if (carrier !== this.carrier) return false
    if (this.#runAt < this.received) throw frameInvalid('END before bytes that came already')
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
