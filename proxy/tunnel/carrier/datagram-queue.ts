import { FRAME, HEADER_BYTES, writeHeader } from '../wire/frame.ts'

/** When more than this waits, datagrams are dropped. Larger: a call is delayed instead of cut up; smaller: a short burst is lost. */
const MAX_WAITING_BYTES = 256 * 1024
/** A datagram that has waited longer is dropped. Larger: stale datagrams take bandwidth from fresh ones. */
const MAX_AGE_MS = 500
/** Precedes each frame in the queue: when it was queued, and the length of the frame. */
const ENTRY_BYTES = 12
const FIRST_BYTES = 16 * 1024

/**
 * Datagrams that wait for one carrier, as frames in one buffer that is reused. What does not fit or is late is dropped and
 * counted; a frame is never split over two writes.
 *
 *     [when│length│frame …][when│length│frame …]
 *      ▲ start                                  ▲ end
 */
export class DatagramQueue {
  sent = 0
  dropped = 0
  #bytes = Buffer.alloc(0)
  #start = 0
  #end = 0

  get isEmpty(): boolean {
    return this.#start === this.#end
  }

  /** False when there is no room for it. */
  push(stream: number, payload: Buffer, now: number): boolean {
    const size = ENTRY_BYTES + HEADER_BYTES + payload.length
    if (this.#end - this.#start + size > MAX_WAITING_BYTES) {
      this.dropped += 1
      return false
    }
    if (this.#end + size > this.#bytes.length) this.#makeRoom(size)
    const at = this.#end
    this.#bytes.writeDoubleBE(now, at)
    this.#bytes.writeUInt32BE(HEADER_BYTES + payload.length, at + 8)
    writeHeader(this.#bytes, at + ENTRY_BYTES, FRAME.DATAGRAM, stream, payload.length)
    payload.copy(this.#bytes, at + ENTRY_BYTES + HEADER_BYTES)
    this.#end += size
    return true
  }

  /** Writes whole frames at `out[at…]`: `share` bytes, or one frame when that alone is longer and fits; returns how many. */
  fill(out: Buffer, at: number, share: number, now: number): number {
    const from = at
    while (this.#start < this.#end) {
      const length = this.#bytes.readUInt32BE(this.#start + 8)
      const isLate = now - this.#bytes.readDoubleBE(this.#start) > MAX_AGE_MS
      if (isLate) this.dropped += 1
      else {
        if (at + length > out.length || (at > from && at + length - from > share)) break
        const frame = this.#start + ENTRY_BYTES
        this.#bytes.copy(out, at, frame, frame + length)
        at += length
        this.sent += 1
      }
      this.#start += ENTRY_BYTES + length
    }
    if (this.#start === this.#end) this.#clear()
    return at - from
  }

  #makeRoom(size: number): void {
    const held = this.#end - this.#start
    const needed = held + size
    const larger =
      needed > this.#bytes.length / 2
        ? Buffer.allocUnsafeSlow(Math.max(FIRST_BYTES, Math.min(MAX_WAITING_BYTES * 2, needed * 2)))
        : this.#bytes
    this.#bytes.copy(larger, 0, this.#start, this.#end)
    this.#bytes = larger
    this.#start = 0
    this.#end = held
  }

  /** The queue is empty: a buffer that a burst has enlarged is given back. */
  #clear(): void {
    this.#start = 0
    this.#end = 0
    if (this.#bytes.length > FIRST_BYTES * 4) this.#bytes = Buffer.alloc(0)
  }
}
