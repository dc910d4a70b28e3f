import { FRAME, HEADER_BYTES, frameInvalid, writeHeader } from './frame.ts'

/**
 * The first frame on a carrier, in each direction. The dialling side proposes a session, the accepting side answers with the
 * one it will be (agree.ts). Who the peer is was settled before, by the certificate; nothing here says it.
 *
 *     0        1         2            4              8            12              20           36
 *     ┌────────┬─────────┬────────────┬──────────────┬────────────┬───────────────┬────────────┬───
 *     │version │ 0       │ carrier no.│ window (u32) │ features   │ incarnation   │ session id │ …
 *     └────────┴─────────┴────────────┴──────────────┴────────────┴───────────────┴────────────┴───
 */
export interface Hello {
  version: number
  /** Numbers of one session's carriers differ; the answer repeats the dialler's. */
  carrier: number
  /** What the other side may send on each new stream before the first ACK. */
  windowBytes: number
  /** One bit for each addition, see FEATURE; both must have it for it to be used. */
  features: number
  /** 16 hex digits, drawn when the process starts: another one means that the peer has forgotten every session. */
  incarnation: string
  /** 32 hex digits. */
  session: string
}

export const PROTOCOL_VERSION = 1
/** `resume`: streams outlive their carrier, and END is acknowledged; `sealed`: SEALED frames are understood;
 * `signals`: so are SIGNAL frames; `instead`: said of a carrier that shall carry what those on better paths carry, which are bad now;
 * `beside`: this process takes over from another of its node, which runs still and finishes its flows;
 * `early`: DATA and END may follow OPEN before OPENED has come, and WITHDRAW is understood;
 * `aside`: said of a carrier for streams whose rule asks for its path, which stands beside those on better ones. */
export const FEATURE = { resume: 1, sealed: 2, beside: 4, signals: 8, instead: 16, early: 32, aside: 64 } as const
/**
 * What a peer keeps that says so in TLS already (identity/peer-tls.ts, `hedgerow/2`), and what is counted on until its HELLO has come: so
 * that streams can be opened right behind ours. The least window there is; it grows with the answer.
 */
export const PROMISED = { windowBytes: 1024, features: FEATURE.resume | FEATURE.early } as const
const HELLO_BYTES = 36
/** A peer that offers less would make every stream crawl; one that offers more is taken at its word. */
const LEAST_WINDOW = PROMISED.windowBytes

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

/** Stands for the answer to a proposal until it has come; no process has this incarnation. */
export function presumedAnswer(proposal: Hello): Hello {
  return { ...proposal, ...PROMISED, incarnation: UNKNOWN_INCARNATION }
}

export const UNKNOWN_INCARNATION = ''

/** @throws MeshError FRAME_INVALID when a peer has promised what it does not keep */
export function checkPromise({ features }: Hello): void {
  if ((features & PROMISED.features) !== PROMISED.features) throw frameInvalid('a promise that is not kept')
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
  // a later version speaks ours too when it dials us: the lower of the two holds
  if (hello.version < PROTOCOL_VERSION) throw frameInvalid('no shared protocol version', { version: hello.version })
  if (hello.windowBytes < LEAST_WINDOW) throw frameInvalid('a window too small to use', { window: hello.windowBytes })
  return hello
}
