import { lastDue, nextDue } from '../../../core/kit/cron.ts'
import type { ScheduleSpec } from '../../spec.ts'
import { MOST_AT_ONCE } from './slots.ts'

/*
 * When a job with a schedule runs. All times are of the wall clock, in milliseconds since 1970.
 *
 *     ──┬───────┬───────┬──────▶         after: what is due up to here has been decided, also before a restart of the root
 *     after    due     due  now          the last of several is decided, the earlier ones were missed
 *
 * A clock that is set forward starts one run, not one for each due time that it jumped over. One that is set back starts none twice:
 * nothing is due until it has come back to `after`. Only if that is further away than SET_BACK_MS the clock was wrong before.
 */

/** Smaller runs a job twice whose clock is set back; larger keeps it from running for that long after a clock was far ahead. */
const SET_BACK_MS = 86_400_000
/** More missed ones are not counted. */
const MOST_MISSED = 100

const MANY = `${MOST_AT_ONCE} runs have not ended (concurrency: allow)`

export interface DueFacts {
  now: number
  after: number
  /** A run has not ended, or not begun; where runs may overlap: as many as there may be. */
  isBusy: boolean
}

export type Decision =
  | { kind: 'wait'; nextAt: number | undefined }
  /** The clock was far ahead: the schedule begins anew. */
  | { kind: 'anew' }
  | { kind: 'run'; due: number; missed: number }
  | { kind: 'skip'; due: number; missed: number; why: string }

export function decideDue(schedule: ScheduleSpec, { now, after, isBusy }: DueFacts): Decision {
  const { cron, concurrency, startWithinSeconds } = schedule
  if (after - now > SET_BACK_MS) return { kind: 'anew' }
  const due = lastDue(cron, after, now)
  if (due === undefined) return { kind: 'wait', nextAt: nextDue(cron, Math.max(after, now)) }
  const missed = missedBefore(cron, after, due)
  if (isBusy && concurrency !== 'replace')
    return {
      kind: 'skip',
      due,
      missed,
      why: concurrency === 'allow' ? MANY : 'the run before has not ended (concurrency: forbid)',
    }
  const isLate = startWithinSeconds !== undefined && now - due > startWithinSeconds * 1_000
  if (isLate) return { kind: 'skip', due, missed, why: `it is later than start_within_seconds (${startWithinSeconds})` }
  return { kind: 'run', due, missed }
}

function missedBefore(cron: string, after: number, due: number): number {
  let missed = 0
  for (let at = nextDue(cron, after); at !== undefined && at < due && missed < MOST_MISSED; at = nextDue(cron, at))
    missed += 1
  return missed
}

/** `scheduled for 2026-11-30T03:00:00Z; 2 earlier ones were missed` */
export function dueText(due: number, missed: number): string {
  const at = `scheduled for ${new Date(due).toISOString().replace('.000', '')}`
  if (missed === 0) return at
  const count = missed >= MOST_MISSED ? `${MOST_MISSED} or more` : `${missed}`
  return `${at}; ${count} earlier ${missed === 1 ? 'one was' : 'ones were'} missed`
}
