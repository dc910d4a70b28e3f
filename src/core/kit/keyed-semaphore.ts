/**
 * At most so many at a time for each key; the others wait in the order they came. One key never waits for another, so a
 * service that does not answer holds up nobody else's callers.
 *
 *     take(key, begin) ─▶ fewer than `atOnce` under way ─▶ begins now
 *                         else waits ─▶ begins when one of its key is done
 *
 * Whoever has begun calls `done(key)` once.
 */
export class KeyedSemaphore<K> {
  readonly #atOnce: number
  readonly #keys = new Map<K, { underWay: number; waiting: Set<() => void> }>()
  #waiting = 0
  #idle: (() => void) | undefined

  constructor(atOnce: number) {
    this.#atOnce = atOnce
  }

  /** All that wait, over all keys. */
  get waiting(): number {
    return this.#waiting
  }

  /** Calls `begin` in this very call, or later; the returned function gives up the wait, and does nothing once begun. */
  acquire(key: K, begin: () => void): () => void {
    const turn = this.#keys.get(key) ?? { underWay: 0, waiting: new Set() }
    if (turn.underWay === 0) this.#keys.set(key, turn)
    if (turn.underWay < this.#atOnce) {
      turn.underWay++
      begin()
      return nothing
    }
    turn.waiting.add(begin)
    this.#waiting++
    return () => {
      if (turn.waiting.delete(begin)) this.#waiting--
    }
  }

  release(key: K): void {
    const turn = this.#keys.get(key)
    if (turn === undefined) return
    for (const begin of turn.waiting) {
      turn.waiting.delete(begin)
      this.#waiting--
      return begin() // in the place of the one that is done
    }
    turn.underWay--
    if (turn.underWay > 0) return
    this.#keys.delete(key)
    if (this.#keys.size === 0) this.#idle?.()
  }

  /** Resolves when nothing is under way. */
  onIdle(): Promise<void> {
    if (this.#keys.size === 0) return Promise.resolve()
    return new Promise((resolve) => {
      this.#idle = resolve
    })
  }
}

const nothing = (): void => undefined
