import { RoundRobin } from './round-robin.ts'

/** A task that may have to wait. None of this does anything once it has begun. */
export interface Wait {
  giveUp(): void
  /** It is another caller's, as it turned out. */
  moveTo(caller: string): void
}

/**
 * A semaphore for each key: at most `limit` tasks of a key run at a time, the others wait, and their callers take turns. One key never
 * waits for another, so a service that does not answer delays only its own callers.
 *
 *     acquire(key, caller, begin) ─▶ fewer than `limit` are running ─▶ begins now
 *                                    else it waits ─▶ begins when another task of its key calls release and its caller's turn comes
 *
 * Each task that has begun calls `release(key)` once.
 */
export class KeyedSemaphore<K> {
  readonly #limit: number
  readonly #keys = new Map<K, { running: number; waiting: RoundRobin<() => void> }>()
  #waiting = 0
  #idle: (() => void) | undefined

  constructor(limit: number) {
    this.#limit = limit
  }

  /** How many tasks wait, over all keys. */
  get waiting(): number {
    return this.#waiting
  }

  /** Calls `begin` in this very call or later. */
  acquire(key: K, caller: string, begin: () => void): Wait {
    const queue = this.#keys.get(key) ?? { running: 0, waiting: new RoundRobin() }
    if (queue.running === 0) this.#keys.set(key, queue)
    if (queue.running < this.#limit) {
      queue.running++
      begin()
      return NO_WAIT
    }
    queue.waiting.add(caller, begin)
    this.#waiting++
    let of = caller
    return {
      giveUp: () => {
        if (queue.waiting.delete(of, begin)) this.#waiting--
      },
      moveTo: (other) => {
        if (!queue.waiting.delete(of, begin)) return
        queue.waiting.add(other, begin)
        of = other
      },
    }
  }

  release(key: K): void {
    const queue = this.#keys.get(key)
    if (queue === undefined) return
    const next = queue.waiting.take()
    if (next !== undefined) {
      this.#waiting--
      return next() // in place of the task that has released
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

const NO_WAIT: Wait = { giveUp: () => undefined, moveTo: () => undefined }
