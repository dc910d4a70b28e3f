import type { Change } from '../../core/model/change.ts'

export type StreamEvent =
  | { kind: 'changes'; epoch: string; changes: readonly Change[] }
  /** The link came up anew: what was missed must be asked for. */
  | { kind: 'up' }

/** A reader this far behind resumes instead: one answer holds less than many messages. */
const MAX_WAITING = 10_000

/** Changes from the link, in order, to one reader; a new link begins with `up`, and what waited from before is void. */
export class FeedStream implements Disposable {
  readonly #all: Set<FeedStream>
  readonly #signal: AbortSignal
  #waiting: StreamEvent[] = []
  #wake: () => void = () => undefined

  constructor(all: Set<FeedStream>, signal: AbortSignal) {
    this.#all = all
    this.#signal = signal
    all.add(this)
  }

  push(event: StreamEvent): void {
    if (this.#waiting.length >= MAX_WAITING) return this.linkUp()
    this.#waiting.push(event)
    this.#wake()
  }

  linkUp(): void {
    this.#waiting = [{ kind: 'up' }]
    this.#wake()
  }

  async *events(): AsyncIterable<StreamEvent> {
    while (!this.#signal.aborted) {
      const next = this.#waiting.shift()
      if (next !== undefined) yield next
      else await this.#news()
    }
  }

  [Symbol.dispose](): void {
    this.#all.delete(this)
  }

  #news(): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        this.#signal.removeEventListener('abort', done)
        this.#wake = () => undefined
        resolve()
      }
      this.#wake = done
      this.#signal.addEventListener('abort', done, { once: true })
    })
  }
}
