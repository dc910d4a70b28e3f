import { Backoff } from '../kit/backoff.ts'
import type { Clock } from '../kit/clock.ts'
import { silentLog, type Log } from '../kit/log.ts'

/** Asks the issuer for a certificate; resolves to the chain, PEM. */
export type Renew = (csrPem: string, signal: AbortSignal) => Promise<string>

export interface RenewOptions {
  renew: Renew
  log?: Log
  random?: () => number
}

/** What is renewed: a certificate's life, and the step that replaces it. */
export interface Renewable {
  readonly notBefore: Date
  readonly notAfter: Date
  renewOnce(renew: Renew, signal: AbortSignal): Promise<void>
  /** Aborts when the issuer asks for a renewal; a renewal replaces it. */
  readonly hurry?: AbortSignal
  /** Writes what is not on disk yet. */
  save(): Promise<void>
}

/** Renewed after this part of its life: a third remains to reach an issuer that is down. */
const RENEW_AT = 2 / 3
/** ± this part of the life, so that nodes that joined together do not renew together. */
const JITTER = 1 / 20
/** Sleeps are cut so that a suspended machine or a stepped clock is noticed. */
const NAP_MS = 10 * 60_000
/** Between two renewals, whatever they bring: a clock that is wrong makes each new certificate look old. */
const LEAST_MS = 60_000
const RETRY = { firstMs: 5_000, limitMs: 15 * 60_000 }
/** Between two tries once the certificate has expired: without one the node is alone. */
const RETRY_EXPIRED_MS = 20_000
/** What an issuer asks for is spread over this time: all of its members are asked at once. */
const HURRY_MS = 5_000
/** Issuers date a certificate back by an hour (x509.ts). */
const DATED_BACK_MS = 3_600_000
/** Clocks that differ by less are nobody's concern. */
const SKEW_MS = 5 * 60_000

/**
 * Renews at two thirds of the certificate's life, then with backoff until it works. Waits are monotonic: a clock that steps only
 * changes what is read from it at the next look, at most ten minutes later.
 *
 *     due = the clock says so (from the certificate)  or  two thirds of the life have passed since this process got it
 *
 * An issuer may ask for a renewal before (`hurry`), because an authority is being replaced.
 *
 * Where a new certificate is not valid by our clock, ours or the issuer's is wrong. That is said once, with the difference, and
 * only elapsed time counts for that certificate.
 */
export async function renewUntil(
  subject: Renewable,
  { renew, log = silentLog, random = Math.random }: RenewOptions,
  clock: Clock,
  signal: AbortSignal,
): Promise<void> {
  const retry = new Backoff({ ...RETRY, random })
  let due = new Due(subject, clock, random)
  let isSkewReported = false
  while (!signal.aborted) {
    const waitMs = due.inMs()
    const { hurry } = subject
    if (waitMs > 0 && hurry?.aborted !== true) {
      await subject.save().catch(() => undefined) // said when it failed first
      await clock.sleep(Math.min(waitMs, NAP_MS), hurry === undefined ? signal : AbortSignal.any([signal, hurry]))
      if (subject.hurry?.aborted === true) await clock.sleep(random() * HURRY_MS, signal)
      continue
    }
    try {
      const before = subject.notAfter
      await subject.renewOnce(renew, signal).catch((error: unknown) => {
        if (subject.notAfter === before) throw error
        log.error('the renewed certificate cannot be saved', { error })
      })
      retry.reset()
      due = new Due(subject, clock, random, 'fresh')
      log.info('certificate renewed', { until: subject.notAfter })
      if (due.skewMs !== 0 && !isSkewReported) {
        isSkewReported = true
        log.warn('the clock of this machine differs from the issuer’s', { difference: differenceText(due.skewMs) })
      }
      await clock.sleep(LEAST_MS, signal)
    } catch (error) {
      if (signal.aborted) return
      log.warn('certificate not renewed', { error, until: subject.notAfter })
      const mostMs = subject.notAfter.getTime() <= clock.wall() ? RETRY_EXPIRED_MS : RETRY.limitMs
      await clock.sleep(Math.min(retry.nextMs(), mostMs), signal)
    }
  }
}

/** When the certificate at hand is to be renewed. */
class Due {
  /** How far our clock is ahead of the issuer's, as far as a fresh certificate shows; 0 when they agree. */
  readonly skewMs: number
  readonly #clock: Clock
  readonly #dueAtWall: number
  readonly #dueAtNow: number
  readonly #isClockTrusted: boolean

  constructor(subject: Renewable, clock: Clock, random: () => number, origin: 'fresh' | 'saved' = 'saved') {
    const { notBefore, notAfter } = subject
    const wall = clock.wall()
    const skewMs = origin === 'fresh' ? wall - (notBefore.getTime() + DATED_BACK_MS) : 0
    this.#clock = clock
    this.skewMs = Math.abs(skewMs) < SKEW_MS ? 0 : skewMs
    this.#dueAtWall = renewalAt(subject, random)
    const isValid = wall >= notBefore.getTime() && wall < this.#dueAtWall
    this.#isClockTrusted = origin === 'saved' || isValid
    const lifeMs = notAfter.getTime() - notBefore.getTime() - (origin === 'fresh' ? DATED_BACK_MS : 0)
    // a saved certificate that is not valid yet: our clock is behind, and how much of the life is left cannot be told
    const leftMs = wall < notBefore.getTime() ? 0 : lifeMs
    this.#dueAtNow = clock.now() + (origin === 'fresh' ? Math.max(lifeMs * RENEW_AT, LEAST_MS) : leftMs)
  }

  inMs(): number {
    const elapsed = this.#dueAtNow - this.#clock.now()
    return this.#isClockTrusted ? Math.min(elapsed, this.#dueAtWall - this.#clock.wall()) : elapsed
  }
}

/** When to renew, milliseconds since 1970: two thirds into the life, give or take a twentieth. */
export function renewalAt(
  { notBefore, notAfter }: Pick<Renewable, 'notBefore' | 'notAfter'>,
  random: () => number,
): number {
  const lifeMs = notAfter.getTime() - notBefore.getTime()
  return notBefore.getTime() + Math.round(lifeMs * (RENEW_AT + (random() * 2 - 1) * JITTER))
}

/** `48 h ahead`, `25 min behind`. */
export function differenceText(ms: number): string {
  const minutes = Math.round(Math.abs(ms) / 60_000)
  const size = minutes < 120 ? `${minutes} min` : `${Math.round(minutes / 60)} h`
  return `${size} ${ms > 0 ? 'ahead' : 'behind'}`
}
