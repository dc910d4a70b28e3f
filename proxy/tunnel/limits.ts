import type { NodeBudget } from './session/node-budget.ts'

/** What a peer may make us hold (SEC-18). */
export interface TunnelLimits {
  /** Streams a peer may have open in one session; more OPENs are refused as `overloaded`. */
  streams: number
  /** OPENs of one session that wait for an answer at the same time. */
  pendingOpens: number
  /** OPENs a second and session, with a burst of the same number; `undefined`: no limit. */
  opensPerSecond: number | undefined
  /** An OPEN that nobody answered by then is refused as `timeout`. */
  openTimeoutMs: number
  /** Received and not yet consumed, in one session; beyond it the stream that holds most is reset. */
  bufferedBytes: number
  /** The same over all sessions, shared by them; without it there is no such limit. */
  budget?: NodeBudget
  /** Sent and not yet acknowledged, or waiting to be sent, in one session; beyond it writers are asked to stop. */
  retainedBytes: number
  /** What a stream may send before its first ACK. */
  windowBytes: number
  /** Smaller and a long fat path is not filled; larger and a slow reader costs more memory. */
  maxWindowBytes: number
  /** By how much all windows of a session together may outgrow `windowBytes`. */
  windowGrowthBytes: number
  /** Of one session. */
  carriers: number
  /** How long streams wait for a carrier when all have died; past that they are reset. */
  resumeMs: number
  /** Connections that have not proven who they are, of all peers together. */
  unproven: number
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
