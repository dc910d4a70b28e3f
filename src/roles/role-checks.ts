import type { CheckReport } from '../client/reports.ts'
import { explain } from '../core/errors.ts'
import { background } from '../core/kit/background.ts'
import { unwrittenFiles } from '../core/kit/kept-file.ts'
import { logOutput } from '../core/kit/console-output.ts'

/*
 * Checks that every role has in common.
 */

export type Check = CheckReport['checks'][number]

/** A certificate is renewed after two thirds of its life, so one that is nearly over has not been renewed for hours. */
const HOURS_LEFT = 1

export function certificateCheck(notAfter: Date, nowMs: number): Check {
  const hoursLeft = (notAfter.getTime() - nowMs) / 3_600_000
  return {
    check: 'certificate',
    ok: hoursLeft > HOURS_LEFT,
    finding: hoursLeft > 0 ? `valid for ${hoursLeft.toFixed(1)} hours; it is renewed automatically` : 'expired',
    remedy: 'It is renewed over the control link. If that is up and the clock is right, join again with a new token.',
  }
}

export function linkCheck(check: string, isUp: boolean): Check {
  return {
    check,
    ok: isUp,
    finding: isUp ? 'up' : 'down',
    remedy: 'Check that the other side runs and can be reached.',
  }
}

/** One check for each part of `/readyz`. */
export function readinessChecks(parts: Readonly<Record<string, boolean>>): Check[] {
  return Object.entries(parts).map(([check, ok]) => ({
    check,
    ok,
    finding: ok ? 'ready' : 'not ready',
    remedy: 'The log says why.',
  }))
}

export function logCheck(): Check {
  const { lost } = logOutput
  return {
    check: 'log',
    ok: lost === 0,
    finding: lost === 0 ? 'no line was lost' : `${lost} lines were lost since the start`,
    remedy: 'Whatever reads standard error has stopped reading, or its disk is full.',
  }
}

/** Copies of what is in memory that could not be written (`KeptFile`). */
export function filesCheck(): Check {
  const [first, ...more] = unwrittenFiles
  return {
    check: 'state files',
    ok: first === undefined,
    finding:
      first === undefined
        ? 'all written'
        : `${[first, ...more].map(([path]) => path).join(', ')}: ${explain(first[1])}`,
    remedy: 'Make room on the disk, or make it writable again; what is in memory is then written.',
  }
}

/** One check for each loop or task of this thread that has failed since it started. */
export function backgroundChecks(): Check[] {
  return background.failures().map(({ name, failures, lastError, secondsAgo, isFailing }) => ({
    check: `background task "${name}"`,
    ok: !isFailing,
    finding: `failed ${failures} times, last ${secondsAgo} s ago: ${explain(lastError)}; it was started again`,
    remedy: 'This is a bug in hedgerow: please report it with the log. `hedgerow restart` starts the agent afresh.',
  }))
}
