import { MeshError } from '../../src/errors.ts'

/**
 * The wire of a carrier: frames of an 8-byte header and a payload, all numbers big endian.
 *
 *      0               1               2               3
 *     ┌─────┬─────────┬───────────────────────────────────────────────┐
 *     │flags│  type   │                payload length                 │
 *     ├─────┴─────────┴───────────────────────────────────────────────┤
 *     │                 stream id (0: the whole carrier)              │
 *     ├────────────────────────────────────────────────────────────────
 *     │ payload …
 *
 *     HELLO     0   see hello.ts; the first frame in each direction, never again
 *     OPEN      n   the request, opaque, ≤ 1,024 bytes. Flagged: said once before, on a carrier that is gone
 *     OPENED    n   empty
 *     REFUSED   n   u8 index into REFUSALS
 *     DATA      n   bytes of the flow, within the window. Flagged: led by u16 run and u48 offset, see below
 *     END       n   the sender sends no more; the other direction goes on
 *     RESET     n   both directions are dead
 *     ACK       n   u64 bytes of this stream consumed so far (and one more for END, where flows may resume), u32 window: the
 *                   other side may send up to their sum
 *     PING      0   8 bytes, sent back as PONG
 *     DATAGRAM  n   one datagram of a stream that was opened for them, ≤ 65,507 bytes; dropped when the carrier is behind
 *     DRAIN     0   u8 scope. 0: no new streams on this carrier; 1: none in this session (the node goes away)
 *     GOAWAY    0   u8 reason, u32 ms to wait before coming back
 *     SEALED    0   where and how datagrams may come straight over UDP, see sealed/offer.ts
 *     SIGNAL    0   a short message between the two nodes, about ways to reach each other; opaque here, ≤ 2,048 bytes
 *     RESUME    0   what came of streams whose carrier is gone, see resume.ts
 *     WITHDRAW  n   empty. An OPEN that is not answered yet shall be REFUSED now; nothing when it is
 *
 * A stream's DATA runs on one carrier at a time. A sender that moves it (or lost its carrier) begins a new run there: one
 * flagged DATA says the run's number and from which byte on, perhaps some that came already; what follows on that carrier is
 * unflagged. The reader drops what it has and whatever else still comes on carriers of older runs.
 *
 * Where both can (FEATURE.early), up to MAX_EARLY_BYTES of DATA, and END, or a few DATAGRAMs, may follow OPEN at once. They are given to nobody before
 * OPENED: REFUSED proves that they have not been read.
 *
 * Payloads may grow at the end up to the bound in RULES; what a reader does not know there it skips. Unknown types are an
 * error before HELLO and skipped and counted afterwards (SEC-30).
 *
 * The decoder is free of I/O and holds at most one frame. DATA is never put together: its pieces leave as they come.
 *
 *                 ┌─ DATA ──(flagged: place)──▶ pieces ┐
 *     ─▶ header ──┼─ known ───▶ whole (kept if split) ───┼─▶ header
 *                 ├─ unknown ─▶ skipped, counted ─────┘
 *                 └─ broken rule ─▶ throws FRAME_INVALID, for good
 *
 * Hot path: no promise, no copy of DATA; guarded by test/bench/tunnel-micro.ts.
 */
export const FRAME = {
  HELLO: 1,
  OPEN: 2,
  OPENED: 3,
  REFUSED: 4,
  DATA: 5,
  END: 6,
  RESET: 7,
  ACK: 8,
  PING: 9,
  PONG: 10,
  DATAGRAM: 11,
  DRAIN: 12,
  GOAWAY: 13,
  RESUME: 14,
  SEALED: 15,
  SIGNAL: 16,
  WITHDRAW: 17,
} as const
export type FrameType = (typeof FRAME)[keyof typeof FRAME]

export const HEADER_BYTES = 8
/** The one flag in use: a DATA frame that says its place, an OPEN that is said again. */
export const FLAGGED = 0x20
/** u16 run and u48 offset, in a flagged DATA. */
export const PLACE_BYTES = 8
/** Larger and one frame holds the carrier longer; smaller and headers cost more. Also the bound of every length field. */
export const MAX_PAYLOAD = 64 * 1024
export const MAX_OPEN_BYTES = 1024
export const MAX_SIGNAL_BYTES = 2048
/** Of one stream, before OPENED. Larger: fewer requests wait a round trip with their end, and pending OPENs may make a peer hold more. */
export const MAX_EARLY_BYTES = 16 * 1024
/** What UDP over IPv4 can carry: 65,535 less the IP and UDP headers (RFC 768, RFC 791). */
export const MAX_DATAGRAM = 65_507
/** What a peer may say before its HELLO is taken (TUNNELS.md D22). */
export const MAX_HELLO_BYTES = 4096
export const ACK_BYTES = 12

type Scope = 'carrier' | 'stream'
interface Rule {
  min: number
  max: number
  scope: Scope
}
/** Types that are kept for later have no rule: they are skipped like unknown ones. */
const RULES: readonly (Rule | undefined)[] = (() => {
  const rules: (Rule | undefined)[] = Array.from({ length: 32 })
  const rule = (type: FrameType, scope: Scope, min: number, max: number) => {
    rules[type] = { min, max, scope }
  }
  rule(FRAME.HELLO, 'carrier', 36, MAX_HELLO_BYTES)
  rule(FRAME.OPEN, 'stream', 0, MAX_OPEN_BYTES)
  rule(FRAME.OPENED, 'stream', 0, 64)
  rule(FRAME.REFUSED, 'stream', 1, 64)
  rule(FRAME.DATA, 'stream', 0, MAX_PAYLOAD)
  rule(FRAME.END, 'stream', 0, 64)
  rule(FRAME.RESET, 'stream', 0, 64)
  rule(FRAME.ACK, 'stream', ACK_BYTES, 64)
  rule(FRAME.PING, 'carrier', 8, 8)
  rule(FRAME.PONG, 'carrier', 8, 8)
  rule(FRAME.DATAGRAM, 'stream', 0, MAX_DATAGRAM)
  rule(FRAME.DRAIN, 'carrier', 1, 64)
  rule(FRAME.GOAWAY, 'carrier', 5, 256)
  rule(FRAME.SEALED, 'carrier', 8, 1024)
  rule(FRAME.WITHDRAW, 'stream', 0, 64)
  rule(FRAME.SIGNAL, 'carrier', 1, MAX_SIGNAL_BYTES)
  rule(FRAME.RESUME, 'carrier', 4, MAX_PAYLOAD)
  return rules
})()

/** Takes what the decoder finds. Nothing here may throw anything but FRAME_INVALID. */
export interface FrameSink {
  /** A piece of a DATA frame, never empty; a view of the chunk that was pushed. */
  data(stream: number, piece: Buffer): void
  /** The stream's DATA goes on here: its run, and from which byte of the stream on. */
  place(stream: number, run: number, offset: number): void
  /** Any other known frame. `payload` is only good during the call. */
  frame(type: FrameType, stream: number, payload: Buffer, isFlagged: boolean): void
  /** A frame of a type this version does not know was skipped. */
  unknown(type: number): void
}

const NOTHING = Buffer.alloc(0)

export class FrameDecoder {
  readonly #sink: FrameSink
  readonly #header = Buffer.alloc(HEADER_BYTES)
  #headerFill = 0
  #greeted = false
  #broken: MeshError | undefined
  #stopped = false
  // the frame being read
  #type = 0
  #stream = 0
  #left = 0
  #isFlagged = false
  #mode: 'header' | 'place' | 'pieces' | 'whole' | 'skip' = 'header'
  #kept = NOTHING
  #keptFill = 0

  constructor(sink: FrameSink) {
    this.#sink = sink
  }

  /** Nothing more leaves the decoder, not even from the chunk being pushed. */
  stop(): void {
    this.#stopped = true
  }

  /** @throws MeshError FRAME_INVALID, and again on every later call. */
  push(chunk: Buffer): void {
    if (this.#broken !== undefined) throw this.#broken
    const end = chunk.length
    let at = 0
    while (!this.#stopped) {
      if (this.#mode === 'header') {
        if (at >= end) return
        at = this.#readHeader(chunk, at, end)
      } else if (this.#mode === 'place') {
        if (at >= end) return
        at = this.#readPlace(chunk, at, end)
      } else if (this.#left === 0) {
        this.#mode = 'header' // a frame without payload, or the last piece was taken
      } else if (at >= end) {
        return
      } else {
        const until = Math.min(end, at + this.#left)
        this.#take(chunk, at, until)
        at = until
      }
    }
  }

  #readHeader(chunk: Buffer, at: number, end: number): number {
    if (this.#headerFill === 0 && end - at >= HEADER_BYTES) {
      this.#begin(chunk, at)
      return at + HEADER_BYTES
    }
    const until = Math.min(end, at + HEADER_BYTES - this.#headerFill)
    chunk.copy(this.#header, this.#headerFill, at, until)
    this.#headerFill += until - at
    if (this.#headerFill === HEADER_BYTES) {
      this.#headerFill = 0
      this.#begin(this.#header, 0)
    }
    return until
  }

  #readPlace(chunk: Buffer, at: number, end: number): number {
    const until = Math.min(end, at + PLACE_BYTES - this.#headerFill)
    chunk.copy(this.#header, this.#headerFill, at, until)
    this.#headerFill += until - at
    this.#left -= until - at
    if (this.#headerFill === PLACE_BYTES) {
      this.#headerFill = 0
      this.#mode = 'pieces'
      this.#sink.place(this.#stream, this.#header.readUInt16BE(0), this.#header.readUIntBE(2, 6))
    }
    return until
  }

  #begin(bytes: Buffer, at: number): void {
    const type = bytes[at]! & 0x1f
    const isFlagged = (bytes[at]! & FLAGGED) !== 0
    const length = (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!
    const stream = bytes.readUInt32BE(at + 4)
    this.#type = type
    this.#stream = stream
    this.#left = length
    this.#isFlagged = isFlagged
    if (type === FRAME.DATA && this.#greeted && stream !== 0 && length <= MAX_PAYLOAD) {
      this.#mode = isFlagged ? 'place' : 'pieces'
      if (isFlagged && length < PLACE_BYTES) this.#break('wrong length for its type', { type, length })
      return
    }
    this.#mode = this.#judge(type, length, stream)
    if (this.#mode !== 'whole') return
    if (type === FRAME.HELLO) this.#greeted = true
    if (length === 0) this.#sink.frame(type as FrameType, stream, NOTHING, isFlagged)
  }

  #judge(type: number, length: number, stream: number): 'whole' | 'skip' {
    const rule = RULES[type]
    if (!this.#greeted && type !== FRAME.HELLO) return this.#break('a frame before HELLO', { type })
    if (this.#greeted && type === FRAME.HELLO) return this.#break('a second HELLO', {})
    if (length > MAX_PAYLOAD) return this.#break('longer than a frame may be', { type, length })
    if (rule === undefined) {
      this.#sink.unknown(type)
      return 'skip'
    }
    if (length < rule.min || length > rule.max) return this.#break('wrong length for its type', { type, length })
    if ((stream === 0) !== (rule.scope === 'carrier')) return this.#break('wrong stream for its type', { type, stream })
    return 'whole'
  }

  #take(chunk: Buffer, at: number, until: number): void {
    const size = until - at
    switch (this.#mode) {
      case 'pieces':
        this.#left -= size
        this.#sink.data(this.#stream, size === chunk.length ? chunk : chunk.subarray(at, until))
        return
      case 'skip':
        this.#left -= size
        return
      case 'whole':
        return this.#takeWhole(chunk, at, until)
      case 'place':
        throw new Error('taken by #readPlace')
      case 'header':
        throw new Error('no payload is expected here')
      default:
        this.#mode satisfies never
    }
  }

  #takeWhole(chunk: Buffer, at: number, until: number): void {
    const type = this.#type as FrameType
    this.#left -= until - at
    if (this.#left === 0 && this.#keptFill === 0) {
      this.#sink.frame(type, this.#stream, chunk.subarray(at, until), this.#isFlagged)
      return
    }
    const fill = this.#keptFill + until - at
    if (this.#keptFill === 0) this.#kept = Buffer.allocUnsafe(fill + this.#left) // at most 64 KiB, by RULES
    chunk.copy(this.#kept, this.#keptFill, at, until)
    this.#keptFill = fill
    if (this.#left > 0) return
    const whole = this.#kept
    this.#kept = NOTHING
    this.#keptFill = 0
    this.#sink.frame(type, this.#stream, whole, this.#isFlagged)
  }

  #break(reason: string, details: Record<string, unknown>): never {
    this.#broken = frameInvalid(reason, details)
    throw this.#broken
  }
}

export function frameInvalid(reason: string, details: Record<string, unknown> = {}): MeshError {
  return new MeshError('FRAME_INVALID', { reason, ...details })
}

/** Writes the header at `at`; the payload follows at `at + HEADER_BYTES`. `type` may carry FLAGGED. */
export function writeHeader(out: Buffer, at: number, type: number, stream: number, length: number): void {
  out[at] = type
  out[at + 1] = length >>> 16
  out[at + 2] = length >>> 8
  out[at + 3] = length
  out[at + 4] = stream >>> 24
  out[at + 5] = stream >>> 16
  out[at + 6] = stream >>> 8
  out[at + 7] = stream
}

/** Where a run of DATA begins; 48 bits of offset are 280 TB in one stream. */
export function writePlace(out: Buffer, at: number, run: number, offset: number): void {
  out.writeUInt16BE(run, at)
  out.writeUIntBE(offset % 2 ** 48, at + 2, 6)
}

/** A count of bytes as 64 bits; JavaScript holds 53 of them exactly, which is 9 PB. */
export function writeCount(out: Buffer, at: number, count: number): void {
  out.writeUInt32BE(Math.floor(count / 0x1_0000_0000), at)
  out.writeUInt32BE(count >>> 0, at + 4)
}

/** @throws MeshError FRAME_INVALID beyond 53 bits. */
export function readCount(bytes: Buffer, at: number): number {
  const count = bytes.readUInt32BE(at) * 0x1_0000_0000 + bytes.readUInt32BE(at + 4)
  if (!Number.isSafeInteger(count)) throw frameInvalid('a count that no stream can reach')
  return count
}
