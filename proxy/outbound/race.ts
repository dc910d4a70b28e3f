import type { Refusal } from '../tunnel/contract.ts'

/*
 *   waiting ─▶ trying ─┬─▶ won        the first OPENED; every other candidate is dropped
 *                      ├─▶ failed     refused, unreachable: the next is tried at once
 *                      └─ patience is over: the next is tried beside it
 *
 *   The caller's first bytes are with a candidate (early.ts): nobody is tried beside it.
 *         patience is over ─▶ withdraw ─▶ it refuses: it and the next are tried, side by side, and the bytes wait
 *         lost without an answer ─▶ lost (unsure): nobody else may have the bytes
 *
 *   nothing waiting and nothing trying ─▶ lost (refused)          the deadline ─▶ lost (timeout)
 *
 * Free of I/O and of clocks: events and the time go in, actions come out.
 */

export type RaceAction =
  | { kind: 'try'; candidate: number }
  | { kind: 'drop'; candidate: number }
  /** It shall refuse, unless it has opened. */
  | { kind: 'withdraw'; candidate: number }
  | { kind: 'win'; candidate: number }
  /** `unsure`: an instance may have had the caller's first bytes. */
  | { kind: 'lose'; why: 'refused' | 'timeout' | 'unsure' }

/**
 * What an unmeasured node gets before another is tried too. Smaller: two instances are dialled for every first flow over a
 * long path; larger: a dead first candidate is felt. It covers a TLS session from nothing over 60 ms of round trip.
 */
export const UNMEASURED_HEDGE_MS = 250

/** Never hedge earlier than this, or a busy event loop alone starts second tries. */
const SHORTEST_PATIENCE_MS = 50

/** How long one candidate may stay silent before the next is tried beside it; a session from nothing takes 6 RTT. */
export function hedgeDelayMs(rttMs: number | undefined, hasSession: boolean): number {
  if (!hasSession) return Math.max(6 * (rttMs ?? 0), UNMEASURED_HEDGE_MS)
  return rttMs === undefined ? UNMEASURED_HEDGE_MS : Math.max(3 * rttMs, SHORTEST_PATIENCE_MS)
}

/** Refusals that another instance would give as well: no new tries, but those under way may still win. */
const FINAL: ReadonlySet<Refusal> = new Set(['not-allowed', 'bad-request'])

export class Race {
  readonly #patience: readonly number[]
  readonly #deadline: number
  readonly #trying = new Set<number>()
  #next = 0
  #hedgeAt: number | undefined
  /** Who has the caller's first bytes, and whether they were asked back. */
  #speaking: { to: number; isWithdrawn: boolean } | undefined
  #isOver = false

  /** `patience`: ms for each candidate, in the order to try them. */
  constructor(patience: readonly number[], deadlineMs: number, now: number) {
    this.#patience = patience
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

  /** Nobody else is under way: it may be given what the caller says. */
  isAlone(candidate: number): boolean {
    return this.#trying.size === 1 && this.#trying.has(candidate)
  }

  /** The caller has spoken, and this candidate has it. */
  fedEarly(candidate: number): void {
    if (!this.#isOver && this.isAlone(candidate)) this.#speaking = { to: candidate, isWithdrawn: false }
  }

  opened(candidate: number): RaceAction[] {
    if (this.#isOver || !this.#trying.delete(candidate)) return [{ kind: 'drop', candidate }]
    return [{ kind: 'win', candidate }, ...this.#stop()]
  }

  failed(candidate: number, refusal: Refusal, now: number): RaceAction[] {
    if (this.#isOver || !this.#trying.delete(candidate)) return []
    const speaking = this.#speaking?.to === candidate ? this.#speaking : undefined
    if (speaking !== undefined) this.#speaking = undefined
    if (speaking?.isWithdrawn === true && refusal === 'timeout') return this.#tryAgain(candidate, now)
    if (FINAL.has(refusal)) this.#next = this.#patience.length
    return this.#tryNext(now)
  }

  /** No answer will come. */
  lost(candidate: number, now: number): RaceAction[] {
    if (this.#speaking?.to !== candidate) return this.failed(candidate, 'unreachable', now)
    if (this.#isOver || !this.#trying.delete(candidate)) return []
    return [...this.#stop(), { kind: 'lose', why: 'unsure' }]
  }

  tick(now: number): RaceAction[] {
    if (this.#isOver) return []
    if (now >= this.#deadline) return [...this.#stop(), { kind: 'lose', why: 'timeout' }]
    if (this.#hedgeAt === undefined || now < this.#hedgeAt) return []
    if (this.#speaking === undefined) return this.#tryNext(now)
    this.#hedgeAt = undefined
    this.#speaking.isWithdrawn = true
    return [{ kind: 'withdraw', candidate: this.#speaking.to }]
  }

  /** The caller has gone: everything under way is dropped. */
  abandon(): RaceAction[] {
    return this.#stop()
  }

  #tryNext(now: number): RaceAction[] {
    const candidate = this.#next
    const patience = this.#patience[candidate]
    this.#hedgeAt = undefined
    if (patience === undefined) {
      if (this.#trying.size > 0) return []
      this.#isOver = true
      return [{ kind: 'lose', why: 'refused' }]
    }
    this.#next++
    this.#trying.add(candidate)
    if (this.#next < this.#patience.length) this.#hedgeAt = now + patience
    return [{ kind: 'try', candidate }]
  }

  /** It gave the bytes back because it was asked to: it may still be the first to open. */
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
