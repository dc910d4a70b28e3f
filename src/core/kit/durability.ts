/**
 * What was written, and how much of it is on disk. The disk is waited for beside the event loop; what is written meanwhile shares the
 * next turn:
 *
 *     wrote, wrote ─▶ end of the turn: sync ─────────▶ on disk: what was written before it began
 *                             wrote, wrote ─────────▶ sync ─────────▶ on disk
 *
 * Whoever tells others of what was written waits for `pending` first.
 */
export class Durability {
  readonly #sync: () => Promise<void>
  /** Writes so far, and how many of them are on disk. */
  #written = 0
  #onDisk = 0
  #running: Promise<void> | undefined
  #next: Promise<void> | undefined

  /** `sync` puts on disk what was written before it was called. */
  constructor(sync: () => Promise<void>) {
    this.#sync = sync
  }

  wrote(): void {
    this.#written += 1
    void this.#again()
  }

  /** Until everything written so far is on disk; `undefined` when it is. Rejects when it cannot be put there: asked again, it is tried again. */
  get pending(): Promise<void> | undefined {
    if (this.#onDisk === this.#written) return undefined
    return this.#next ?? this.#running ?? this.#again()
  }

  /** Whatever is under way has ended, well or not. */
  async settled(): Promise<void> {
    while (this.#running !== undefined || this.#next !== undefined)
      await Promise.allSettled([this.#running, this.#next])
  }

  #again(): Promise<void> {
    if (this.#next !== undefined) return this.#next
    const next = this.#take()
    next.catch(() => undefined) // told to whoever waits
    this.#next = next
    return next
  }

  async #take(): Promise<void> {
    if (this.#running === undefined) await new Promise((resolve) => setImmediate(resolve))
    else await this.#running.catch(() => undefined)
    const upTo = this.#written
    const running = this.#sync()
    this.#running = this.#next
    this.#next = undefined
    try {
      await running
      this.#onDisk = upTo
    } finally {
      this.#running = undefined
    }
  }
}
