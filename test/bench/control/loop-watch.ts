import { closeSync, openSync, readSync } from 'node:fs'

/** Often enough to see a block of 50 ms well. A hundred wake-ups a second use a hundredth of a core or two: `pause` while that is measured. */
const LOOK_MS = 10

/**
 * How long the event loop of this process stood still at most.
 *
 *     look ── 10 ms ─▶ look ── 10 ms ──── something runs, or waits for the disk ─────▶ look     late by so much
 *                                          └ without the time in which the thread was ready and had no processor
 *
 * Many processes share two processors in this benchmark: what the kernel made a thread wait is the benchmark's fault, not the
 * program's, and the kernel says how long that was (the second field of `schedstat`).
 */
export class LoopWatch implements Disposable {
  #timer: NodeJS.Timeout | undefined
  readonly #waited: RunDelay = new RunDelay()
  #longestMs = 0

  constructor() {
    this.resume()
  }

  pause(): void {
    clearInterval(this.#timer)
  }

  resume(): void {
    let dueAt = performance.now() + LOOK_MS
    let waitedMs = this.#waited.ms()
    this.#timer = setInterval(() => {
      const now = performance.now()
      const waited = this.#waited.ms()
      this.#longestMs = Math.max(this.#longestMs, now - dueAt - (waited - waitedMs))
      dueAt = now + LOOK_MS
      waitedMs = waited
    }, LOOK_MS)
  }

  /** The longest since the last call, in milliseconds. */
  take(): number {
    const longest = this.#longestMs
    this.#longestMs = 0
    return Math.round(longest * 10) / 10
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer)
    this.#waited[Symbol.dispose]()
  }
}

/** How long this thread was ready to run and did not, ever; 0 where the kernel does not say. */
class RunDelay implements Disposable {
  readonly #file: number | undefined = open()
  readonly #buffer = Buffer.alloc(128)

  ms(): number {
    if (this.#file === undefined) return 0
    const length = readSync(this.#file, this.#buffer, 0, this.#buffer.length, 0)
    return Number(this.#buffer.toString('latin1', 0, length).split(' ')[1]) / 1e6
  }

  [Symbol.dispose](): void {
    if (this.#file !== undefined) closeSync(this.#file)
  }
}

function open(): number | undefined {
  try {
    return openSync('/proc/thread-self/schedstat', 'r')
  } catch {
    return undefined
  }
}
