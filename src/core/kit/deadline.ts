import type { Clock } from './clock.ts'
import { MeshError } from '../errors.ts'

/** A signal that aborts after `ms` of the given clock, or with `outer`; disposing it lets the clock go. */
export class Deadline implements Disposable {
  readonly signal: AbortSignal
  readonly #done = new AbortController()

  constructor(clock: Clock, ms: number, outer?: AbortSignal) {
    const over = new AbortController()
    this.signal = outer === undefined ? over.signal : AbortSignal.any([over.signal, outer])
    void clock.sleep(ms, this.#done.signal).then(() => {
      if (!this.#done.signal.aborted) over.abort(new MeshError('REQUEST_TIMEOUT', { ms }))
    })
  }

  [Symbol.dispose](): void {
    this.#done.abort()
  }
}

/** The promise, or a rejection with the signal's reason as soon as that aborts. */
export function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const aborted = () => reject(signal.reason as Error)
    if (signal.aborted) aborted()
    signal.addEventListener('abort', aborted, { once: true })
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', aborted))
  })
}
