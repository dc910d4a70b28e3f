import { isMeshError } from '../../src/core/errors.ts'
import type { IncomingStream } from '../../proxy/tunnel/contract.ts'
import { FLAGGED, FRAME, HEADER_BYTES, POSITION_BYTES, writeCount, writeHeader } from '../../proxy/tunnel/wire/frame.ts'
import { encodeResume } from '../../proxy/tunnel/wire/resume.ts'
import { ALL, MuxPair, type SideOptions } from './mux-pair.ts'

/** What a hostile peer does to the frames that an honest one would send. */
export type Tampering = 'flip a bit' | 'repeat' | 'swap' | 'drop' | 'cut short' | 'insert an older frame'
export const TAMPERINGS: readonly Tampering[] = [
  'flip a bit',
  'repeat',
  'swap',
  'drop',
  'cut short',
  'insert an older frame',
]

/**
 * A peer with a valid certificate that breaks the rules. The node under test is `pair.near`; the hostile peer writes any bytes on its
 * carrier, reads as much of the answers as it likes, or tampers with what the honest `pair.far` sends.
 */
export class HostilePeer {
  readonly pair: MuxPair
  /** Why the node under test has ended the session. */
  cutBecause: string | undefined
  readonly #seen: Buffer[] = []

  constructor(victim: SideOptions = {}, honest: SideOptions = {}) {
    this.pair = new MuxPair({ features: ALL, ...victim }, { features: ALL, ...honest })
  }

  /** The node's end of the carrier. */
  get carrier() {
    return this.pair.links[0]!.near
  }

  /** Writes these bytes on the carrier; anything the node throws but FRAME_INVALID is a bug. */
  send(...frames: Buffer[]): void {
    for (const frame of frames) {
      if (this.cutBecause !== undefined) return
      try {
        this.carrier.receive(frame)
      } catch (error) {
        if (!isMeshError(error, 'FRAME_INVALID')) throw error
        this.cutBecause = String(error.details['reason'])
        this.pair.near.end() // as TunnelSession does
      }
    }
  }

  /** Reads what the node has sent, as frames; a peer that never calls it stalls. */
  read(): Buffer[] {
    return framesOf(drain(this.carrier))
  }

  /** Passes the node's frames to the honest peer, and the honest peer's to the node, after this was done to one of them. */
  relay(tampering: Tampering | undefined, which: number): void {
    const honest = this.pair.links[0]!.far
    for (const frame of this.read()) {
      try {
        honest.receive(frame)
      } catch (error) {
        if (!isMeshError(error, 'FRAME_INVALID')) throw error
        return // the honest peer has ended the session
      }
    }
    const frames = framesOf(drain(honest))
    this.#seen.push(...frames.slice(0, 100))
    this.send(...tamper(frames, tampering, { which, seen: this.#seen }))
  }
}

interface Tampered {
  which: number
  seen: readonly Buffer[]
}

function tamper(frames: Buffer[], how: Tampering | undefined, { which, seen }: Tampered): Buffer[] {
  if (how === undefined || frames.length === 0) return frames
  const at = which % frames.length
  const frame = frames[at]!
  const others = [frames.slice(0, at), frames.slice(at + 1)] as const
  switch (how) {
    case 'flip a bit': {
      const flipped = Buffer.from(frame)
      flipped[(which >>> 3) % frame.length]! ^= 1 << (which & 7)
      return [...others[0], flipped, ...others[1]]
    }
    case 'repeat':
      return [...others[0], frame, frame, ...others[1]]
    case 'swap':
      return [...others[1], frame, ...others[0]]
    case 'drop':
      return [...others[0], ...others[1]]
    case 'cut short':
      return [...others[0], frame.subarray(0, (which >>> 3) % frame.length), ...others[1]]
    case 'insert an older frame':
      return [...others[0], seen[which % seen.length]!, frame, ...others[1]]
    default:
      return how satisfies never
  }
}

function drain({ outbox }: { outbox: { fill(out: Buffer): number } }): Buffer {
  const out = Buffer.alloc(1 << 20)
  return out.subarray(0, outbox.fill(out))
}

function framesOf(bytes: Buffer): Buffer[] {
  const frames: Buffer[] = []
  for (let at = 0; at + HEADER_BYTES <= bytes.length; ) {
    const end = at + HEADER_BYTES + bytes.readUIntBE(at + 1, 3)
    frames.push(bytes.subarray(at, end))
    at = end
  }
  return frames
}

export function frame(type: number, stream: number, payload: Buffer | string = ''): Buffer {
  const body = Buffer.from(payload)
  const out = Buffer.alloc(HEADER_BYTES + body.length)
  writeHeader(out, 0, type, stream, body.length)
  body.copy(out, HEADER_BYTES)
  return out
}

export function ackFrame(stream: number, count: number, windowBytes = 1 << 18): Buffer {
  const body = Buffer.alloc(12)
  writeCount(body, 0, count)
  body.writeUInt32BE(windowBytes, 8)
  return frame(FRAME.ACK, stream, body)
}

/** DATA that begins a run. */
export function positionedData(stream: number, { run, offset }: { run: number; offset: number }, bytes = ''): Buffer {
  const body = Buffer.alloc(POSITION_BYTES + bytes.length)
  body.writeUInt16BE(run, 0)
  body.writeUIntBE(offset, 2, 6)
  body.write(bytes, POSITION_BYTES)
  return frame(FRAME.DATA | FLAGGED, stream, body)
}

export function resumeFrame(streams: readonly { stream: number; received: number; hasEnd?: boolean }[]): Buffer {
  const entries = streams.map((entry) => ({ hasEnd: false, ...entry }))
  return Buffer.concat(encodeResume({ lost: [], streams: entries }).map((payload) => frame(FRAME.RESUME, 0, payload)))
}

/** Takes every stream and reads nothing. */
export function acceptUnread(incoming: IncomingStream): void {
  const nothing = () => undefined
  incoming.accept({ data: nothing, end: nothing, drain: nothing, reset: nothing })
}
