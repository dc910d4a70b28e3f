import { conditionsOf, type Conditions, type LinkConditions } from './conditions.ts'

/**
 * One direction of a link, free of I/O and clocks: a frame and the time go in, the time it comes out (or its loss) comes back.
 *
 *     frame ─▶ lost? ─▶ queue full? ─▶ sent at the rate, one after the other ─▶ delay ± jitter ─▶ due
 *                                                                └─ overtakes: due when sent
 */
export class Wire {
  readonly #random: () => number
  #conditions: Conditions
  /** When the last bit of what was accepted has been sent. */
  #sentAt = 0
  #lastDue = 0

  constructor(conditions: LinkConditions, random: () => number = Math.random) {
    this.#conditions = conditionsOf(conditions)
    this.#random = random
  }

  change(conditions: LinkConditions): void {
    this.#conditions = conditionsOf(conditions)
  }

  /** When the frame of `bytes` that arrives `now` (ms) comes out; `undefined`: never. */
  accept(bytes: number, now: number): number | undefined {
    const { delayMs, jitterMs, lossPercent, reorderPercent, rateMbit, queueKiB } = this.#conditions
    if (this.#random() * 100 < lossPercent) return undefined
    let sent = now
    if (rateMbit !== undefined) {
      const bytesPerMs = rateMbit * 125
      const waiting = Math.max(0, this.#sentAt - now) * bytesPerMs
      if (waiting + bytes > queueKiB * 1024) return undefined
      sent = Math.max(now, this.#sentAt) + bytes / bytesPerMs
      this.#sentAt = sent
    }
    if (this.#random() * 100 < reorderPercent) return sent
    const jitter = jitterMs === 0 ? 0 : (this.#random() * 2 - 1) * jitterMs
    this.#lastDue = Math.max(this.#lastDue, sent + delayMs + jitter)
    return this.#lastDue
  }
}

interface Waiting {
  due: number
  frame: Buffer
  next: Waiting | undefined
}

/** Frames on their way, in the order they come out. */
export class Transit {
  #first: Waiting | undefined
  #last: Waiting | undefined

  /** When the next frame comes out; `undefined` when none is on its way. */
  get due(): number | undefined {
    return this.#first?.due
  }

  add(due: number, frame: Buffer): void {
    const waiting: Waiting = { due, frame, next: undefined }
    if (this.#last === undefined || this.#first === undefined) this.#first = this.#last = waiting
    else if (due >= this.#last.due) this.#last = this.#last.next = waiting
    else this.#overtake(waiting)
  }

  /** The next frame that is due, if one is. */
  take(now: number): Buffer | undefined {
    const first = this.#first
    if (first === undefined || first.due > now) return undefined
    this.#first = first.next
    if (this.#first === undefined) this.#last = undefined
    return first.frame
  }

  #overtake(waiting: Waiting): void {
    if (this.#first === undefined || waiting.due < this.#first.due) {
      waiting.next = this.#first
      this.#first = waiting
      return
    }
    let before = this.#first
    while (before.next !== undefined && before.next.due <= waiting.due) before = before.next
    waiting.next = before.next
    before.next = waiting
  }
}
