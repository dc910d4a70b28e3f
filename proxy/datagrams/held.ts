/** The bytes that all waiting flows may hold together. */
export interface HeldBudget {
  bytes: number
}

export interface HeldLimits {
  datagrams: number
  bytes: number
}

/**
 * The first datagram of a flow, if it is no larger than most packets are, waits even where others hold all bytes: a few flows that are not
 * answered would shut out everybody else's. Larger: as many flows as there may be hold more memory.
 */
const FIRST_BYTES = 1_500

/** Datagrams of one flow that wait until it is open: in order, and dropped beyond the limits. */
export class Held {
  readonly #limits: HeldLimits
  readonly #budget: HeldBudget
  #datagrams: Buffer[] = []
  #bytes = 0

  constructor(limits: HeldLimits, budget: HeldBudget) {
    this.#limits = limits
    this.#budget = budget
  }

  get size(): number {
    return this.#datagrams.length
  }

  /** Keeps a copy; false when there is no room. */
  push(payload: Buffer): boolean {
    const bytes = this.#bytes + payload.length
    const isFull = this.#datagrams.length >= this.#limits.datagrams || bytes > this.#limits.bytes
    const mayWait = payload.length <= this.#budget.bytes || (this.#datagrams.length === 0 && bytes <= FIRST_BYTES)
    if (isFull || !mayWait) return false
    this.#datagrams.push(Buffer.from(payload))
    this.#bytes = bytes
    this.#budget.bytes -= payload.length
    return true
  }

  /** Everything, in order; it stays. */
  all(): readonly Buffer[] {
    return this.#datagrams
  }

  /** Everything, in order; nothing is held afterwards. */
  take(): readonly Buffer[] {
    const datagrams = this.#datagrams
    this.#budget.bytes += this.#bytes
    this.#datagrams = []
    this.#bytes = 0
    return datagrams
  }
}
