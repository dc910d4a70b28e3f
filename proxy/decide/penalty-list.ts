import type { Clock } from '../../src/core/kit/clock.ts'
import type { InstanceId } from '../../src/core/model/ids.ts'
import type { Instance } from '../../src/core/model/instance.ts'

/** How long an instance whose port was closed is tried after the others. Larger: one that is back gets its flows later. */
const PENALTY_MS = 5_000
/** How long it counts as closed for the client that found out, when there is no other instance. */
const CLOSED_MS = 1_000
/** Instances kept; the oldest goes first. */
const PENALTIES_LIMIT = 1_024

/**
 * Instances that ended a UDP flow themselves because nothing listened on the port. A UDP flow opens without the instance's
 * answer, so the policy alone would send the next datagram to the same closed port.
 */
export class PenaltyList {
  readonly #clock: Clock
  readonly #since = new Map<InstanceId, { at: number; isMute: boolean }>()

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /** `isMute`: it had not answered a single datagram. */
  add({ id }: Instance, { isMute }: { isMute: boolean }): void {
    this.#since.delete(id) // the map stays in the order of time
    this.#since.set(id, { at: this.#clock.now(), isMute })
    for (const oldest of this.#since.keys()) {
      if (this.#since.size <= PENALTIES_LIMIT) break
      this.#since.delete(oldest)
    }
  }

  /** The same instances, with those on the list last. */
  last(instances: readonly Instance[]): readonly Instance[] {
    if (this.#since.size === 0) return instances
    const now = this.#clock.now()
    const isPenalised = ({ id }: Instance) => now - (this.#since.get(id)?.at ?? Number.NEGATIVE_INFINITY) < PENALTY_MS
    return [...instances.filter((instance) => !isPenalised(instance)), ...instances.filter(isPenalised)]
  }

  /** Whether all of them were found closed a moment ago, without having answered a single datagram. */
  areClosed(instances: readonly Instance[]): boolean {
    const now = this.#clock.now()
    return instances.every(({ id }) => {
      const penalty = this.#since.get(id)
      return penalty?.isMute === true && now - penalty.at < CLOSED_MS
    })
  }
}
