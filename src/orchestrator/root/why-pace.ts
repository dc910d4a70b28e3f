import type { InstanceId } from '../../core/model/ids.ts'

/** Of many instances that fit nowhere each is asked about so much later. Smaller costs a full mesh more, larger shows older counts. */
const EACH_MS = 20

/**
 * When clusters are asked again why an instance fits nowhere: so that, of thousands, each is asked about in its turn, and 50 a second at
 * most. Whether it fits now is decided at each retry all the same.
 */
export class WhyPace {
  readonly #askedAt = new Map<InstanceId, number>()

  /** Notes that it is asked now, if so. By the monotonic clock. */
  isDue(id: InstanceId, now: number): boolean {
    const at = this.#askedAt.get(id)
    if (at !== undefined && now - at < this.#askedAt.size * EACH_MS) return false
    this.#askedAt.set(id, now)
    return true
  }

  /** It has a place, or is gone, or something new is to be said of it. */
  forget(id: InstanceId): void {
    this.#askedAt.delete(id)
  }
}
