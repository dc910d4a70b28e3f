import type { Metrics } from '../../core/metrics.ts'
import type { InstanceId } from '../../core/model/ids.ts'
import type { InstanceState } from '../../core/model/instance.ts'

/** How many instances are in which state, for the metrics; each is counted once. */
export class InstanceCounts {
  readonly #metrics: Metrics
  readonly #states = new Map<InstanceId, InstanceState>()

  constructor(metrics: Metrics) {
    this.#metrics = metrics
  }

  /** `undefined`: there is nothing of it any more. */
  count(instance: InstanceId, state: InstanceState | undefined): void {
    const before = this.#states.get(instance)
    if (before === state) return
    if (before !== undefined) this.#metrics.instances.labels(before).dec()
    if (state === undefined) this.#states.delete(instance)
    else {
      this.#states.set(instance, state)
      this.#metrics.instances.labels(state).inc()
    }
  }

  clear(): void {
    for (const instance of this.#states.keys()) this.count(instance, undefined)
  }
}
