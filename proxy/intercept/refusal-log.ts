import type { Clock } from '../../src/core/kit/clock.ts'
import type { Log } from '../../src/core/kit/log.ts'

/** A reason is logged again after this long. Smaller: one wrong program fills the log. */
const AGAIN_MS = 10_000
/** Reasons kept apart; they are fixed texts, so there are few. */
const REASONS = 64

/** One log line for each reason and 10 s, with the number of requests that it stands for. */
export class RefusalLog {
  readonly #mode: string
  readonly #log: Log
  readonly #clock: Clock
  readonly #reasons = new Map<string, { loggedAt: number; count: number }>()

  constructor(mode: string, log: Log, clock: Clock) {
    this.#mode = mode
    this.#log = log
    this.#clock = clock
  }

  add(reason: string): void {
    if (this.#reasons.size >= REASONS) this.#reasons.clear()
    const known = this.#reasons.get(reason) ?? { loggedAt: Number.NEGATIVE_INFINITY, count: 0 }
    this.#reasons.set(reason, known)
    known.count += 1
    const now = this.#clock.now()
    if (now - known.loggedAt < AGAIN_MS) return
    this.#log.warn('proxy request refused', { mode: this.#mode, reason, count: known.count })
    known.loggedAt = now
    known.count = 0
  }
}
