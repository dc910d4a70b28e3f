export interface BucketOptions {
  perSecond: number
  /** What may be taken at once after a rest. */
  burst: number
  now?: () => number
}

/** A token bucket: without a token a caller is refused (`tryTake`), or goes into debt and waits until it is paid (`take`). */
export class TokenBucket {
  readonly #perMs: number
  readonly #burst: number
  readonly #now: () => number
  #level: number
  #at: number

  constructor({ perSecond, burst, now = () => performance.now() }: BucketOptions) {
    this.#perMs = perSecond / 1_000
    this.#burst = burst
    this.#now = now
    this.#level = burst
    this.#at = now()
  }

  /** Takes one token; false when there is none. */
  tryTake(): boolean {
    this.#fill()
    if (this.#level < 1) return false
    this.#level -= 1
    return true
  }

  /** Takes tokens that may not be there yet; wait `waitMs` afterwards. */
  take(amount: number): void {
    this.#fill()
    this.#level -= amount
  }

  /** How long until the debt is paid; 0 while there is none. */
  get waitMs(): number {
    this.#fill()
    return this.#level >= 0 ? 0 : -this.#level / this.#perMs
  }

  /** Nothing was taken for a while: a new bucket would be in the same state. */
  get isFull(): boolean {
    this.#fill()
    return this.#level >= this.#burst
  }

  #fill(): void {
    const now = this.#now()
    this.#level = Math.min(this.#burst, this.#level + Math.max(0, now - this.#at) * this.#perMs)
    this.#at = now
  }
}
