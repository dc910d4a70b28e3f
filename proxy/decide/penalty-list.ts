import type { Clock } from '../../src/core/kit/clock.ts'
import type { InstanceId } from '../../src/core/model/ids.ts'
import type { Instance } from '../../src/core/model/instance.ts'

/** How long an instance whose port was closed comes after the others; larger: one that is back gets its flows later. */
const SHUN_MS = 5_000
/** How long it counts as closed for the client that found out, when there is no other. */
const AGAIN_MS = 1_000
const SHUNNED_LIMIT = 1_024

/**
 * Instances that ended a flow of their own accord: nothing listened on the port. UDP opens a flow without asking
 * the instance, so the policy alone would send the next datagram there again.
 */
export class PenaltyList {
  readonly #clock: Clock
  readonly #since = new Map<InstanceId, { at: number; isMute: boolean }>()

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /** `isMute`: it had not answered once. */
  add({ id }: Instance, { isMute }: { isMute: boolean }): void {
    this.#since.delete(id) // kept in the order of time
    this.#since.set(id, { at: this.#clock.now(), isMute })
    for (const oldest of this.#since.keys()) {
      if (this.#since.size <= SHUNNED_LIMIT) break
      this.#since.delete(oldest)
    }
  }

  /** The same instances, with shunned ones last. */
  last(instances: readonly Instance[]): readonly Instance[] {
    if (this.#since.size === 0) return instances
    const now = this.#clock.now()
    const isShunned = ({ id }: Instance) => now - (this.#since.get(id)?.at ?? Number.NEGATIVE_INFINITY) < SHUN_MS
    return [...instances.filter((instance) => !isShunned(instance)), ...instances.filter(isShunned)]
  }

  /** Whether all of them were found closed a moment ago, and had not answered once. */
  areClosed(instances: readonly Instance[]): boolean {
    const now = this.#clock.now()
    return instances.every(({ id }) => {
      const shunned = this.#since.get(id)
      return shunned?.isMute === true && now - shunned.at < AGAIN_MS
    })
  }
}
