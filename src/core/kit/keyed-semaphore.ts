/**
 * A semaphore for each key: at most `limit` tasks of a key run at a time, the others wait in order of arrival. One key never
 * waits for another, so a service that does not answer delays only its own callers.
 *
 *     acquire(key, begin) ─▶ fewer than `limit` are running ─▶ begins now
 *                            else it waits ─▶ begins when another task of its key calls release
 *
 * Each task that has begun calls `release(key)` once.
 */
export class KeyedSemaphore<K> {
  readonly #limit: number
  readonly #keys = new Map<K, { running: number; waiting: Set<() => void> }>()
  #waiting = 0
  #idle: (() => void) | undefined

  constructor(limit: number) {
    this.#limit = limit
  }

  /** How many tasks wait, over all keys. */
  get waiting(): number {
    return this.#waiting
  }

  /** Calls `begin` in this very call or later; the returned function cancels the wait, and does nothing once the task has begun. */
  acquire(key: K, begin: () => void): () => void {
    const queue = this.#keys.get(key) ?? { running: 0, waiting: new Set() }
    if (queue.running === 0) this.#keys.set(key, queue)
    if (queue.running < this.#limit) {
      queue.running++
      begin()
      return nothing
    }
    queue.waiting.add(begin)
    this.#waiting++
    return () => {
      if (queue.waiting.delete(begin)) this.#waiting--
    }
  }

  release(key: K): void {
    const queue = this.#keys.get(key)
    if (queue === undefined) return
    for (const begin of queue.waiting) {
      queue.waiting.delete(begin)
      this.#waiting--
      return begin() // in place of the task that has released
    }
    queue.running--
    if (queue.running > 0) return
    this.#keys.delete(key)
    if (this.#keys.size === 0) this.#idle?.()
  }

  /** Resolves when no task is running. */
  onIdle(): Promise<void> {
    if (this.#keys.size === 0) return Promise.resolve()
    return new Promise((resolve) => {
      this.#idle = resolve
    })
  }
}

const nothing = (): void => undefined
