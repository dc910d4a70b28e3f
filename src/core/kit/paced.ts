import { background } from './background.ts'
import type { Clock } from './clock.ts'

/** After work that failed, most often because a disk is full. */
const AGAIN_MS = 1_000

export interface PacedOptions {
  /** Constant text: see `background`. */
  name: string
  work: () => void
  /** Between two times. Smaller is done more often, larger gathers more. */
  everyMs: number
  clock: Pick<Clock, 'now' | 'after'>
}

/**
 * Work that is due again and again: what comes alone is done at the end of its turn of the event loop, what comes in numbers is gathered.
 * Work that throws is recorded (see `background`) and stays due.
 *
 *     due ─▶ done at the end of the turn ─▶ due, due, due ─▶ done once, `everyMs` after the time before
 */
export class Paced implements Disposable {
  readonly #options: PacedOptions
  #doneAt = Number.NEGATIVE_INFINITY
  #cancel: (() => void) | undefined

  constructor(options: PacedOptions) {
    this.#options = options
  }

  due(): void {
    if (this.#cancel !== undefined) return
    const { everyMs, clock } = this.#options
    const restMs = this.#doneAt + everyMs - clock.now()
    if (restMs > 0) this.#cancel = clock.after(restMs, () => this.#do())
    else {
      const turn = setImmediate(() => this.#do())
      this.#cancel = () => clearImmediate(turn)
    }
  }

  /** What is due is not done. */
  [Symbol.dispose](): void {
    this.#cancel?.()
    this.#cancel = undefined
  }

  #do(): void {
    const { name, work, clock } = this.#options
    this.#cancel = undefined
    this.#doneAt = clock.now()
    try {
      work()
    } catch (error) {
      background.failed(name, error)
      this[Symbol.dispose]()
      this.#cancel = clock.after(AGAIN_MS, () => this.#do())
    }
  }
}
