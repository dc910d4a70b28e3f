import type { Clock } from '../../src/core/kit/clock.ts'

/** Wall time of a clock that reads 0: a date in 2023. */
const WALL_AT_ZERO = 1_700_000_000_000

/** The one clock of the tests: it stands still until `advance` moves it, and wakes sleepers in the order they are due. */
export class ManualClock implements Clock {
  #now = 0
  readonly #sleepers = new Set<{ at: number; wake: () => void }>()

  now(): number {
    return this.#now
  }

  wall(): number {
    return this.#now + WALL_AT_ZERO
  }

  /** How many calls of `sleep` are waiting. */
  get sleepers(): number {
    return this.#sleepers.size
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    if (signal?.aborted === true) return Promise.resolve()
    return new Promise((resolve) => {
      const sleeper = { at: this.#now + ms, wake: resolve }
      this.#sleepers.add(sleeper)
      const stop = () => {
        this.#sleepers.delete(sleeper)
        resolve()
      }
      signal?.addEventListener('abort', stop, { once: true })
    })
  }

  after(ms: number, act: () => void): () => void {
    const cancel = new AbortController()
    void this.sleep(ms, cancel.signal).then(() => {
      if (!cancel.signal.aborted) act()
    })
    return () => cancel.abort()
  }

  /** Passes `ms`, stopping wherever a sleeper is due; whatever a sleeper starts runs before the next one wakes. */
  async advance(ms: number): Promise<void> {
    const until = this.#now + ms
    for (;;) {
      await settle()
      const next = this.#next()
      if (next === undefined || next.at > until) break
      this.#sleepers.delete(next)
      this.#now = Math.max(this.#now, next.at)
      next.wake()
    }
    this.#now = until
    await settle()
  }

  /** Passes `ms` at once, as on a machine that was suspended: whoever is due by then wakes, late, in order. */
  async jump(ms: number): Promise<void> {
    this.#now += ms
    for (const sleeper of [...this.#sleepers].toSorted((a, b) => a.at - b.at)) {
      if (sleeper.at > this.#now) continue
      this.#sleepers.delete(sleeper)
      sleeper.wake()
    }
    await settle(3)
  }

  #next(): { at: number; wake: () => void } | undefined {
    let next: { at: number; wake: () => void } | undefined
    for (const sleeper of this.#sleepers) if (next === undefined || sleeper.at < next.at) next = sleeper
    return next
  }
}

/** Runs everything that is ready: promises, streams in memory, immediates. */
export async function settle(turns = 12): Promise<void> {
  for (let turn = 0; turn < turns; turn++) await new Promise<void>((resolve) => setImmediate(resolve))
}
