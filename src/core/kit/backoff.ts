export interface BackoffOptions {
  /** Smaller hammers a dead peer, larger leaves a healed one unused. */
  firstMs?: number
  limitMs?: number
  random?: () => number
}

/**
 * Exponential backoff with full jitter: after n failures a delay drawn evenly from [first/2, first × 2^n], capped.
 * Jitter keeps a thousand nodes that lost the same relay from coming back in the same millisecond.
 */
export class Backoff {
  readonly #firstMs: number
  readonly #limitMs: number
  readonly #random: () => number
  #failures = 0

  constructor({ firstMs = 250, limitMs = 15_000, random = Math.random }: BackoffOptions = {}) {
    this.#firstMs = firstMs
    this.#limitMs = limitMs
    this.#random = random
  }

  get failures(): number {
    return this.#failures
  }

  /** The delay before the next try, after one more failure. */
  nextMs(): number {
    const ceiling = Math.min(this.#limitMs, this.#firstMs * 2 ** this.#failures)
    this.#failures = Math.min(this.#failures + 1, 30)
    const floor = Math.min(this.#firstMs / 2, ceiling)
    return floor + this.#random() * (ceiling - floor)
  }

  reset(): void {
    this.#failures = 0
  }
}
