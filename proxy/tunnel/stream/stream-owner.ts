import type { TunnelLimits } from '../limits.ts'
import type { MuxStream } from './mux-stream.ts'
import type { Receiver } from './receiver.ts'
import type { Sender } from './sender.ts'
import type { SealedLink } from '../sealed/contract.ts'

/** What a stream needs of its session. */
export interface StreamOwner {
  readonly limits: TunnelLimits
  /** The current round trip of the path. */
  readonly recentRttMs: number | undefined
  /** Carries datagrams if it can; otherwise they go in frames. */
  readonly sealed: SealedLink | undefined
  /** Streams outlive their carriers, so what was sent is kept until it is acknowledged. */
  readonly isResumable: boolean
  /** Too much is kept over all streams, so that a writer of which this much is kept must stop. */
  isFullFor(kept: number): boolean
  now(): number
  /** More bytes are received and not yet consumed, or fewer (negative). */
  changeHeld(bytes: number): void
  /** More bytes are kept for sending, or fewer (negative). */
  changeKept(bytes: number): void
  /** `unblock` is to be called once the session has room again. */
  waitForRoom(sender: Sender): void
  /** An ACK is due within a tick. */
  oweAck(receiver: Receiver): void
  /** Many bytes were acknowledged, either way: the stream may be bulk. */
  watch(stream: MuxStream): void
  /** Whether the window of a stream may grow by this much. */
  mayGrow(bytes: number): boolean
  /** The window of a stream has grown by this much, or shrunk (negative). */
  changeGrown(bytes: number): void
  /** Both directions have ended; only acknowledgements are awaited. */
  startedLingering(stream: MuxStream): void
  /** RESET was sent, and must reach the peer even if the carrier dies first. */
  sentReset(stream: MuxStream): void
  freed(stream: MuxStream): void
}
