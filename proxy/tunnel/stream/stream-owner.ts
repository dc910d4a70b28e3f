import type { TunnelLimits } from '../limits.ts'
import type { MuxStream } from './mux-stream.ts'
import type { Receiver } from './receiver.ts'
import type { Sender } from './sender.ts'
import type { SealedLink } from '../sealed/contract.ts'

/** The session a stream belongs to, as the stream sees it. */
export interface StreamOwner {
  readonly limits: TunnelLimits
  /** The path's, as it is now. */
  readonly recentRttMs: number | undefined
  /** Asked first where datagrams are to go. */
  readonly sealed: SealedLink | undefined
  /** Streams outlive their carriers: what was sent is kept until it is acknowledged. */
  readonly isResumable: boolean
  /** So much is kept, over all streams, that a writer of whom so much is kept is asked to stop. */
  isFullFor(kept: number): boolean
  now(): number
  /** Bytes that were received and not yet consumed: more (positive) or fewer. */
  changeHeld(bytes: number): void
  /** Bytes kept for sending: more or fewer. */
  changeKept(bytes: number): void
  /** `unblock` is to be called once the session has room again. */
  waitForRoom(sender: Sender): void
  /** An ACK is due within a tick. */
  oweAck(receiver: Receiver): void
  /** Many bytes were acknowledged, either way, since it was weighed last. */
  watch(stream: MuxStream): void
  /** May a stream's window grow by so much? */
  mayGrow(bytes: number): boolean
  /** A stream's window has grown by so much (or shrunk: negative). */
  changeGrown(bytes: number): void
  /** Both directions have ended; only acknowledgements are under way. */
  startedLingering(stream: MuxStream): void
  /** The peer must hear that the stream is dead, also when the carrier dies first. */
  sentReset(stream: MuxStream): void
  freed(stream: MuxStream): void
}
