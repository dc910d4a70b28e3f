/** A turn of the event loop may do so much of a long piece of work: what else waits is not held up longer. */
const SLICE_MS = 8

/** Cuts a loop into slices: `if (slices.isOver) await slices.next()` after each step. */
export class Slices {
  readonly #now: () => number
  #until: number

  constructor(now: () => number = () => performance.now()) {
    this.#now = now
    this.#until = now() + SLICE_MS
  }

  get isOver(): boolean {
    return this.#now() >= this.#until
  }

  /** Resolves in a later turn, when timers and what has arrived have had theirs. */
  async next(): Promise<void> {
    await new Promise<void>((resolve) => void setImmediate(resolve))
    this.#until = this.#now() + SLICE_MS
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
