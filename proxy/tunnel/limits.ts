import type { NodeBudget } from './node-budget.ts'

/** What a peer may make us hold (SEC-18). */
export interface TunnelLimits {
  /** Open streams that a peer has opened, per session; further OPENs are refused as `overloaded`. */
  streams: number
  /** OPENs that wait for an answer at the same time, per session. */
  pendingOpens: number
  /**
   * OPENs per second and session, with a burst of the same number; more are refused, and after as many refusals the peer is read
   * more slowly. `undefined`: no limit.
   */
  opensPerSecond: number | undefined
  /** An OPEN that is not answered within this time is refused as `timeout`. */
  openTimeoutMs: number
  /** Bytes received and not yet consumed, per session; above it the stream that holds most is reset. */
  bufferedBytes: number
  /** The same over all sessions, which share it; without it there is no such limit. */
  budget?: NodeBudget
  /** Bytes not acknowledged or not sent, per session; above it writers are asked to stop. */
  retainedBytes: number
  /** What a stream may send before its first ACK. */
  windowBytes: number
  /** The largest window of a stream. Smaller: a long fat path is not filled; larger: a slow reader costs more memory. */
  maxWindowBytes: number
  /** By how much all windows of a session together may exceed `windowBytes` each. */
  windowGrowthBytes: number
  /** Carriers per session. */
  carriers: number
  /** How long streams wait for a carrier when all have died; then they are reset. */
  resumeMs: number
  /** Connections that have not proven their identity yet, of all peers together. */
  unproven: number
  /** Peers dialled at the same time. */
  dials: number
}

const MIB = 1024 * 1024

export const TUNNEL_LIMITS: TunnelLimits = {
  streams: 16_384,
  pendingOpens: 1_024,
  opensPerSecond: undefined,
  openTimeoutMs: 5_000,
  bufferedBytes: 256 * MIB,
  retainedBytes: 64 * MIB,
  windowBytes: 256 * 1024,
  maxWindowBytes: 16 * MIB,
  windowGrowthBytes: 64 * MIB,
  carriers: 8,
  resumeMs: 10_000,
  unproven: 256,
  dials: 32,
}
