import type { Clock } from './clock.ts'

/** What waits alike wakes within the same one of these. Smaller: more wake-ups of an idle process; larger: more to do in one turn. */
export const STEP_MS = 250

/**
 * How long to sleep to wake `ms` from now, half a step earlier or later: together with all else that sleeps in steps, so that hundreds of
 * checks wake an idle process four times a second and not each by itself. What is shorter than a step is left as it is.
 */
export function inStep(nowMs: number, ms: number): number {
  if (ms < STEP_MS) return ms
  return Math.ceil(Math.round((nowMs + ms) / STEP_MS) * STEP_MS - nowMs)
}

/**
 * What sleeps in steps, with one timer for all that wake in the same one. A promise and a timer for each of hundreds of checks outlive two
 * collections of the young generation: an idle process then spends more on collecting the old one than on its checks.
 */
export class Steps {
  readonly #clock: Clock
  readonly #steps = new Map<number, { wakes: Set<() => void>; cancel: () => void }>()

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /** Calls `wake` about `ms` from now, together with others. The answer is for `cancel`. */
  wakeAfter(ms: number, wake: () => void): number {
    const now = this.#clock.now()
    const at = Math.max(Math.round((now + ms) / STEP_MS), Math.floor(now / STEP_MS) + 1)
    const others = this.#steps.get(at)
    if (others === undefined) {
      const cancel = this.#clock.after(Math.ceil(at * STEP_MS - now), () => this.#reach(at))
      this.#steps.set(at, { wakes: new Set([wake]), cancel })
    } else others.wakes.add(wake)
    return at
  }

  cancel(step: number, wake: () => void): void {
    const found = this.#steps.get(step)
    if (found?.wakes.delete(wake) !== true || found.wakes.size > 0) return
    found.cancel()
    this.#steps.delete(step)
  }

  #reach(step: number): void {
    const wakes = this.#steps.get(step)?.wakes ?? []
    this.#steps.delete(step)
    for (const wake of wakes) wake()
  }
}

const stepsOfClocks = new WeakMap<Clock, Steps>()

/** Those of a clock are shared. */
export function stepsOf(clock: Clock): Steps {
  const known = stepsOfClocks.get(clock)
  if (known !== undefined) return known
  const steps = new Steps(clock)
  stepsOfClocks.set(clock, steps)
  return steps
}
