import type { Route } from '../tunnel/contract.ts'

/** On shorter paths a saved round trip is not noticed, and reading the caller twice costs more. */
export const EARLY_DATA_MIN_RTT_MS = 10
/**
 * An answer is overdue after one and a half round trips and this. Smaller: every stall of an event loop costs a flow its
 * saved round trip; larger: more first bytes are sent to a node that is dead.
 */
const GRACE_MS = 50
/** Assumed while the round trip is not known yet. */
const USUAL_RTT_MS = 100

/** Whether the caller's first bytes go along with OPEN: the peer is far enough, and no answer of it is overdue on the way they would take. */
export function maySendEarly({ takesEarly, silentMs, rttMs }: Omit<Route, 'path'>): boolean {
  if (!takesEarly || (rttMs !== undefined && rttMs < EARLY_DATA_MIN_RTT_MS)) return false
  return silentMs <= 1.5 * (rttMs ?? USUAL_RTT_MS) + GRACE_MS
}
