import type { Clock } from '../../src/kit/clock.ts'
import type { InstanceId } from '../../src/model/ids.ts'
import type { Instance } from '../../src/model/instance.ts'

/** How long an instance whose port was closed comes after the others; larger: one that is back gets its flows later. */
const SHUN_MS = 5_000
/** Until it is tried again when there is no other. Smaller: every datagram of a client opens a flow in vain. */
const AGAIN_MS = 1_000
const SHUNNED_LIMIT = 1_024

/**
 * Instances that ended a flow of their own accord: nothing listened on the port. UDP opens a flow without asking
 * the instance, so the policy alone would send the next datagram there again.
 */
export class Shunned {
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

  /** The same instances, with shunned ones last; `undefined` when all of them were found closed a moment ago. */
  last(instances: readonly Instance[]): readonly Instance[] | undefined {
    if (this.#since.size === 0) return instances
    const now = this.#clock.now()
    const isWithin = (ms: number, shunned: { at: number } | undefined) => shunned !== undefined && now - shunned.at < ms
    const isClosed = (shunned: { at: number; isMute: boolean } | undefined) =>
      shunned?.isMute === true && isWithin(AGAIN_MS, shunned)
    if (instances.every(({ id }) => isClosed(this.#since.get(id)))) return undefined
    const isShunned = ({ id }: Instance) => isWithin(SHUN_MS, this.#since.get(id))
    return [...instances.filter((instance) => !isShunned(instance)), ...instances.filter(isShunned)]
  }
}
