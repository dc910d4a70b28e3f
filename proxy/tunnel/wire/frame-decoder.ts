import type { MeshError } from '../../../src/core/errors.ts'
import {
  ACK_BYTES,
  FLAGGED,
  FRAME,
  frameInvalid,
  HEADER_BYTES,
  MAX_DATAGRAM,
  MAX_HELLO_BYTES,
  MAX_OPEN_BYTES,
  MAX_PAYLOAD,
  MAX_SIGNAL_BYTES,
  POSITION_BYTES,
  type FrameType,
} from './frame.ts'

/** Gets what the decoder finds. Its methods may throw FRAME_INVALID, and nothing else. */
export interface FrameSink {
  /** A piece of a DATA frame, never empty: a view of the chunk that was pushed. */
  data(stream: number, piece: Buffer): void
  /** The stream's DATA goes on here: the number of its run, and the offset in the stream. */
  position(stream: number, run: number, offset: number): void
  /** Any other known frame. `payload` is only good during the call. */
  frame(type: FrameType, stream: number, payload: Buffer, isFlagged: boolean): void
  /** A frame of a type this version does not know was skipped. */
  unknown(type: number): void
}

type Scope = 'carrier' | 'stream'
interface Rule {
  min: number
  max: number
  scope: Scope
}
/** The length and the scope each type must have. Unknown types have no rule, and are skipped. */
export const FRAME_RULES: readonly (Rule | undefined)[] = (() => {
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

const NOTHING = Buffer.alloc(0)

/**
 * Bytes in, frames out (frame.ts); free of I/O. It holds at most one frame. DATA is never reassembled: its pieces are passed on as
 * they arrive.
 *
 *                 ┌─ DATA ──(flagged: position)──▶ pieces ┐
 *     ─▶ header ──┼─ known ───▶ whole (kept if split) ────┼─▶ header
 *                 ├─ unknown ─▶ skipped, counted ─────────┘
 *                 └─ broken rule ─▶ throws FRAME_INVALID, now and on every later call
 *
 * Hot path: no promise, no copy of DATA; guarded by test/bench/tunnel-micro.ts.
 */
export class FrameDecoder {
  readonly #sink: FrameSink
  readonly #header = Buffer.alloc(HEADER_BYTES)
  #headerFill = 0
  #hasHello = false
  #broken: MeshError | undefined
  #isStopped = false
  // the frame being read
  #type = 0
  #stream = 0
  #left = 0
  #isFlagged = false
  #mode: 'header' | 'position' | 'pieces' | 'whole' | 'skip' = 'header'
  #kept = NOTHING
  #keptFill = 0

  constructor(sink: FrameSink) {
    this.#sink = sink
  }

  /** Nothing is passed on any more, not even from the chunk being pushed. */
  stop(): void {
    this.#isStopped = true
  }

  /** @throws MeshError FRAME_INVALID, and again on every later call. */
  push(chunk: Buffer): void {
    if (this.#broken !== undefined) throw this.#broken
    const end = chunk.length
    let at = 0
    while (!this.#isStopped) {
      if (this.#mode === 'header') {
        if (at >= end) return
        at = this.#readHeader(chunk, at, end)
      } else if (this.#mode === 'position') {
        if (at >= end) return
        at = this.#readPosition(chunk, at, end)
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

  #readPosition(chunk: Buffer, at: number, end: number): number {
    const until = Math.min(end, at + POSITION_BYTES - this.#headerFill)
    chunk.copy(this.#header, this.#headerFill, at, until)
    this.#headerFill += until - at
    this.#left -= until - at
    if (this.#headerFill === POSITION_BYTES) {
      this.#headerFill = 0
      this.#mode = 'pieces'
      this.#sink.position(this.#stream, this.#header.readUInt16BE(0), this.#header.readUIntBE(2, 6))
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
    if (type === FRAME.DATA && this.#hasHello && stream !== 0 && length <= MAX_PAYLOAD) {
      this.#mode = isFlagged ? 'position' : 'pieces'
      if (isFlagged && length < POSITION_BYTES) this.#fail('wrong length for its type', { type, length })
      return
    }
    this.#mode = this.#modeFor(type, length, stream)
    if (this.#mode !== 'whole') return
    if (type === FRAME.HELLO) this.#hasHello = true
    if (length === 0) this.#sink.frame(type as FrameType, stream, NOTHING, isFlagged)
  }

  #modeFor(type: number, length: number, stream: number): 'whole' | 'skip' {
    const rule = FRAME_RULES[type]
    if (!this.#hasHello && type !== FRAME.HELLO) return this.#fail('a frame before HELLO', { type })
    if (this.#hasHello && type === FRAME.HELLO) return this.#fail('a second HELLO', {})
    if (length > MAX_PAYLOAD) return this.#fail('longer than a frame may be', { type, length })
    if (rule === undefined) {
      this.#sink.unknown(type)
      return 'skip'
    }
    if (length < rule.min || length > rule.max) return this.#fail('wrong length for its type', { type, length })
    if ((stream === 0) !== (rule.scope === 'carrier')) return this.#fail('wrong stream for its type', { type, stream })
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
      case 'position':
        throw new Error('taken by #readPosition')
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
    if (this.#keptFill === 0) this.#kept = Buffer.allocUnsafe(fill + this.#left) // at most 64 KiB, by FRAME_RULES
    chunk.copy(this.#kept, this.#keptFill, at, until)
    this.#keptFill = fill
    if (this.#left > 0) return
    const whole = this.#kept
    this.#kept = NOTHING
    this.#keptFill = 0
    this.#sink.frame(type, this.#stream, whole, this.#isFlagged)
  }

  #fail(reason: string, details: Record<string, unknown>): never {
    this.#broken = frameInvalid(reason, details)
    throw this.#broken
  }
}
