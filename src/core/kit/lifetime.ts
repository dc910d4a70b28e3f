import { Backoff } from './backoff.ts'
import { background } from './background.ts'
import { systemClock } from './clock.ts'

type Release = () => void | Promise<void>

/** Before a loop that failed is started again. Smaller lets a loop that always fails take the processor; larger leaves its work undone. */
const RESTART = { firstMs: 100, limitMs: 30_000 }
/** A loop that ran for this long before it failed starts again after the first, short delay. */
const RAN_WELL_MS = 60_000

/**
 * What a component started, and how it ends: newest first, every release runs even if one throws. Idempotent.
 *
 *     static start() { return Lifetime.open(async (life) => { …; life.use(await X.start()); return new Self(life) }) }
 */
export class Lifetime {
  readonly #releases: Release[] = []
  readonly #abort = new AbortController()
  #closing: Promise<void> | undefined

  /** Runs `build`; when it throws, what had started is released, newest first. */
  static async open<T>(build: (life: Lifetime) => T | Promise<T>): Promise<T> {
    const life = new Lifetime()
    try {
      return await build(life)
    } catch (error) {
      await life.close().catch(() => undefined) // the first failure is the one to report
      throw error
    }
  }

  /** Aborted when `close()` begins. */
  get signal(): AbortSignal {
    return this.#abort.signal
  }

  /**
   * Takes over something that is running; it is closed with this lifetime. What comes too late, since a start that failed
   * meanwhile has closed the lifetime, is closed at once.
   * @throws when the lifetime has ended
   */
  use<T extends AsyncDisposable | Disposable>(running: T): T {
    const release = () =>
      Symbol.asyncDispose in running ? Promise.resolve(running[Symbol.asyncDispose]()) : running[Symbol.dispose]()
    if (this.#closing !== undefined) void background.run('closing what started too late', release)
    this.defer(release)
    return running
  }

  defer(release: Release): void {
    if (this.#closing !== undefined) throw new Error('this lifetime has ended')
    this.#releases.push(release)
  }

  /** A timer that ends with the lifetime and never keeps the process alive. A tick that throws is recorded; the timer goes on. */
  every(intervalMs: number, tick: () => void | Promise<void>, name: string): void {
    const timer = setInterval(() => void background.run(name, tick), intervalMs)
    timer.unref()
    this.defer(() => clearInterval(timer))
  }

  /**
   * A background loop: it takes the signal and returns soon after that is aborted. A loop that throws or returns earlier
   * is recorded (see `background`) and started again after a backoff, so a loop must be able to start at any moment.
   * `name` is constant text: the label of a metric.
   */
  spawn(loop: (signal: AbortSignal) => Promise<void>, name: string): void {
    const running = keepRunning(loop, name, this.signal)
    this.defer(() => running)
  }

  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #close(): Promise<void> {
    this.#abort.abort()
    const errors: unknown[] = []
    for (let release = this.#releases.pop(); release !== undefined; release = this.#releases.pop()) {
      try {
        await release()
      } catch (error) {
        errors.push(error)
      }
    }
    if (errors.length > 0) throw new AggregateError(errors, 'some parts did not close cleanly')
  }
}

async function keepRunning(
  loop: (signal: AbortSignal) => Promise<void>,
  name: string,
  signal: AbortSignal,
): Promise<void> {
  const backoff = new Backoff(RESTART)
  while (!signal.aborted) {
    const startedAt = performance.now()
    try {
      await loop(signal)
      if (!signal.aborted) throw new Error(`the loop "${name}" returned before it was told to end`)
    } catch (error) {
      if (signal.aborted) return
      background.failed(name, error)
    }
    if (performance.now() - startedAt >= RAN_WELL_MS) backoff.reset()
    if (!signal.aborted) await systemClock.sleep(backoff.nextMs(), signal)
  }
}
