import { MAX_DATAGRAM } from '../wire/frame.ts'
import { FRAGMENT_BYTES, RECORD, SEAL_BYTES, writeRecord } from './packet.ts'

/**
 * A datagram too long for one packet is sent in pieces of one length; the last may be shorter:
 *
 *     ┌────────────┬───────┬───────┬───────┬───────
 *     │ datagram   │ index │ count │ total │ piece      after kind, length and stream (packet.ts)
 *     │ u32        │ u8    │ u8    │ u16   │
 *     └────────────┴───────┴───────┴───────┴───────
 *
 * `total` is the length of the datagram. Each piece is ⌈total / count⌉ bytes, and begins at index × that.
 */
const PIECE_HEADER_BYTES = 8
/** 65,507 bytes in packets of 1,200 are 57 pieces. */
const MAX_PIECES = 64
/** Per session, for all incomplete datagrams together; beyond it the oldest is dropped. */
const MAX_BYTES = 1024 * 1024
const MAX_DATAGRAMS = 256
const MAX_AGE_MS = 3_000

/** How many packets of `packetBytes` a datagram takes in pieces, and the length of each piece. */
export function piecesOf(length: number, packetBytes: number): { count: number; size: number } {
  const room = packetBytes - SEAL_BYTES - FRAGMENT_BYTES
  const count = Math.max(1, Math.ceil(length / room))
  return { count, size: Math.ceil(length / count) }
}

export interface Piece {
  stream: number
  datagram: number
  index: number
  count: number
}

/** Writes one piece as a record at `out[0…]`; returns the length. */
export function writePiece(out: Buffer, payload: Buffer, { stream, datagram, index, count }: Piece): number {
  const size = Math.ceil(payload.length / count)
  const from = index * size
  const until = Math.min(payload.length, from + size)
  const at = writeRecord(out, 0, RECORD.FRAGMENT, 4 + PIECE_HEADER_BYTES + until - from)
  out.writeUInt32BE(stream, at)
  out.writeUInt32BE(datagram, at + 4)
  out[at + 8] = index
  out[at + 9] = count
  out.writeUInt16BE(payload.length, at + 10)
  payload.copy(out, at + 12, from, until)
  return at + 12 + until - from
}

interface Partial {
  readonly bytes: Buffer
  readonly has: Uint8Array
  missing: number
  readonly since: number
}

/** Reassembles datagrams; those that are not complete in time are dropped. Bounded in bytes, number and age. */
export class Reassembly {
  readonly #now: () => number
  readonly #partial = new Map<number, Partial>()
  #bytes = 0
  /** Datagrams given up, and pieces that matched none. */
  dropped = 0

  constructor(now: () => number) {
    this.#now = now
  }

  get bytes(): number {
    return this.#bytes
  }

  /** The datagram, when this piece completes it. */
  add(stream: number, body: Buffer): Buffer | undefined {
    if (body.length < PIECE_HEADER_BYTES) return this.#reject()
    const datagram = body.readUInt32BE(0)
    const index = body[4]!
    const count = body[5]!
    const total = body.readUInt16BE(6)
    const size = Math.ceil(total / count)
    const length = body.length - PIECE_HEADER_BYTES
    const isSane = count >= 1 && count <= MAX_PIECES && index < count && total >= count && total <= MAX_DATAGRAM
    if (!isSane || length !== Math.min(size, total - index * size) || length <= 0) return this.#reject()
    const key = stream * 0x20_0000 + (datagram & 0x1f_ffff)
    const partial = this.#partial.get(key) ?? this.#begin(key, total, count)
    if (partial.bytes.length !== total || partial.has.length !== count || partial.has[index] === 1)
      return this.#reject()
    body.copy(partial.bytes, index * size, PIECE_HEADER_BYTES)
    partial.has[index] = 1
    partial.missing -= 1
    if (partial.missing > 0) return undefined
    this.#forget(key, partial)
    return partial.bytes
  }

  /** Gives up what is too old. */
  tick(now: number): void {
    for (const [key, partial] of this.#partial) {
      if (now - partial.since < MAX_AGE_MS) return // in order of time
      this.#forget(key, partial)
      this.dropped += 1
    }
  }

  #begin(key: number, total: number, count: number): Partial {
    for (const [oldest, partial] of this.#partial) {
      if (this.#bytes + total <= MAX_BYTES && this.#partial.size < MAX_DATAGRAMS) break
      this.#forget(oldest, partial)
      this.dropped += 1
    }
    const since = this.#now()
    const begun = { bytes: Buffer.allocUnsafe(total), has: new Uint8Array(count), missing: count, since }
    this.#partial.set(key, begun)
    this.#bytes += total
    return begun
  }

  #forget(key: number, partial: Partial): void {
    this.#partial.delete(key)
    this.#bytes -= partial.bytes.length
  }

  #reject(): undefined {
    this.dropped += 1
    return undefined
  }
}
