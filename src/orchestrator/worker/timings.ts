import type { BackoffOptions } from '../../core/kit/backoff.ts'

export interface Timings {
  /** Between an instance's end and its next start. */
  backoff: BackoffOptions
  /** After running this long the backoff begins anew. */
  steadyMs: number
  /** A program that was ready and has not answered for this long hangs: it is started again. */
  hungMs: number
  /** The same for a program that has not been ready since its start, which may take long. */
  startMs: number
  /** From SIGTERM to SIGKILL. */
  graceMs: number
  /** How long instances that were lost with an earlier agent wait for the cluster's word before they are started again. */
  restoreMs: number
}

export const TIMINGS: Timings = {
  backoff: { firstMs: 250, limitMs: 60_000 },
  steadyMs: 60_000,
  hungMs: 60_000,
  startMs: 600_000,
  graceMs: 5_000,
  restoreMs: 3_000,
}
