import type { VipListener } from './vip-listener.ts'

/** Opened per turn of the event loop: about 3 ms. Larger: flows feel a big service arrive. */
const BATCH = 64

/** Listeners that wait to be opened, a batch in each turn of the event loop. */
export class OpeningQueue {
  readonly #waiting = new Set<VipListener>()
  readonly #open: (listener: VipListener) => void

  constructor(open: (listener: VipListener) => void) {
    this.#open = open
  }

  get size(): number {
    return this.#waiting.size
  }

  add(listener: VipListener): void {
    this.#waiting.add(listener)
    if (this.#waiting.size === 1) setImmediate(() => this.#openBatch())
  }

  remove(listener: VipListener): void {
    this.#waiting.delete(listener)
  }

  #openBatch(): void {
    let left = BATCH
    for (const listener of this.#waiting) {
      if (left-- === 0) break
      this.#waiting.delete(listener)
      this.#open(listener)
    }
    if (this.#waiting.size > 0) setImmediate(() => this.#openBatch())
  }
}
