import type { Clock } from '../../../src/core/kit/clock.ts'
import type { Reachability } from '../../paths/contract.ts'
import type { PathKind } from '../../../src/core/model/path-rule.ts'

/** One way to the goal. */
export interface Contender<T> {
  readonly path: PathKind
  /** Without it nothing is known: `open`. */
  readonly outlook?: Reachability | undefined
  run(signal: AbortSignal): Promise<T>
}

/** How long better paths are alone, when something may come of them: the first byte never waits for a path that fails (DESIGN §6). */
const HEAD_START_MS: Readonly<Record<PathKind, number>> = {
  local: 0,
  direct: 0,
  reverse: 50,
  punched: 50,
  relayed: 150,
}
/** Within a network a handshake takes a few milliseconds. Smaller dials a relay in vain when the machine is busy. */
const NEAR_MS = 50

/** When each may start: after those before it that are worth the wait. Pure. */
export function headStartsMs(field: ReadonlyArray<Pick<Contender<unknown>, 'path' | 'outlook'>>): number[] {
  return field.map(({ path }) => {
    const waits = field.map((other) => waitMs(HEAD_START_MS[path] - HEAD_START_MS[other.path], other.outlook))
    return Math.max(0, ...waits)
  })
}

function waitMs(lead: number, outlook: Reachability = 'open'): number {
  switch (outlook) {
    case 'open':
      return lead
    case 'near':
      return Math.min(lead, NEAR_MS)
    case 'unlikely':
      return 0
    default:
      return outlook satisfies never
  }
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
export function race<T>(runners: readonly Contender<T>[], clock: Clock, signal: AbortSignal): Promise<T> {
  const { promise, resolve, reject } = Promise.withResolvers<T>()
  const over = new AbortController()
  const all = AbortSignal.any([signal, over.signal])
  const starts = headStartsMs(runners)
  const inOrder = runners
    .map((runner, i) => ({ runner, ms: starts[i] as number }))
    .toSorted((a, b) => a.ms - b.ms || HEAD_START_MS[a.runner.path] - HEAD_START_MS[b.runner.path])
  const waiting = inOrder.map(({ runner }) => runner)
  const failures: { path: PathKind; error: unknown }[] = []
  let running = 0

  const start = (runner: Contender<T>) => {
    const at = waiting.indexOf(runner)
    if (at < 0 || all.aborted) return
    waiting.splice(at, 1)
    running += 1
    runner.run(all).then(resolve, (error: unknown) => fell(runner, error))
  }
  const fell = (runner: Contender<T>, error: unknown) => {
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
  for (const { runner, ms } of inOrder) {
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
