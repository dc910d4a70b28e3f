import { type UserFlow, UserFlows, type UserFlowsOptions } from '../flow/user-flows.ts'

/*
 * Which UDP flows go when there are too many. They have no end of their own, so the one that was silent longest makes room: most are
 * one question and its answer, and would keep their place for `idleMs`.
 *
 *     all places are taken, and one more flow of user A ─┬─ A has fewer than the user that has most: of that user, used or not
 *                                                        └─ else of A, if it was silent for `spareMs`; if none was, the new flow is refused
 *
 * So a user whose flows come from thousands of ports takes nothing from others, and flows in use are not lost to new ones of the same user.
 */

/** A flow that can make room. */
export interface SpareFlow extends UserFlow {
  /** Since it was last used; 0: it carried something since the last look. */
  silentMs(): number
}

export interface PlacesOptions<F> extends UserFlowsOptions {
  spareMs: number
  /** Ends the flow: it is over when this returns. */
  end: (flow: F) => void
}

export class Places<F extends SpareFlow> {
  readonly #options: PlacesOptions<F>
  /** Of each user, the one that was silent longest first. */
  readonly #flows: UserFlows<F>
  #taken = 0

  constructor(options: PlacesOptions<F>) {
    this.#options = options
    this.#flows = new UserFlows(options, (user, flow) => this.#hasRoom(user) && this.#take(flow))
  }

  /** Takes a place until the flow is over; false: none is free, and none is freed for its user. */
  enter(flow: F): boolean | Promise<boolean> {
    const entered = this.#flows.enter(flow)
    return entered instanceof Promise ? entered : entered && this.#take(flow)
  }

  /** The flow was used a moment ago. */
  used(flow: F): void {
    this.#flows.moveLast(flow)
  }

  #take(flow: F): true {
    if (flow.isOver) return true
    this.#taken += 1
    flow.whenOver(() => (this.#taken -= 1))
    return true
  }

  #hasRoom(user: string): boolean {
    if (this.#taken < this.#options.capacity) return true
    const largest = this.#flows.largest() ?? user
    const isLargest = this.#flows.of(user).size + 1 >= this.#flows.of(largest).size
    const hasRoom = isLargest ? this.#free(user, this.#options.spareMs) : this.#free(largest, 0)
    if (!hasRoom) this.#flows.refused(user)
    return hasRoom
  }

  /** Ends the first flow of the user that was silent for as long; those that were used since the last look come last. */
  #free(user: string, silentMs: number): boolean {
    const own = this.#flows.of(user)
    for (let left = own.size; left > 0; left--) {
      const [flow] = own
      if (flow === undefined) return false
      const silence = flow.silentMs()
      if (silence > 0 || (left === 1 && silentMs === 0)) {
        if (silence < silentMs) return false
        this.#options.end(flow)
        return true
      }
      this.#flows.moveLast(flow)
    }
    return false
  }
}
