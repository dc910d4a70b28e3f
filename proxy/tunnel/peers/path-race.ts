import type { Clock } from '../../../src/core/kit/clock.ts'
import { ignore } from '../../../src/core/kit/ignore.ts'
import { race as raceOf } from '../../../src/core/kit/race.ts'
import type { Reachability } from '../../paths/contract.ts'
import type { PathKind } from '../../../src/core/model/path-rule.ts'

/** One way to the goal. */
export interface Contender<T> {
  readonly path: PathKind
  /** Without it nothing is known: `open`. */
  readonly reachability?: Reachability | undefined
  run(signal: AbortSignal): Promise<T>
}

/** The head start of better paths that may work. Smaller: relays are dialled in vain; larger: the first byte waits for a path that fails. */
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
export function headStartsMs(field: ReadonlyArray<Pick<Contender<unknown>, 'path' | 'reachability'>>): number[] {
  return field.map(({ path }) => {
    const waits = field.map((other) => waitMs(HEAD_START_MS[path] - HEAD_START_MS[other.path], other.reachability))
    return Math.max(0, ...waits)
  })
}

function waitMs(lead: number, reachability: Reachability = 'open'): number {
  switch (reachability) {
    case 'open':
      return lead
    case 'near':
      return Math.min(lead, NEAR_MS)
    case 'unlikely':
      return 0
    default:
      return reachability satisfies never
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
export async function race<T>(contenders: readonly Contender<T>[], clock: Clock, signal: AbortSignal): Promise<T> {
  const starts = headStartsMs(contenders)
  const inOrder = contenders
    .map((contender, i) => ({ contender, ms: starts[i] as number }))
    .toSorted((a, b) => a.ms - b.ms || HEAD_START_MS[a.contender.path] - HEAD_START_MS[b.contender.path])
  const runners = inOrder.map(({ contender, ms }, i) => ({
    aloneMs: (inOrder[i + 1]?.ms ?? ms) - ms,
    run: (limit: AbortSignal) =>
      contender.run(limit).catch((error: unknown) => {
        throw new PathFailed(contender.path, error)
      }),
  }))
  try {
    return await raceOf(runners, { clock, discard: ignore }, signal)
  } catch (error) {
    throw error instanceof AggregateError ? new RaceLost(error.errors as PathFailed[]) : error
  }
}

class PathFailed extends Error {
  readonly path: PathKind
  readonly error: unknown

  constructor(path: PathKind, error: unknown) {
    super('a path failed', { cause: error })
    this.path = path
    this.error = error
  }
}
