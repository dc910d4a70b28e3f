import type { Clock } from '../../src/core/kit/clock.ts'

/** Time that moves when told; whoever sleeps wakes in order, with the event loop let through between. */
export class ManualClock implements Clock {
  #now = 0
  #sleepers: { at: number; wake: () => void }[] = []

  now(): number {
    return this.#now
  }

  wall(): number {
    return this.#now
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    if (signal?.aborted === true) return Promise.resolve()
    return new Promise((resolve) => {
      const sleeper = { at: this.#now + ms, wake: resolve }
      this.#sleepers.push(sleeper)
      signal?.addEventListener('abort', () => {
        this.#sleepers = this.#sleepers.filter((one) => one !== sleeper)
        resolve()
      })
    })
  }

  async advance(ms: number): Promise<void> {
    const until = this.#now + ms
    for (;;) {
      await settle()
      this.#sleepers.sort((a, b) => a.at - b.at)
      const next = this.#sleepers[0]
      if (next === undefined || next.at > until) break
      this.#sleepers.shift()
      this.#now = Math.max(this.#now, next.at)
      next.wake()
    }
    this.#now = until
    await settle()
  }

  after(ms: number, act: () => void): () => void {
    const cancel = new AbortController()
    void this.sleep(ms, cancel.signal).then(() => {
      if (!cancel.signal.aborted) act()
    })
    return () => cancel.abort()
  }
}

/** Lets everything that is ready run: promises, streams in memory, immediates. */
export async function settle(turns = 12): Promise<void> {
  for (let turn = 0; turn < turns; turn++) await new Promise<void>((resolve) => setImmediate(resolve))
}
