import type { Clock } from './clock.ts'
import { MeshError } from '../errors.ts'

/** A signal that aborts after `ms` of the given clock, or with `outer`; disposing it stops the timer. */
export class Deadline implements Disposable {
  readonly signal: AbortSignal
  readonly #disposed = new AbortController()

  constructor(clock: Clock, ms: number, outer?: AbortSignal) {
    const expired = new AbortController()
    this.signal = outer === undefined ? expired.signal : AbortSignal.any([expired.signal, outer])
    void clock.sleep(ms, this.#disposed.signal).then(() => {
      if (!this.#disposed.signal.aborted) expired.abort(new MeshError('REQUEST_TIMEOUT', { ms }))
    })
  }

  [Symbol.dispose](): void {
    this.#disposed.abort()
  }
}
