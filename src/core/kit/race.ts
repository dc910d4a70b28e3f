import { ignore } from './ignore.ts'
import { onAbort } from './abort.ts'
import type { Clock } from './clock.ts'

/*
 * The staggered race ("happy eyeballs", RFC 8305 §5): several ways to one goal, each a little after the one before; the first to
 * arrive wins and the others are aborted.
 *
 *     start ──aloneMs──▶ the next starts beside it ──aloneMs──▶ …
 *       └── all that run have failed ──▶ the next starts at once
 */

/** One way to the goal. */
export interface Runner<T> {
  /** How long it has before the next one starts beside it. Smaller: more is tried in vain; larger: a dead one is felt. */
  aloneMs: number
  /** Only ever started beside another that still waits: a repetition, of no use once all have failed. */
  isRepeat?: boolean
  run(signal: AbortSignal): Promise<T>
}

export interface RaceOptions<T> {
  clock: Clock
  /** Receives what arrives after another has won. */
  discard: (late: T) => void
}

/** @throws AggregateError with all failures in the order in which they came; the signal's reason when that aborts */
export function race<T>(runners: Iterable<Runner<T>>, options: RaceOptions<T>, signal: AbortSignal): Promise<T> {
  return new Race(runners, options, signal).result
}

/** `race` of runners that all have the same time alone. */
export function staggered<T>(
  tries: ReadonlyArray<(signal: AbortSignal) => Promise<T>>,
  { staggerMs, ...options }: RaceOptions<T> & { staggerMs: number },
  signal: AbortSignal,
): Promise<T> {
  const runners = tries.map((run) => ({ aloneMs: staggerMs, run }))
  return race(runners, options, signal)
}

class Race<T> {
  readonly result: Promise<T>
  readonly #options: RaceOptions<T>
  readonly #waiting: Runner<T>[]
  readonly #failures: unknown[] = []
  readonly #settled = new AbortController()
  /** Of the runners: the caller has given up, or one has won. */
  readonly #limit: AbortSignal
  readonly #settle: Pick<PromiseWithResolvers<T>, 'resolve' | 'reject'>
  #running = 0
  #stopTimer: () => void = ignore

  constructor(runners: Iterable<Runner<T>>, options: RaceOptions<T>, signal: AbortSignal) {
    this.#options = options
    this.#waiting = [...runners]
    this.#limit = AbortSignal.any([signal, this.#settled.signal])
    const { promise, ...settle } = Promise.withResolvers<T>()
    this.#settle = settle
    const listener = onAbort(signal, settle.reject)
    this.result = promise.finally(() => {
      listener[Symbol.dispose]()
      this.#stopTimer()
      this.#settled.abort()
    })
    this.#startNext()
  }

  #startNext(): void {
    this.#stopTimer()
    if (this.#limit.aborted) return
    if (this.#running === 0 && this.#waiting.every(isRepeat))
      return this.#settle.reject(new AggregateError(this.#failures, 'every try failed'))
    const runner = this.#waiting.shift()
    if (runner === undefined) return
    this.#running += 1
    runner.run(this.#limit).then(
      (arrived) => this.#arrived(arrived),
      (error: unknown) => this.#failed(error),
    )
    if (this.#waiting.length === 0) return
    if (runner.aloneMs <= 0) this.#startNext()
    else this.#stopTimer = this.#options.clock.after(runner.aloneMs, () => this.#startNext())
  }

  #arrived(arrived: T): void {
    if (this.#limit.aborted) return this.#options.discard(arrived)
    this.#settled.abort()
    this.#settle.resolve(arrived)
  }

  #failed(error: unknown): void {
    this.#running -= 1
    this.#failures.push(error)
    if (this.#running === 0) this.#startNext()
  }
}

function isRepeat({ isRepeat = false }: Runner<unknown>): boolean {
  return isRepeat
}
