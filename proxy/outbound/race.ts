import type { Refusal } from '../tunnel/contract.ts'

/*
 *   waiting ─▶ trying ─┬─▶ won        the first OPENED; every other candidate is dropped
 *                      ├─▶ failed     refused, unreachable: the next is tried at once
 *                      └─ silent for its hedge delay: the next is tried beside it
 *
 *   While a candidate has the caller's first bytes (early-data.ts), no other is tried beside it:
 *         its hedge delay passes ─▶ withdraw ─▶ it refuses: it and the next are tried side by side, and the bytes wait
 *         lost without an answer ─▶ lost (unsure): no other may get the bytes
 *
 *   nothing waiting and nothing trying ─▶ lost (refused)          the deadline ─▶ lost (timeout)
 *
 * Free of I/O and of clocks: events and the time go in, actions come out.
 */

export type RaceAction =
  | { kind: 'try'; candidate: number }
  | { kind: 'drop'; candidate: number }
  /** Ask it to refuse, unless it has opened. */
  | { kind: 'withdraw'; candidate: number }
  | { kind: 'win'; candidate: number }
  /** `unsure`: an instance may have got the caller's first bytes. */
  | { kind: 'lose'; why: 'refused' | 'timeout' | 'unsure' }

/**
 * How long an unmeasured node may be silent before another is tried too. Smaller: the first flow over a long path dials two
 * instances; larger: a dead first candidate delays flows noticeably. It covers a new TLS session over 60 ms of round trip.
 */
export const UNMEASURED_HEDGE_MS = 250

/** Never hedge earlier than this. Smaller: a busy event loop alone starts second tries; larger: dead nodes delay flows longer. */
const SHORTEST_HEDGE_MS = 50

/** How long a candidate may be silent before the next is tried beside it; a new session takes up to 6 round trips. */
export function hedgeDelayMs(rttMs: number | undefined, hasSession: boolean): number {
  if (!hasSession) return Math.max(6 * (rttMs ?? 0), UNMEASURED_HEDGE_MS)
  return rttMs === undefined ? UNMEASURED_HEDGE_MS : Math.max(3 * rttMs, SHORTEST_HEDGE_MS)
}

/** Refusals that another instance would give as well: no new tries, but those under way may still win. */
const FINAL: ReadonlySet<Refusal> = new Set(['not-allowed', 'bad-request'])

export class Race {
  readonly #hedgeMs: readonly number[]
  readonly #deadline: number
  readonly #trying = new Set<number>()
  #next = 0
  #hedgeAt: number | undefined
  /** Which candidate has the caller's first bytes, and whether it was asked to give them back. */
  #fed: { to: number; isWithdrawn: boolean } | undefined
  #isOver = false

  /** `hedgeMs`: the hedge delay of each candidate, in the order to try them. */
  constructor(hedgeMs: readonly number[], deadlineMs: number, now: number) {
    this.#hedgeMs = hedgeMs
    this.#deadline = now + deadlineMs
  }

  get isOver(): boolean {
    return this.#isOver
  }

  /** When `tick` is due; `undefined` once it is over. */
  get wakeAt(): number | undefined {
    if (this.#isOver) return undefined
    return this.#hedgeAt === undefined ? this.#deadline : Math.min(this.#hedgeAt, this.#deadline)
  }

  start(now: number): RaceAction[] {
    return this.#tryNext(now)
  }

  /** No other try is under way: it may be given what the caller sends. */
  isAlone(candidate: number): boolean {
    return this.#trying.size === 1 && this.#trying.has(candidate)
  }

  /** The caller has sent something, and this candidate was given it. */
  fedEarly(candidate: number): void {
    if (!this.#isOver && this.isAlone(candidate)) this.#fed = { to: candidate, isWithdrawn: false }
  }

  opened(candidate: number): RaceAction[] {
    if (this.#isOver || !this.#trying.delete(candidate)) return [{ kind: 'drop', candidate }]
    return [{ kind: 'win', candidate }, ...this.#stop()]
  }

  failed(candidate: number, refusal: Refusal, now: number): RaceAction[] {
    if (this.#isOver || !this.#trying.delete(candidate)) return []
    const fed = this.#fed?.to === candidate ? this.#fed : undefined
    if (fed !== undefined) this.#fed = undefined
    if (fed?.isWithdrawn === true && refusal === 'timeout') return this.#tryAgain(candidate, now)
    if (FINAL.has(refusal)) this.#next = this.#hedgeMs.length
    return this.#tryNext(now)
  }

  /** No answer will come. */
  lost(candidate: number, now: number): RaceAction[] {
    if (this.#fed?.to !== candidate) return this.failed(candidate, 'unreachable', now)
    if (this.#isOver || !this.#trying.delete(candidate)) return []
    return [...this.#stop(), { kind: 'lose', why: 'unsure' }]
  }

  tick(now: number): RaceAction[] {
    if (this.#isOver) return []
    if (now >= this.#deadline) return [...this.#stop(), { kind: 'lose', why: 'timeout' }]
    if (this.#hedgeAt === undefined || now < this.#hedgeAt) return []
    if (this.#fed === undefined) return this.#tryNext(now)
    this.#hedgeAt = undefined
    this.#fed.isWithdrawn = true
    return [{ kind: 'withdraw', candidate: this.#fed.to }]
  }

  /** The caller has gone: everything under way is dropped. */
  abandon(): RaceAction[] {
    return this.#stop()
  }

  #tryNext(now: number): RaceAction[] {
    const candidate = this.#next
    const delay = this.#hedgeMs[candidate]
    this.#hedgeAt = undefined
    if (delay === undefined) {
      if (this.#trying.size > 0) return []
      this.#isOver = true
      return [{ kind: 'lose', why: 'refused' }]
    }
    this.#next++
    this.#trying.add(candidate)
    if (this.#next < this.#hedgeMs.length) this.#hedgeAt = now + delay
    return [{ kind: 'try', candidate }]
  }

  /** It gave the bytes back because it was asked to; it may still be the first to open. */
  #tryAgain(candidate: number, now: number): RaceAction[] {
    this.#trying.add(candidate)
    return [{ kind: 'try', candidate }, ...this.#tryNext(now)]
  }

  #stop(): RaceAction[] {
    this.#isOver = true
    const dropped = Array.from(this.#trying, (candidate): RaceAction => ({ kind: 'drop', candidate }))
    this.#trying.clear()
    return dropped
  }
}
