import type { NodeId } from '../../src/core/model/ids.ts'
import type { NodeReach } from '../../src/core/model/node.ts'
import type { PathKind, PathRule } from '../../src/core/model/path-rule.ts'

/**
 * Why an OPEN was refused; the index is what is sent, so new ones go last. After `not-allowed` and `bad-request` no other
 * instance is tried. `refused`: the instance's machine answered with RST, nobody listens; `unreachable`: nothing answered.
 */
export const REFUSALS = [
  'unreachable',
  'not-here',
  'draining',
  'overloaded',
  'timeout',
  'not-allowed',
  'bad-request',
  'refused',
  'path-forbidden',
] as const
export type Refusal = (typeof REFUSALS)[number]

/*
 * A session carries streams of bytes (TCP flows) and streams of datagrams (UDP flows). Both are opened alike; what an open one
 * reports to its user differs. Plain callbacks, because this is the hot path; they must not throw.
 *
 *   opener:    open() ─▶ opened | refused | reset
 *   both:      (data | datagram)* ─▶ end | reset       (each direction ends by itself: half-close)
 *
 * `refused` proves that the other side's user got nothing of what was written before; `reset` leaves that open.
 *
 * A chunk or payload is good only during the call, both ways: buffers that were read into are used again.
 */

/** The outcome of an open, for the side that asked. */
export interface OpeningEvents {
  opened(): void
  refused(refusal: Refusal): void
}

/** What every open stream reports. */
export interface StreamEvents {
  /** The other side sends no more. */
  end(): void
  /**
   * The stream is dead in both directions; nothing follows. `lost`: not by the other side's choice, but because no path to its node
   * came back, or the session ended.
   */
  reset(because?: 'lost'): void
}

/** What an open stream of bytes reports. */
export interface ByteStreamEvents extends StreamEvents {
  /** Call `consumed(chunk.length)` once it is passed on. */
  data(chunk: Buffer): void
  /** After a `write` that returned false: there is room again. */
  drain(): void
}

/** What an open stream of datagrams reports. */
export interface DatagramStreamEvents extends StreamEvents {
  /** A whole datagram; no credit is given back. */
  datagram(payload: Buffer): void
}

/** What can be done to any stream, also to a plain socket on the `local` path. */
export interface Stream {
  /** No more from this side; the other direction goes on. */
  end(): void
  /** Ends both directions as RST does. Safe to call at any time, also twice. */
  reset(): void
}

/** One TCP flow inside a session, or a plain TCP socket. */
export interface ByteStream extends Stream {
  /** Takes the chunk, and copies what it must keep; false asks the writer to stop until `drain`. */
  write(chunk: Buffer): boolean
  /** Gives credit back to the sender: flow control end to end. */
  consumed(bytes: number): void
}

/** One UDP flow inside a session, or a plain UDP socket. */
export interface DatagramStream extends Stream {
  /** Sends one datagram of at most 65,507 bytes, whole; false when it was dropped: the path is full, or the stream not open. */
  send(payload: Buffer): boolean
}

/** A stream that was asked for, until the peer has answered. */
export interface Withdrawable {
  /** Asks to be refused now, unless it was opened already; the answer comes as always. */
  withdraw(): void
}

/** A stream another node opened. Exactly one of `accept`, `acceptDatagrams` and `refuse` is called, at most `openTimeoutMs` later. */
export interface IncomingStream {
  readonly peer: NodeId
  readonly path: PathKind
  /** What `open` was given, at most 1,024 bytes; opaque to the tunnel. */
  readonly request: Buffer
  /** What the opener has sent already comes through `events` right after this has returned. */
  accept(events: ByteStreamEvents): ByteStream
  /** The same for a stream of datagrams; `request` says which of the two the opener wants. */
  acceptDatagrams(events: DatagramStreamEvents): DatagramStream
  /** Before `accept`: the carriers it may be on from now on; any without it. */
  restrictTo?(rule: PathRule): void
  refuse(refusal: Refusal): void
  /** Called when the opener gave up before `accept` or `refuse`. */
  onGone(listener: () => void): void
}

/** What a stream that is opened now would travel on. */
export interface Route {
  readonly path: PathKind
  /** The shortest of the last few round trips of this carrier, without what queued now and then; `undefined` until its first pong. */
  readonly rttMs: number | undefined
  /** What is written to a stream travels before it is opened: the first `MAX_EARLY_BYTES` of it. */
  readonly takesEarly: boolean
  /** How long the peer owes a sign of life here; 0 when it owes none. */
  readonly silentMs: number
}

/** Everything two agents share. */
export interface Session {
  readonly peer: NodeId
  /** The path new streams would take now. */
  readonly path: PathKind
  /** Smoothed round-trip time; `undefined` until the first pong. */
  readonly rttMs: number | undefined
  readonly streams: number
  /** What operators see of it. */
  report(): SessionReport
  /** For streams under this rule; `undefined`: no carrier is for them. */
  route(rule: PathRule): Route | undefined
  /**
   * Sends OPEN at once; the outcome comes through `events`. `request` is at most 1,024 bytes. Under `rule` the stream is only ever
   * on carriers that it allows, and waits where there is none.
   */
  open(request: Buffer, events: OpeningEvents & ByteStreamEvents, rule?: PathRule): ByteStream & Withdrawable
  /** The same for a stream of datagrams. */
  openDatagrams(
    request: Buffer,
    events: OpeningEvents & DatagramStreamEvents,
    rule?: PathRule,
  ): DatagramStream & Withdrawable
}

export interface SessionReport {
  /** The relay that new streams would go through. */
  relay: string | undefined
  /** The path of each carrier, also of those that take no new streams. */
  carrierPaths: PathKind[]
  /** The paths of carriers that exist only for streams whose rule asks for their path. */
  pinnedPaths: PathKind[]
  bytesIn: number
  bytesOut: number
  /** How datagrams go now: sealed, straight over UDP; in frames on a carrier; in frames because no UDP packet gets through. */
  datagrams: 'sealed' | 'frames' | 'blocked'
  /** The TLS cipher suite that new streams are encrypted with, as the standard names it; none in tests without TLS. */
  cipher: string | undefined
  /** What datagrams are sealed with, while they are. */
  sealedWith: string | undefined
}

/** All sessions of this node. */
export interface Peers extends AsyncDisposable {
  /**
   * The live session to a node, or one dialled now; concurrent calls share one dial. It has a carrier that `rule` allows.
   * @throws MeshError NO_PATH when every path failed or the signal aborted; PATH_FORBIDDEN when those did that `rule` allows.
   */
  session(node: NodeReach, signal: AbortSignal, rule?: PathRule): Promise<Session>
  /** The live session, if there is one, with a carrier that `rule` allows. */
  existing(node: NodeId, rule?: PathRule): Session | undefined
  all(): Iterable<Session>
  /** Round-trip time to a node, measured over whatever session exists or existed lately. */
  rttMs(node: NodeId): number | undefined
}
