import type { PathKind } from '../../../src/core/model/path-rule.ts'
import { rankOf } from '../session/placement.ts'

/*
 * When a session leaves a better kind of path for a worse one that is faster: a direct way around half the world, a punched one
 * whose provider throttles it. Decided by the side that dialled the session, on round trips that nothing big disturbs.
 */

/** Worse by less is not worth a move; small differences are noise. */
const TIMES = 2
const AT_LEAST_MS = 5
/** How long another path must have been faster. Shorter: flows follow every fluctuation; longer: they stay on a slow path. */
const LASTS_MS = 10_000
/** How long a measured round trip of another path counts. Shorter: a path is forgotten; longer: old figures decide. */
const FRESH_MS = 30 * 60_000
/** How long a path that was left is not tried; twice as long each time. Shorter: flows go back and forth; longer: they miss it when it is good again. */
const PENALTY_MS = 60_000
const MOST_PENALTY_MS = 30 * 60_000
/** No other path waits for one that did not arrive, or was outrun by a worse one, within this. */
const FAILED_MS = 10 * 60_000

/** What one peer's paths took, and which were left. */
export class PathHistory {
  readonly #took = new Map<PathKind, { rttMs: number; at: number }>()
  readonly #penalised = new Map<PathKind, { until: number; times: number }>()
  readonly #failed = new Map<PathKind, number>()
  #slowSince: number | undefined

  measured(path: PathKind, rttMs: number, now: number): void {
    this.#took.set(path, { rttMs, at: now })
  }

  /** A worse kind of path that has been clearly faster than the one in use for a while; nothing: all is well. */
  fasterThan(
    inUse: PathKind,
    { rttMs, isCalm }: { rttMs: number | undefined; isCalm: boolean },
    now: number,
  ): PathKind | undefined {
    const better = rttMs === undefined || !isCalm ? undefined : this.#faster(inUse, rttMs, now)
    if (better === undefined) {
      this.#slowSince = undefined
      return undefined
    }
    this.#slowSince ??= now
    if (now - this.#slowSince < LASTS_MS) return undefined
    this.#slowSince = undefined
    return better
  }

  /** The session leaves that kind of path. */
  shun(path: PathKind, now: number): void {
    const times = (this.#penalised.get(path)?.times ?? 0) + 1
    this.#penalised.set(path, { until: now + Math.min(PENALTY_MS * 2 ** (times - 1), MOST_PENALTY_MS), times })
  }

  /** A dial came to its end. */
  arrived(path: PathKind): void {
    this.#failed.delete(path)
  }

  failed(path: PathKind, now: number): void {
    this.#failed.set(path, now)
  }

  hasFailed(path: PathKind, now: number): boolean {
    return now - (this.#failed.get(path) ?? -Infinity) < FAILED_MS
  }

  isPenalised(path: PathKind, now: number): boolean {
    return (this.#penalised.get(path)?.until ?? -Infinity) > now
  }

  /** From another network everything is different. */
  forget(): void {
    this.#took.clear()
    this.#penalised.clear()
    this.#failed.clear()
    this.#slowSince = undefined
  }

  #faster(inUse: PathKind, rttMs: number, now: number): PathKind | undefined {
    let best: { path: PathKind; rttMs: number } | undefined
    for (const [path, took] of this.#took) {
      if (rankOf(path) <= rankOf(inUse) || now - took.at > FRESH_MS) continue
      if (rttMs <= Math.max(TIMES * took.rttMs, took.rttMs + AT_LEAST_MS)) continue
      if (best === undefined || took.rttMs < best.rttMs) best = { path, rttMs: took.rttMs }
    }
    return best?.path
  }
}
