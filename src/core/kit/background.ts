import type { Log } from './log.ts'

const DONE = Promise.resolve()

/** A piece of background work that has failed in this process, for `check` and the metrics. */
export interface BackgroundFailure {
  readonly name: string
  /** Failures since the process started. */
  readonly failures: number
  readonly lastError: unknown
  readonly secondsAgo: number
  /** It failed again within `SETTLED_MS`, or waits to be started again. */
  readonly isFailing: boolean
}

interface Entry {
  failures: number
  lastError: unknown
  failedAt: number
  loggedAt: number
}

/** A loop that has run for this long since its last failure is taken to be well. Smaller hides a loop that fails slowly. */
const SETTLED_MS = 60_000
/** One failure of each name is logged in this time; the others are only counted. Smaller lets one bug fill the log. */
const LOG_EVERY_MS = 1_000

/**
 * The one policy for work that nobody awaits: loops, timers and detached tasks. A failure is counted
 * (`hedgerow_background_failures_total`), logged and shown by `check`; it never ends the process and is never silent.
 * There is one list for each thread, as there is one event loop for each thread.
 */
class Background {
  readonly #entries = new Map<string, Entry>()
  readonly #logs = new Set<Log>()

  /** Failures are written to this log until the returned function is called. */
  logTo(log: Log): () => void {
    this.#logs.add(log)
    return () => this.#logs.delete(log)
  }

  /** Records one failure. `name` is constant text, since it becomes the label of a metric. */
  failed(name: string, error: unknown): void {
    const now = performance.now()
    const entry = this.#entries.get(name) ?? { failures: 0, lastError: error, failedAt: now, loggedAt: -LOG_EVERY_MS }
    this.#entries.set(name, entry)
    entry.failures += 1
    entry.lastError = error
    entry.failedAt = now
    if (now - entry.loggedAt < LOG_EVERY_MS) return
    entry.loggedAt = now
    for (const log of this.#logs) log.error('background work failed', { task: name, failures: entry.failures, error })
    if (this.#logs.size === 0) process.emitWarning(error instanceof Error ? error : String(error), { detail: name })
  }

  /** Runs work whose end nobody awaits; its failure is recorded. The returned promise never rejects. */
  run(name: string, work: () => void | Promise<void>): Promise<void> {
    try {
      const working = work()
      return working === undefined ? DONE : working.catch((error: unknown) => this.failed(name, error))
    } catch (error) {
      this.failed(name, error)
      return DONE
    }
  }

  /** Everything that has failed since the process started. */
  failures(): BackgroundFailure[] {
    const now = performance.now()
    return Array.from(this.#entries, ([name, { failures, lastError, failedAt }]) => ({
      name,
      failures,
      lastError,
      secondsAgo: Math.round((now - failedAt) / 1_000),
      isFailing: now - failedAt < SETTLED_MS,
    }))
  }
}

export const background = new Background()
