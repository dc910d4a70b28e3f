import type { Samples } from './load.ts'

/** What the client saw of one fault. Pure; `run.ts` measures and `main.ts` prints. */

/** What must be kept; the shape of the field `goal` of `--json`. */
export type Goal = 'failed = 0' | 'failed <= 1' | 'gap <= 1000 ms' | 'told'

/** One line of `--json`. */
export interface FailureRow {
  fault: string
  requests: number
  failed: number
  /** The longest time in which no answer came. */
  longestGapMs: number
  /** From the fault until the last request was over that failed or had to wait; 0 when none did. */
  recoveredMs: number
  goal: Goal
  ok: boolean
}

/** A request that took longer has noticed something. Smaller: a busy machine counts as a fault; larger: a retry is not seen. */
export const NOTICED_MS = 250
const GAP_MS = 1_000

export interface Struck {
  fault: string
  goal: Goal
  /** When, by the clock of the samples. */
  at: number
  samples: Samples
}

export function rowOf({ fault, goal, at, samples }: Struck): FailureRow {
  const { requests } = samples
  const failed = requests.filter(([, , what]) => what < 0).length
  const noticed = requests.filter(([sentAt, took, what]) => sentAt + took >= at && (what < 0 || took > NOTICED_MS))
  const overAt = Math.max(at, ...noticed.map(([sentAt, took]) => sentAt + took))
  const row = { fault, requests: requests.length, failed, longestGapMs: longestGapMs(samples) }
  return { ...row, recoveredMs: Math.round(overAt - at), goal, ok: isReached(goal, row) }
}

/** From the first request to the end of the last. */
export function longestGapMs({ requests }: Samples): number {
  const [first] = requests
  if (first === undefined) return 0
  const answeredAt = requests.filter(([, , what]) => what >= 0).map(([sentAt, took]) => sentAt + took)
  const endAt = Math.max(...requests.map(([sentAt]) => sentAt))
  const times = [first[0], ...answeredAt.toSorted((a, b) => a - b), endAt]
  return Math.round(Math.max(...times.slice(1).map((time, i) => time - (times[i] as number))))
}

/** A row without a single request says nothing. */
export function isReached(goal: Goal, row: Pick<FailureRow, 'requests' | 'failed' | 'longestGapMs'>): boolean {
  if (row.requests === 0) return false
  switch (goal) {
    case 'failed = 0':
      return row.failed === 0
    case 'failed <= 1':
      return row.failed <= 1
    case 'gap <= 1000 ms':
      return row.longestGapMs <= GAP_MS
    case 'told':
      return true
    default:
      return goal satisfies never
  }
}

/** The client itself was kept from sending for longer: what it saw says nothing. Larger: pauses of the machine count as ours. */
const STOOD_STILL_MS = 150

/** Why what the client saw is not about the fault: other programs, or the host of a virtual machine, took the processors. */
export function disturbance({ at, samples: { requests, stoodStillMs } }: Struck): string | undefined {
  if (stoodStillMs > STOOD_STILL_MS) return `the client itself stood still for ${Math.round(stoodStillMs)} ms`
  const early = requests.filter(([sentAt, took, what]) => sentAt < at - NOTICED_MS && (what < 0 || took > NOTICED_MS))
  return early.length === 0 ? undefined : `${early.length} requests failed or were late before the fault`
}

/** Why requests failed and when they were sent, and who answered before and after, in a line. */
export function noteOf(struck: Struck): string {
  const { at, samples } = struck
  const { requests, errors, answers } = samples
  const counts = errors.map((error, i) => {
    const sent = requests.flatMap(([sentAt, , what]) => (what === -1 - i ? [Math.round(sentAt - at)] : []))
    return `${sent.length} × ${error} (sent ${[...new Set([sent[0], sent.at(-1)])].join(' to ')} ms after the fault)`
  })
  const seen = (isBefore: boolean) =>
    new Set(requests.flatMap(([sentAt, , what]) => (what >= 0 && sentAt < at === isBefore ? [answers[what]] : []))).size
  const why = disturbance(struck)
  const all = [`answered by ${seen(true)} processes before and ${seen(false)} after`, ...counts]
  return [...all, ...(why === undefined ? [] : [why])].join(', ')
}

/** Lines for people. */
export function tableOf(rows: readonly FailureRow[]): string[] {
  const head = ['fault', 'requests', 'failed', 'longest gap', 'recovered', 'goal', '']
  const cells = rows.map((row) => [
    row.fault,
    String(row.requests),
    String(row.failed),
    `${row.longestGapMs} ms`,
    row.recoveredMs === 0 ? 'not noticed' : `${row.recoveredMs} ms`,
    row.goal,
    row.ok ? '' : 'NOT REACHED',
  ])
  const all = [head, ...cells]
  const widths = head.map((_, column) => Math.max(...all.map((line) => (line[column] as string).length)))
  const isFigure = (column: number) => column >= 1 && column <= 4
  return all.map((line) =>
    line
      .map((cell, i) => (isFigure(i) ? cell.padStart(widths[i] as number) : cell.padEnd(widths[i] as number)))
      .join('  ')
      .trimEnd(),
  )
}
