import { frameInvalid } from './frame.ts'

/**
 * RESUME: the carriers the sender has lost, and how much it has received on each stream that was on them. The receiver closes
 * those carriers too, goes on sending from there, and answers with RESET for a stream it does not know.
 *
 *     0             2               4
 *     ┌─────────────┬───────────────┬─ carriers × ─┬─ streams × 12 ─────────────────────────────┬──
 *     │ carriers    │ streams       │ u16 number   │ u32 stream │ u16 flags │ u48 bytes received │ …
 *     └─────────────┴───────────────┴──────────────┴────────────────────────────────────────────┴──
 *                                                    flags: 1 = END received
 *
 * Thousands of streams take several frames. A side does not wait for the other's RESUME before it sends: it starts again at what
 * was acknowledged, and skips what RESUME reports as received.
 */
export interface Resume {
  /** Numbers of carriers (hello.ts). */
  lost: readonly number[]
  streams: readonly ResumedStream[]
}

export interface ResumedStream {
  stream: number
  received: number
  hasEnd: boolean
}

/** More go into another frame. Larger: one frame holds up the carrier for longer. */
export const STREAMS_PER_RESUME = 1_024
/** Lost carriers in one frame. */
export const CARRIERS_PER_RESUME = 32

const HEAD_BYTES = 4
const ENTRY_BYTES = 12

/** As many payloads as it takes; none when there is nothing to report. */
export function encodeResume({ lost, streams }: Resume): Buffer[] {
  const payloads: Buffer[] = []
  for (let from = 0; from < streams.length || (from === 0 && lost.length > 0); from += STREAMS_PER_RESUME) {
    payloads.push(
      encodeOne(from === 0 ? lost.slice(-CARRIERS_PER_RESUME) : [], streams.slice(from, from + STREAMS_PER_RESUME)),
    )
  }
  return payloads
}

function encodeOne(lost: readonly number[], streams: readonly ResumedStream[]): Buffer {
  const out = Buffer.alloc(HEAD_BYTES + lost.length * 2 + streams.length * ENTRY_BYTES)
  out.writeUInt16BE(lost.length, 0)
  out.writeUInt16BE(streams.length, 2)
  let at = HEAD_BYTES
  for (const number of lost) at = out.writeUInt16BE(number, at)
  for (const { stream, received, hasEnd } of streams) {
    out.writeUInt32BE(stream, at)
    out.writeUInt16BE(hasEnd ? 1 : 0, at + 4)
    out.writeUIntBE(received % 2 ** 48, at + 6, 6)
    at += ENTRY_BYTES
  }
  return out
}

/** @throws MeshError FRAME_INVALID when it is shorter than its counts say, or has more entries than allowed. */
export function decodeResume(payload: Buffer): Resume {
  const carriers = payload.readUInt16BE(0)
  const count = payload.readUInt16BE(2)
  if (carriers > CARRIERS_PER_RESUME || count > STREAMS_PER_RESUME) throw frameInvalid('a RESUME of too much')
  if (payload.length < HEAD_BYTES + carriers * 2 + count * ENTRY_BYTES) throw frameInvalid('a RESUME cut short')
  const lost = Array.from({ length: carriers }, (_, i) => payload.readUInt16BE(HEAD_BYTES + i * 2))
  const from = HEAD_BYTES + carriers * 2
  const streams = Array.from({ length: count }, (_, i) => {
    const at = from + i * ENTRY_BYTES
    return {
      stream: payload.readUInt32BE(at),
      hasEnd: (payload.readUInt16BE(at + 4) & 1) !== 0,
      received: payload.readUIntBE(at + 6, 6),
    }
  })
  return { lost, streams }
}
