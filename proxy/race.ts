import type { Refusal } from './tunnel/contract.ts'

/*
 *   waiting ─▶ trying ─┬─▶ won        the first OPENED; every other candidate is dropped
 *                      ├─▶ failed     refused, unreachable: the next is tried at once
 *                      └─ patience is over: the next is tried beside it
 *
 *   nothing waiting and nothing trying ─▶ lost (refused)          the deadline ─▶ lost (timeout)
 *
 * Free of I/O and of clocks: events and the time go in, actions come out.
 */

export type RaceAction =
  | { kind: 'try'; candidate: number }
  | { kind: 'drop'; candidate: number }
  | { kind: 'win'; candidate: number }
  | { kind: 'lose'; why: 'refused' | 'timeout' }

/**
 * What an unmeasured node gets before another is tried too. Smaller: two instances are dialled for every first flow over a
 * long path; larger: a dead first candidate is felt. It covers a TLS session from nothing over 60 ms of round trip.
 */
export const UNMEASURED_PATIENCE_MS = 250

/** Never hedge earlier than this, or a busy event loop alone starts second tries. */
const SHORTEST_PATIENCE_MS = 50

/** How long one candidate may stay silent before the next is tried beside it; a session from nothing takes 6 RTT. */
export function patienceMs(rttMs: number | undefined, hasSession: boolean): number {
  if (!hasSession) return Math.max(6 * (rttMs ?? 0), UNMEASURED_PATIENCE_MS)
  return rttMs === undefined ? UNMEASURED_PATIENCE_MS : Math.max(3 * rttMs, SHORTEST_PATIENCE_MS)
}

/** Refusals that another instance would give as well: no new tries, but those under way may still win. */
const FINAL: ReadonlySet<Refusal> = new Set(['not-allowed', 'bad-request'])

export class Race {
  readonly #patience: readonly number[]
  readonly #deadline: number
  readonly #trying = new Set<number>()
  #next = 0
  #hedgeAt: number | undefined
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

  opened(candidate: number): RaceAction[] {
    if (this.#isOver || !this.#trying.delete(candidate)) return [{ kind: 'drop', candidate }]
    return [{ kind: 'win', candidate }, ...this.#stop()]
  }

  failed(candidate: number, refusal: Refusal, now: number): RaceAction[] {
    if (this.#isOver || !this.#trying.delete(candidate)) return []
    if (FINAL.has(refusal)) this.#next = this.#patience.length
    return this.#tryNext(now)
  }

  tick(now: number): RaceAction[] {
    if (this.#isOver) return []
    if (now >= this.#deadline) return [...this.#stop(), { kind: 'lose', why: 'timeout' }]
    return this.#hedgeAt !== undefined && now >= this.#hedgeAt ? this.#tryNext(now) : []
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

  #stop(): RaceAction[] {
    this.#isOver = true
    const dropped = Array.from(this.#trying, (candidate): RaceAction => ({ kind: 'drop', candidate }))
    this.#trying.clear()
    return dropped
  }
}
