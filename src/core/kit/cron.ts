import { Cron } from 'croner'

/*
 * Schedules as in crontab(5), in UTC: five fields or a nickname such as `@daily`. Of croner only the arithmetic is
 * used, not its timers.
 */

const FIVE_FIELDS = /^\S+(\s+\S+){4}$/
const NICKNAME = /^@[a-z]+$/i
/** Looking for it takes a tenth of a millisecond, reading it too; many jobs have the same schedule. */
const MOST_KEPT = 1_000
const kept = new Map<string, Cron>()

/** What is wrong with it; `undefined` when it is a schedule. */
export function cronProblem(text: string): string | undefined {
  const trimmed = text.trim()
  if (!FIVE_FIELDS.test(trimmed) && !NICKNAME.test(trimmed)) {
    const fields = trimmed === '' ? 0 : trimmed.split(/\s+/).length
    return `has ${fields} ${fields === 1 ? 'field' : 'fields'} instead of five`
  }
  try {
    return nextDue(trimmed, Date.UTC(2024, 0)) === undefined ? 'is never due' : undefined
  } catch (error) {
    return error instanceof Error ? error.message.replace(/^CronPattern: /, '') : String(error)
  }
}

/** The first time later than `after`, both in milliseconds since 1970; `undefined` when there is none. */
export function nextDue(cron: string, after: number): number | undefined {
  return scheduleOf(cron).nextRun(new Date(after))?.getTime()
}

/** The last time later than `after` and not later than `until`. Found by halving, however many there are in between. */
export function lastDue(cron: string, after: number, until: number): number | undefined {
  const first = nextDue(cron, after)
  if (first === undefined || first > until) return undefined
  let known = first
  for (let low = first, high = until; low < high; ) {
    const middle = Math.floor((low + high) / 2)
    const next = nextDue(cron, middle)
    if (next === undefined || next > until) high = middle
    else low = known = next
  }
  return known
}

function scheduleOf(cron: string): Cron {
  const known = kept.get(cron)
  if (known !== undefined) return known
  const schedule = new Cron(cron, { timezone: 'UTC', mode: '5-part', paused: true })
  kept.set(cron, schedule)
  const [oldest] = kept.keys()
  if (kept.size > MOST_KEPT && oldest !== undefined) kept.delete(oldest)
  return schedule
}
