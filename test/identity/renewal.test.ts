import t from 'tap'
import type { Clock } from '../../src/core/kit/clock.ts'
import type { Log } from '../../src/core/kit/log.ts'
import { differenceText, renewUntil, type Renewable } from '../../src/core/identity/renewal.ts'

const MINUTE_MS = 60_000
const HOUR_MS = 60 * MINUTE_MS
const DAY_MS = 24 * HOUR_MS
const START = Date.parse('2026-06-01T00:00:00Z')

/** Time passes only while somebody sleeps; what happens at a moment is scheduled for it. */
class SteppingClock implements Clock {
  #now = 0
  #skewMs = 0
  readonly #events: { at: number; act: () => void }[] = []

  now(): number {
    return this.#now
  }

  wall(): number {
    return START + this.#now + this.#skewMs
  }

  /** The wall clock is this far off from now on. */
  step(skewMs: number): void {
    this.#skewMs = skewMs
  }

  at(ms: number, act: () => void): void {
    this.#events.push({ at: ms, act })
  }

  async sleep(ms: number, signal?: AbortSignal): Promise<void> {
    const until = this.#now + ms
    for (const event of this.#events.toSorted((a, b) => a.at - b.at)) {
      if (event.at > until || signal?.aborted) break
      this.#now = Math.max(this.#now, event.at)
      this.#events.splice(this.#events.indexOf(event), 1)
      event.act()
    }
    if (signal?.aborted !== true) this.#now = until
  }

  after(): () => void {
    throw new Error('not used here')
  }
}

/** A certificate of 24 hours, issued by a clock of its own. */
class Certificate implements Renewable {
  notBefore: Date
  notAfter: Date
  readonly renewedAt: number[] = []
  isIssuerUp = true
  readonly #clock: SteppingClock

  constructor(clock: SteppingClock) {
    this.#clock = clock
    this.notBefore = new Date(START - HOUR_MS)
    this.notAfter = new Date(START + DAY_MS)
  }

  async renewOnce(): Promise<void> {
    if (!this.isIssuerUp) throw new Error('the cluster is down')
    const issuedAt = START + this.#clock.now() // the issuer's clock is right
    this.notBefore = new Date(issuedAt - HOUR_MS)
    this.notAfter = new Date(issuedAt + DAY_MS)
    this.renewedAt.push(this.#clock.now())
  }

  async save(): Promise<void> {}
}

async function run(forMs: number, prepare: (clock: SteppingClock, certificate: Certificate) => void) {
  const clock = new SteppingClock()
  const certificate = new Certificate(clock)
  const stop = new AbortController()
  const warnings: [string, Record<string, unknown>][] = []
  const log = {
    info: () => undefined,
    error: () => undefined,
    warn: (sentence: string, fields: Record<string, unknown>) => void warnings.push([sentence, fields]),
  } as unknown as Log
  clock.at(forMs, () => stop.abort())
  prepare(clock, certificate)
  const renew = async () => ''
  await renewUntil(certificate, { renew, log, random: () => 0.5 }, clock, stop.signal)
  return { certificate, warnings, clock }
}

t.test('a certificate is renewed two thirds into its life, again and again', async (t) => {
  const { certificate } = await run(3 * DAY_MS, () => undefined)
  t.equal(certificate.renewedAt.length, 4)
  for (const [at, next] of certificate.renewedAt.slice(0, -1).map((at, i) => [at, certificate.renewedAt[i + 1] ?? 0]))
    t.ok(
      Math.abs((next ?? 0) - (at ?? 0) - (25 * HOUR_MS * 2) / 3) <= 90 * MINUTE_MS,
      'a renewal comes after two thirds of the time, give or take its jitter',
    )
})

t.test('a clock that was a year ahead while the issuer was down costs nothing once it is right', async (t) => {
  const { certificate, clock } = await run(2 * DAY_MS, (clock, certificate) => {
    clock.at(HOUR_MS, () => {
      clock.step(365 * DAY_MS)
      certificate.isIssuerUp = false
    })
    clock.at(HOUR_MS + 20 * MINUTE_MS, () => {
      clock.step(0)
      certificate.isIssuerUp = true
    })
  })
  const [first = Infinity] = certificate.renewedAt
  t.ok(first < DAY_MS, 'renewed before it has expired')
  t.ok(certificate.notAfter.getTime() > clock.wall(), 'and valid at the end')
})

t.test('a clock that is put back a year does not put renewal off', async (t) => {
  const { certificate } = await run(2 * DAY_MS, (clock) => clock.at(HOUR_MS, () => clock.step(-365 * DAY_MS)))
  const [first = Infinity] = certificate.renewedAt
  t.ok(first <= 25 * HOUR_MS, 'at the latest when its life has passed')
})

for (const [name, skewMs, difference] of [
  ['two days ahead', 2 * DAY_MS, '48 h ahead'],
  ['two days behind', -2 * DAY_MS, '48 h behind'],
] as const) {
  t.test(`a node ${name} of its cluster renews now and then, not all the time, and says so once`, async (t) => {
    const { certificate, warnings } = await run(DAY_MS, (clock) => clock.step(skewMs))
    t.ok(certificate.renewedAt.length >= 1, 'it does renew')
    t.ok(certificate.renewedAt.length <= 4, `${certificate.renewedAt.length} renewals a day`)
    const gaps = certificate.renewedAt.slice(1).map((at, i) => at - (certificate.renewedAt[i] ?? 0))
    for (const gap of gaps) t.ok(gap >= MINUTE_MS, 'at least a minute apart')
    t.same(
      warnings.map(([sentence, fields]) => [sentence, fields['difference']]),
      [['the clock of this machine differs from the issuer’s', difference]],
    )
  })
}

t.test(
  'while the issuer is down it is tried again with a backoff, sooner once the certificate has expired',
  async (t) => {
    const tries: number[] = []
    await run(2 * DAY_MS, (clock, certificate) => {
      certificate.renewOnce = async () => {
        tries.push(clock.now())
        throw new Error('the cluster is down')
      }
    })
    const before = tries.filter((at) => at < DAY_MS)
    const after = tries.filter((at) => at > DAY_MS + HOUR_MS)
    const meanGap = (times: number[]) => ((times.at(-1) ?? 0) - (times[0] ?? 0)) / (times.length - 1)
    t.ok(meanGap(before) > 2 * MINUTE_MS, 'while there is time the tries are minutes apart')
    t.ok(meanGap(after) <= 20_000, 'at most 20 s apart')
  },
)

t.test('differences are told in words', async (t) => {
  t.equal(differenceText(48 * HOUR_MS), '48 h ahead')
  t.equal(differenceText(-25 * MINUTE_MS), '25 min behind')
})
