import { setTimeout as sleepFor } from 'node:timers/promises'

/** Time as a parameter: `systemClock` at the edge, a manual one in tests. */
export interface Clock {
  /** Milliseconds, monotonic; only differences mean something. */
  now(): number
  /** Milliseconds since 1970, for what is written down or compared between machines. */
  wall(): number
  /** Resolves after `ms`, or at once (without throwing) when the signal aborts. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>
  /** Calls `act` once after `ms`, unless the returned function is called first: where a promise for each would be felt. */
  after(ms: number, act: () => void): () => void
}

/** A timer of Node's that is set for longer fires at once: sleeps end after 24.8 days at the latest. */
const LONGEST_MS = 2 ** 31 - 1

export const systemClock: Clock = {
  now: () => performance.now(),
  wall: () => Date.now(),
  sleep: async (ms, signal) => {
    try {
      await sleepFor(Math.min(ms, LONGEST_MS), undefined, signal === undefined ? {} : { signal })
    } catch (error) {
      if (!signal?.aborted) throw error
    }
  },
  after: (ms, act) => {
    const timer = setTimeout(act, Math.min(ms, LONGEST_MS))
    return () => clearTimeout(timer)
  },
}
