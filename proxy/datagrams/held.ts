/** The bytes that all waiting flows may hold together. */
export interface HeldBudget {
  bytes: number
}

export interface HeldLimits {
  datagrams: number
  bytes: number
}

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
    if (isFull || payload.length > this.#budget.bytes) return false
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
