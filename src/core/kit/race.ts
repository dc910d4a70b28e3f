import type { Clock } from './clock.ts'

export interface StaggerOptions<T> {
  /** How long one is alone before the next runs beside it. */
  staggerMs: number
  clock: Clock
  /** What arrives after another has won. */
  discard: (late: T) => void
}

/**
 * Tries one after the other: the next after a while, or at once when all that run have failed. The first to arrive wins, the
 * others are aborted.
 * @throws AggregateError when all failed, the signal's reason when that aborts
 */
export function staggered<T>(
  tries: ReadonlyArray<(signal: AbortSignal) => Promise<T>>,
  { staggerMs, clock, discard }: StaggerOptions<T>,
  signal: AbortSignal,
): Promise<T> {
  const { promise, resolve, reject } = Promise.withResolvers<T>()
  const over = new AbortController()
  const limit = AbortSignal.any([signal, over.signal])
  const waiting = [...tries]
  const failures: unknown[] = []
  let running = 0

  const begin = () => {
    const attempt = limit.aborted ? undefined : waiting.shift()
    if (attempt === undefined) return
    running += 1
    attempt(limit).then(arrived, failed)
    void clock.sleep(staggerMs, limit).then(() => begin())
  }
  const arrived = (first: T) => {
    if (over.signal.aborted) return discard(first)
    over.abort()
    resolve(first)
  }
  const failed = (error: unknown) => {
    running -= 1
    failures.push(error)
    if (running > 0) return
    if (waiting.length > 0) begin()
    else reject(new AggregateError(failures, 'all failed'))
  }
  const aborted = () => {
    over.abort()
    reject(signal.reason as Error)
  }
  signal.addEventListener('abort', aborted, { once: true })
  if (signal.aborted) aborted()
  else if (waiting.length === 0) reject(new AggregateError(failures, 'nothing to try'))
  else begin()
  return promise.finally(() => {
    signal.removeEventListener('abort', aborted)
    over.abort()
  })
}
