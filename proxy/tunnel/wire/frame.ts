import { MeshError } from '../../../src/core/errors.ts'

/**
 * The wire format of a carrier: frames of an 8-byte header and a payload; all numbers are big endian. docs/protocol.md describes
 * it for other implementations.
 *
 *      0               1               2               3
 *     ┌─────┬─────────┬───────────────────────────────────────────────┐
 *     │flags│  type   │                payload length                 │
 *     ├─────┴─────────┴───────────────────────────────────────────────┤
 *     │                 stream id (0: the whole carrier)              │
 *     ├────────────────────────────────────────────────────────────────
 *     │ payload …
 *
 *     HELLO     0   the first frame in each direction, and only the first; see hello.ts
 *     OPEN      n   the request, opaque, ≤ 1,024 bytes. Flagged: it was sent before, on a carrier that died
 *     OPENED    n   empty
 *     REFUSED   n   u8 index into REFUSALS
 *     DATA      n   bytes of the flow, within the window. Flagged: begins with u16 run and u48 offset, see below
 *     END       n   the sender sends no more; the other direction goes on
 *     RESET     n   both directions are dead
 *     ACK       n   u64 bytes of this stream consumed so far (plus one for END, where streams can resume), u32 window: the
 *                   other side may send up to their sum
 *     PING      0   8 bytes, returned as PONG
 *     DATAGRAM  n   one datagram of a stream that was opened for them, ≤ 65,507 bytes; dropped when the carrier is behind
 *     DRAIN     0   u8 scope. 0: no new streams on this carrier; 1: none in this session (the node shuts down)
 *     GOAWAY    0   u8 reason, u32 ms to wait before reconnecting
 *     SEALED    0   where and how to send datagrams directly over UDP, see sealed/offer.ts
 *     SIGNAL    0   a short message between the two nodes about paths to each other; opaque here, ≤ 2,048 bytes
 *     RESUME    0   what was received of streams whose carrier died, see resume.ts
 *     WITHDRAW  n   empty. Asks for REFUSED now if the OPEN is not answered yet; ignored if it is
 *
 * The DATA of a stream is on one carrier at a time. A sender that moves it (or lost its carrier) begins a new run there: one
 * flagged DATA has the number of the run and the offset at which it goes on, possibly before bytes that have arrived already; what
 * follows on that carrier is unflagged. The receiver drops what it has, and whatever still arrives on carriers of older runs.
 *
 * Where both sides can (FEATURE.early), up to MAX_EARLY_BYTES of DATA, and END, or a few DATAGRAMs, may follow OPEN at once. No user
 * gets them before OPENED: REFUSED proves that nobody has read them.
 *
 * Payloads may grow at the end, up to the bound in FRAME_RULES (frame-decoder.ts); a reader skips what it does not know there. A frame
 * of an unknown type is an error before HELLO, and is skipped and counted afterwards (SEC-30).
 *
 * Hot path: no promise, no allocation for a header; guarded by test/bench/tunnel-micro.ts.
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
/** The only flag in use: a DATA frame with a position, an OPEN that is repeated. */
export const FLAGGED = 0x20
/** u16 run and u48 offset, at the start of a flagged DATA. */
export const POSITION_BYTES = 8
/** Also the bound of every length field. Larger: one frame holds up the carrier for longer; smaller: headers cost more. */
export const MAX_PAYLOAD = 64 * 1024
export const MAX_OPEN_BYTES = 1024
export const MAX_SIGNAL_BYTES = 2048
/** What one stream may send before OPENED. Larger: fewer long requests wait for a round trip; smaller: pending OPENs hold less memory. */
export const MAX_EARLY_BYTES = 16 * 1024
/** What UDP over IPv4 can carry: 65,535 less the IP and UDP headers (RFC 768, RFC 791). */
export const MAX_DATAGRAM = 65_507
/** What a peer may send before its HELLO is accepted. */
export const MAX_HELLO_BYTES = 4096
export const ACK_BYTES = 12

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

/** Where a run of DATA begins; 48 bits of offset are 280 TB of one stream. */
export function writePosition(out: Buffer, at: number, run: number, offset: number): void {
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
