import type { Clock } from '../../src/kit/clock.ts'
import type { PathKind } from './contract.ts'

/** One way to the goal. */
export interface Runner<T> {
  readonly path: PathKind
  run(signal: AbortSignal): Promise<T>
}

/** How long better paths are alone: the first byte never waits for a path that fails (DESIGN §6). */
const HEAD_START_MS: Readonly<Record<PathKind, number>> = {
  local: 0,
  direct: 0,
  reverse: 50,
  punched: 50,
  relayed: 150,
}

export function headStartMs(path: PathKind): number {
  return HEAD_START_MS[path]
}

export class RaceLost extends Error {
  readonly failures: ReadonlyArray<{ path: PathKind; error: unknown }>

  constructor(failures: ReadonlyArray<{ path: PathKind; error: unknown }>) {
    super('every path failed', { cause: failures.at(-1)?.error })
    this.failures = failures
  }
}

/**
 * Runs all with head starts; the first to arrive wins, the others are aborted. When all that run have failed, the next starts
 * at once.
 * @throws RaceLost when all failed; the signal's reason when that aborts.
 */
export function race<T>(runners: readonly Runner<T>[], clock: Clock, signal: AbortSignal): Promise<T> {
  const { promise, resolve, reject } = Promise.withResolvers<T>()
  const over = new AbortController()
  const all = AbortSignal.any([signal, over.signal])
  const inOrder = runners.toSorted((a, b) => headStartMs(a.path) - headStartMs(b.path))
  const waiting = [...inOrder]
  const failures: { path: PathKind; error: unknown }[] = []
  let running = 0

  const start = (runner: Runner<T>) => {
    const at = waiting.indexOf(runner)
    if (at < 0 || all.aborted) return
    waiting.splice(at, 1)
    running += 1
    runner.run(all).then(resolve, (error: unknown) => fell(runner, error))
  }
  const fell = (runner: Runner<T>, error: unknown) => {
    running -= 1
    failures.push({ path: runner.path, error })
    if (running > 0) return
    const next = waiting[0]
    if (next === undefined) reject(new RaceLost(failures))
    else start(next)
  }

  const aborted = () => reject(signal.reason as Error)
  if (signal.aborted) aborted()
  signal.addEventListener('abort', aborted, { once: true })
  if (waiting.length === 0) reject(new RaceLost([]))
  for (const runner of inOrder) {
    const ms = headStartMs(runner.path)
    if (ms === 0) start(runner)
    else void clock.sleep(ms, all).then(() => start(runner))
  }
  const first = waiting[0]
  if (running === 0 && first !== undefined) start(first) // nobody to wait for
  return promise.finally(() => {
    signal.removeEventListener('abort', aborted)
    over.abort()
  })
}
