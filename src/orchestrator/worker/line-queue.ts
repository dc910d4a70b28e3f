/** A reader that is this far behind loses lines rather than memory. */
const MAX_WAITING = 10_000

/** Lines from a writer that never waits to a reader that may be slow. */
export class LineQueue {
  #waiting: string[] = []
  #lost = 0
  #wake: (() => void) | undefined

  push(line: string): void {
    if (this.#waiting.length >= MAX_WAITING) this.#lost += 1
    else this.#waiting.push(line)
    this.#wake?.()
  }

  /** Everything pushed, in order, until the signal; a gap is told where it is. */
  async *lines(signal: AbortSignal): AsyncIterable<string> {
    while (true) {
      const lines = this.#waiting
      const lost = this.#lost
      this.#waiting = []
      this.#lost = 0
      yield* lines
      if (lost > 0) yield `hedgerow: ${lost} lines are missing here: they came faster than they were read`
      if (this.#waiting.length > 0) continue
      if (signal.aborted) return
      await this.#pushed(signal)
    }
  }

  #pushed(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        signal.removeEventListener('abort', done)
        this.#wake = undefined
        resolve()
      }
      this.#wake = done
      signal.addEventListener('abort', done, { once: true })
    })
  }
}
