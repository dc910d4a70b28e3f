/** What waits alike wakes within the same one of these. Smaller: more wake-ups of an idle process; larger: more to do in one turn. */
const STEP_MS = 250

/**
 * How long to sleep to wake `ms` from now, half a step earlier or later: together with all else that sleeps in steps, so that hundreds of
 * checks wake an idle process four times a second and not each by itself. What is shorter than a step is left as it is.
 */
export function inStep(nowMs: number, ms: number): number {
  if (ms < STEP_MS) return ms
  return Math.ceil(Math.round((nowMs + ms) / STEP_MS) * STEP_MS - nowMs)
}
