import { request, type Agent } from 'node:https'
import { MeshError } from '../errors.ts'
import { differenceText } from './renewal.ts'

/** Clocks that differ by less are not the cause of a refused certificate: those are dated back by an hour. */
const SKEW_MS = 30 * 60_000
const PROBE_MS = 3_000
const CODES: ReadonlySet<unknown> = new Set(['CERT_NOT_YET_VALID', 'CERT_HAS_EXPIRED'])

/** True when TLS refused a certificate because of its dates: one of the two clocks may be wrong. */
export function isAboutDates(error: unknown): boolean {
  for (let cause = error; cause instanceof Error; cause = cause.cause) {
    if (CODES.has((cause as NodeJS.ErrnoException).code)) return true
  }
  return false
}

/**
 * Names the clock when it is the cause: `error` itself unless it is about dates and the clocks differ. The server's clock is read
 * from the `Date` of an answer that proves nothing, so it is only good for a message.
 */
export async function nameClock(error: unknown, url: string, egress: Agent | undefined): Promise<unknown> {
  if (!isAboutDates(error)) return error
  const aheadMs = await clockDifferenceMs(url, egress)
  if (aheadMs === undefined || Math.abs(aheadMs) < SKEW_MS) return error
  return new MeshError(
    'CLOCK_SKEW',
    { difference: differenceText(aheadMs), of: url, remedy: 'Set the clock of this machine, then try again.' },
    { cause: error },
  )
}

/** How far our clock is ahead of the server's, in milliseconds; `undefined` when it does not say. */
function clockDifferenceMs(url: string, egress: Agent | undefined): Promise<number | undefined> {
  return new Promise((resolve) => {
    const asking = request(
      new URL('/healthz', url),
      { rejectUnauthorized: false, agent: egress ?? false, signal: AbortSignal.timeout(PROBE_MS) },
      ({ headers }) => {
        const theirs = Date.parse(headers.date ?? '')
        resolve(Number.isNaN(theirs) ? undefined : Date.now() - theirs)
        asking.destroy()
      },
    )
    asking.on('error', () => resolve(undefined))
    asking.end()
  })
}
