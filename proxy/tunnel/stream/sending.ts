import {
  FLAGGED,
  FRAME,
  frameInvalid,
  HEADER_BYTES,
  MAX_PAYLOAD,
  POSITION_BYTES,
  writeHeader,
  writePosition,
} from '../wire/frame.ts'
import { Retained } from './retained.ts'

/**
 * The positions of the sending direction of a stream, in bytes since its start. END counts as one more byte, so that its arrival
 * is acknowledged too.
 *
 *     acked ───▶ sent ───▶ written        sent ≤ allowed = consumed (from ACK) + window
 *       └──────── kept ────────┘
 *
 *     rewind: sent = acked, in a new run      skipTo: sent moves past what has arrived after all
 *
 * Where the session cannot resume, nothing is kept once it is sent.
 */
export class Sending {
  /** How far the peer lets us send. */
  allowed: number
  isEnding = false
  readonly #keeps: boolean
  readonly #kept = new Retained()
  #from = 0
  #sent = 0
  /** The furthest position ever sent, with END: no ACK can be beyond it. */
  #top = 0
  #endSent = false
  #endAcked = false
  #run = 0
  #needsPosition = false

  constructor(keeps: boolean, allowed: number) {
    this.#keeps = keeps
    this.allowed = allowed
  }

  /** Bytes kept: not acknowledged, or not sent yet. */
  get kept(): number {
    return this.#kept.length
  }

  /** Bytes not sent yet, or to be sent again. */
  get queued(): number {
    return this.#from + this.#kept.length - this.#sent
  }

  /** Bytes the peer has acknowledged. */
  get acked(): number {
    return this.#from
  }

  get isReady(): boolean {
    if (this.#needsPosition) return true
    return this.queued > 0 ? this.#sent < this.allowed : this.isEnding && !this.#endSent
  }

  /** Something was sent, if only END. */
  get hasSent(): boolean {
    return this.#top > 0
  }

  get endSent(): boolean {
    return this.#endSent
  }

  /** Everything is acknowledged, or need not be. */
  get isDone(): boolean {
    return this.#endAcked || (this.#endSent && !this.#keeps)
  }

  /** The peer lets this much be sent, in all. */
  allow(bytes: number): void {
    this.allowed = Math.max(this.allowed, bytes)
  }

  push(chunk: Buffer): void {
    this.#kept.push(chunk)
  }

  /** Writes a DATA frame, and END if that was everything; returns the bytes of both. */
  writeFrames(out: Buffer, at: number, room: number, stream: number): number {
    const lead = this.#needsPosition ? POSITION_BYTES : 0
    const size = Math.min(room - HEADER_BYTES - lead, this.queued, this.allowed - this.#sent, MAX_PAYLOAD - lead)
    let used = 0
    if (size > 0 || lead > 0) {
      used = this.#writeData(out, at, Math.max(size, 0), stream)
      if (size < 0) return used
    }
    if (this.queued === 0 && this.isEnding && !this.#endSent && room - used >= HEADER_BYTES) {
      writeHeader(out, at + used, FRAME.END, stream, 0)
      used += HEADER_BYTES
      this.#endSent = true
      this.#top = Math.max(this.#top, this.#sent + 1)
    }
    return used
  }

  #writeData(out: Buffer, at: number, size: number, stream: number): number {
    let used = HEADER_BYTES
    if (this.#needsPosition) {
      this.#needsPosition = false
      writeHeader(out, at, FRAME.DATA | FLAGGED, stream, POSITION_BYTES + size)
      writePosition(out, at + used, this.#run, this.#sent)
      used += POSITION_BYTES
    } else {
      writeHeader(out, at, FRAME.DATA, stream, size)
    }
    this.#kept.read(out, at + used, size)
    this.#sent += size
    if (this.#sent > this.#top) this.#top = this.#sent
    if (!this.#keeps) this.#forget(size)
    return used + size
  }

  /** @throws MeshError FRAME_INVALID */
  gotAck(count: number, windowBytes: number): void {
    if (count > this.#top) throw frameInvalid('ACK of bytes that were not sent')
    this.allow(count + windowBytes)
    if (!this.#keeps) return
    const bytes = this.isEnding ? Math.min(count, this.#from + this.#kept.length) : count
    if (count > bytes) this.#endAcked = this.#endSent = true
    if (bytes <= this.#from) return
    this.#skip(bytes)
    this.#forget(bytes - this.#from)
  }

  /** The peer has received this much, so it need not be sent again. @throws MeshError FRAME_INVALID */
  skipTo(received: number, hasEnd: boolean): void {
    if (received + (hasEnd ? 1 : 0) > this.#top || (hasEnd && received !== this.#from + this.#kept.length)) {
      throw frameInvalid('RESUME of bytes that were not sent')
    }
    if (!this.#keeps) return
    this.#skip(received)
    if (hasEnd) this.#endSent = true
  }

  /** Everything that is not acknowledged will be sent again, on the next carrier. The new run is announced even if that is nothing. */
  rewind(): void {
    this.#run = (this.#run + 1) & 0xffff
    this.#needsPosition = true
    this.#kept.rewind()
    this.#sent = this.#from
    this.#endSent = this.#endAcked
  }

  clear(): void {
    this.#kept.clear()
    this.#sent = this.#from
  }

  #skip(to: number): void {
    if (to <= this.#sent) return
    this.#kept.skip(to - this.#sent)
    this.#sent = to
    this.#needsPosition = true // the run has a gap: the next DATA carries its position
  }

  #forget(bytes: number): void {
    this.#kept.drop(bytes)
    this.#from += bytes
  }
}
