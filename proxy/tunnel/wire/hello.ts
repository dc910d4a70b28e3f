import { FRAME, HEADER_BYTES, frameInvalid, writeHeader } from './frame.ts'

/**
 * The first frame on a carrier, in each direction. The dialling side proposes a session; the accepting side answers with the
 * session the carrier joins (session/agreement.ts). The certificate has proven before who the peer is; HELLO does not repeat it.
 *
 *     0        1         2            4              8            12              20           36
 *     ┌────────┬─────────┬────────────┬──────────────┬────────────┬───────────────┬────────────┬───
 *     │version │ 0       │ carrier no.│ window (u32) │ features   │ incarnation   │ session id │ …
 *     └────────┴─────────┴────────────┴──────────────┴────────────┴───────────────┴────────────┴───
 */
export interface Hello {
  version: number
  /** Unique within the session; the answer repeats the dialler's. */
  carrier: number
  /** What the receiver of this HELLO may send on each new stream before its first ACK. */
  windowBytes: number
  /** One bit per feature (FEATURE); a feature is used when both sides have it. */
  features: number
  /** 16 hex digits, random for each process: when it changes, the peer has forgotten every session. */
  incarnation: string
  /** 32 hex digits. */
  session: string
}

export const PROTOCOL_VERSION = 1
/**
 * What the sender can do, or what this carrier is for.
 *
 *     resume   streams outlive their carrier, and END is acknowledged
 *     sealed   SEALED frames are understood
 *     beside   this process takes over from another one of its node, which still runs and finishes its flows
 *     signals  SIGNAL frames are understood
 *     instead  of this carrier: it replaces those on better paths, which work badly now
 *     early    DATA and END may follow OPEN before OPENED, and WITHDRAW is understood
 *     pinned   of this carrier: it is for streams whose path rule asks for its path, beside those on better paths
 *     leaving  this process only finishes the flows it has, beside its successor: it begins no session, and ends none
 *     chacha20 sealed packets may be under ChaCha20-Poly1305 (sealed/aead.ts)
 */
export const FEATURE = {
  resume: 1,
  sealed: 2,
  beside: 4,
  signals: 8,
  instead: 16,
  early: 32,
  pinned: 64,
  leaving: 128,
  chacha20: 256,
} as const
/**
 * What a peer guarantees by choosing `hedgerow/2` in TLS (identity/peer-tls.ts). It is assumed until the peer's HELLO has come, so
 * that OPEN can follow our HELLO at once. The window is the smallest allowed, and grows with the answer.
 */
export const PROMISED = { windowBytes: 1024, features: FEATURE.resume | FEATURE.early } as const
const HELLO_BYTES = 36
/** A peer that offers less would make every stream crawl. */
const MIN_WINDOW_BYTES = PROMISED.windowBytes

export function encodeHello(hello: Hello): Buffer {
  const out = Buffer.alloc(HEADER_BYTES + HELLO_BYTES)
  writeHeader(out, 0, FRAME.HELLO, 0, HELLO_BYTES)
  out.writeUInt8(hello.version, 8)
  out.writeUInt16BE(hello.carrier & 0xffff, 10)
  out.writeUInt32BE(hello.windowBytes, 12)
  out.writeUInt32BE(hello.features, 16)
  out.write(hello.incarnation, 20, 8, 'hex')
  out.write(hello.session, 28, 16, 'hex')
  return out
}

/** What is assumed of the answer to a proposal until it has come. */
export function presumedAnswer(proposal: Hello): Hello {
  return { ...proposal, ...PROMISED, incarnation: UNKNOWN_INCARNATION }
}

/** No process has it. */
export const UNKNOWN_INCARNATION = ''

/** @throws MeshError FRAME_INVALID when a peer chose `hedgerow/2` and lacks a feature that comes with it. */
export function checkPromise({ features }: Hello): void {
  if ((features & PROMISED.features) !== PROMISED.features)
    throw frameInvalid('the peer lacks a feature that its TLS protocol requires')
}

/** @throws MeshError FRAME_INVALID when no version is shared or the window is too small. */
export function decodeHello(payload: Buffer): Hello {
  const hello: Hello = {
    version: payload.readUInt8(0),
    carrier: payload.readUInt16BE(2),
    windowBytes: payload.readUInt32BE(4),
    features: payload.readUInt32BE(8),
    incarnation: payload.toString('hex', 12, 20),
    session: payload.toString('hex', 20, 36),
  }
  // a later version understands ours as well: the lower of the two is used
  if (hello.version < PROTOCOL_VERSION) throw frameInvalid('no shared protocol version', { version: hello.version })
  if (hello.windowBytes < MIN_WINDOW_BYTES)
    throw frameInvalid('a window too small to use', { window: hello.windowBytes })
  return hello
}
