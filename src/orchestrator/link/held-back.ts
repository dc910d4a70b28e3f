export interface HeldBackOptions {
  /** Until everything written so far is on disk; `undefined` when it is. */
  pending: () => Promise<void> | undefined
  send: (text: string) => void
  /** What was written cannot be put on disk. */
  onFailure: (error: unknown) => void
}

/**
 * What a tier says follows from what it has written, so it is not said before that is on disk: power that fails in between must not leave a
 * peer that knows more than the tier itself.
 *
 *     send ─▶ nothing to wait for, nothing held ─▶ sent
 *        └──▶ held, with all that is said until the disk has it ─▶ sent, in order
 */
export class HeldBack {
  readonly #options: HeldBackOptions
  #batches: { until: Promise<void>; texts: string[] }[] = []
  #isClosed = false
  /** Characters that are held. */
  length = 0

  constructor(options: HeldBackOptions) {
    this.#options = options
  }

  send(text: string): void {
    const until = this.#options.pending()
    const last = this.#batches.at(-1)
    if (until === undefined && last === undefined) return this.#options.send(text)
    this.length += text.length
    if (last !== undefined && (until === undefined || last.until === until)) return void last.texts.push(text)
    this.#batches.push({ until: until as Promise<void>, texts: [text] })
    if (last === undefined) void this.#release()
  }

  close(): void {
    this.#isClosed = true
    this.#batches = []
    this.length = 0
  }

  async #release(): Promise<void> {
    try {
      for (let first = this.#batches[0]; first !== undefined; first = this.#batches[0]) {
        await first.until
        if (this.#isClosed) return
        for (const text of first.texts) {
          this.length -= text.length
          this.#options.send(text)
        }
        this.#batches.shift()
      }
    } catch (error) {
      if (!this.#isClosed) this.#options.onFailure(error)
    }
  }
}
