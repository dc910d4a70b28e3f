/** Size of the ring; packets may overtake each other by all its bits except one word. */
const WORDS = 128
const BITS = 32
export const REPLAY_WINDOW = (WORDS - 1) * BITS

/**
 * Which packet numbers have arrived, over a window that moves with the highest one (RFC 6479: a ring of words, so that moving it
 * clears words instead of shifting bits).
 */
export class ReplayWindow {
  readonly #words = new Uint32Array(WORDS)
  #highest = -1

  /** The highest number so far; -1 before the first. */
  get highest(): number {
    return this.#highest
  }

  /** Not seen yet, and not older than the window. */
  isNew(number: number): boolean {
    if (number > this.#highest) return true
    if (number + REPLAY_WINDOW <= this.#highest) return false
    return (this.#words[Math.floor(number / BITS) % WORDS]! & (1 << (number % BITS))) === 0
  }

  /** Only for a number that `isNew`, of an authentic packet. */
  take(number: number): void {
    const word = Math.floor(number / BITS)
    if (number > this.#highest) {
      const before = Math.floor(Math.max(this.#highest, 0) / BITS)
      const cleared = Math.min(word - before, WORDS)
      for (let i = 0; i < cleared; i++) this.#words[(word - i) % WORDS] = 0
      this.#highest = number
    }
    this.#words[word % WORDS]! |= 1 << (number % BITS)
  }
}
