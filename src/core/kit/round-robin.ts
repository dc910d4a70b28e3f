/**
 * A queue in which callers take turns: each caller's items in their order, one of each caller after the other, so that whoever queues
 * thousands delays its own.
 *
 *     caller 1: ▪▪▪▪▪▪▪▪▪▪   caller 2: ▪   caller 3: ▪▪        taken 1, 2, 3, 1, 3, 1, 1 …
 */
export class RoundRobin<T> {
  /** In the order in which their turns come; none is empty. */
  readonly #callers = new Map<string, Set<T>>()
  #size = 0

  get size(): number {
    return this.#size
  }

  add(caller: string, item: T): void {
    const own = this.#callers.get(caller) ?? new Set()
    this.#callers.set(caller, own.add(item))
    this.#size += 1
  }

  /** False when it is not there any more. */
  delete(caller: string, item: T): boolean {
    const own = this.#callers.get(caller)
    if (own?.delete(item) !== true) return false
    this.#size -= 1
    if (own.size === 0) this.#callers.delete(caller)
    return true
  }

  /** Takes the next one out; its caller goes to the end of the round. */
  take(): T | undefined {
    for (const [caller, own] of this.#callers) {
      for (const item of own) {
        own.delete(item)
        this.#size -= 1
        this.#callers.delete(caller)
        if (own.size > 0) this.#callers.set(caller, own)
        return item
      }
    }
    return undefined
  }
}
