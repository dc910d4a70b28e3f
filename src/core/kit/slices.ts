/** A turn of the event loop may do so much of a long piece of work: what else waits is not held up longer. */
const SLICE_MS = 8
/** Of work that causes more in the same turn. Smaller takes more turns, larger makes turns long where it causes very much. */
const LEAST_MS = 0.5

/**
 * Cuts a loop into slices: `if (slices.isOver) await slices.next()` after each step. What the steps of a slice have caused (promises that go
 * on) counts too: it is measured, and the next slice is shorter where that was much.
 */
export class Slices {
  readonly #now: () => number
  #lengthMs = SLICE_MS
  #startedAt: number

  constructor(now: () => number = () => performance.now()) {
    this.#now = now
    this.#startedAt = now()
  }

  get isOver(): boolean {
    return this.#now() >= this.#startedAt + this.#lengthMs
  }

  /** Resolves in a later turn, when timers and what has arrived have had theirs. */
  async next(): Promise<void> {
    await new Promise<void>((resolve) => {
      setImmediate(resolve)
      // runs when the slice that begins now is over, and all that it caused at once
      setImmediate(() => this.#took(this.#now() - this.#startedAt))
    })
    this.#startedAt = this.#now()
  }

  #took(ms: number): void {
    const next = ms <= 0 ? SLICE_MS : (this.#lengthMs * SLICE_MS) / ms
    this.#lengthMs = Math.min(SLICE_MS, Math.max(LEAST_MS, next))
  }
}

/** Calls `step` with each item, in order; the rest of a long list in later turns. Promises that it returns are not waited for. */
export async function inSlices<T, R>(items: Iterable<T>, step: (item: T) => R, slices = new Slices()): Promise<R[]> {
  const results: R[] = []
  for (const item of items) {
    if (slices.isOver) await slices.next()
    results.push(step(item))
  }
  return results
}

/** Runs what goes step by step to its end, the rest of a long way in later turns. */
export async function driven<R>(steps: Generator<unknown, R>, slices = new Slices()): Promise<R> {
  for (;;) {
    const step = steps.next()
    if (step.done === true) return step.value
    if (slices.isOver) await slices.next()
  }
}

/** The same in one turn, where nothing else waits. */
export function finished<R>(steps: Generator<unknown, R>): R {
  for (;;) {
    const step = steps.next()
    if (step.done === true) return step.value
  }
}
