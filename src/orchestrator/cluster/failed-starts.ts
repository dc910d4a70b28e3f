import { Backoff } from '../../core/kit/backoff.ts'
import type { Clock } from '../../core/kit/clock.ts'
import type { InstanceId } from '../../core/model/ids.ts'

/** Waits before an instance that could not be started is tried again. */
const AFTER_FAILURE = { firstMs: 2_000, limitMs: 60_000 }

/** When instances that their workers could not start are tried again. */
export class FailedStarts {
  readonly #clock: Clock
  readonly #failures = new Map<InstanceId, { backoff: Backoff; retryAt: number }>()

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /** True when its worker gave up long enough ago; the first call only starts the wait. */
  isDue(id: InstanceId): boolean {
    const failure = this.#failures.get(id)
    if (failure !== undefined && this.#clock.now() < failure.retryAt) return false
    const backoff = failure?.backoff ?? new Backoff(AFTER_FAILURE)
    this.#failures.set(id, { backoff, retryAt: this.#clock.now() + backoff.nextMs() })
    return failure !== undefined
  }

  /** How long it still waits for the next try. */
  waitMs(id: InstanceId): number {
    return Math.max(0, Math.round((this.#failures.get(id)?.retryAt ?? 0) - this.#clock.now()))
  }

  forget(id: InstanceId): void {
    this.#failures.delete(id)
  }
}
