/** A doubled window must make the stream faster by this factor, or it only made the queue in front of it longer. */
const WORTH = 1.25
/** After a doubling that was not worth it, so long until the next. */
const HOLD_MS = 5_000

/**
 * How much one stream's sender may have under way: starts small and doubles as bandwidth × RTT asks for it. A round is a whole
 * window consumed.
 *
 *     steady ──a round took less than two round trips: the window sets the pace──▶ doubled
 *     doubled ──a round later──▶ measured ──faster by a quarter?── yes ▶ steady (and perhaps again)
 *                                                               └─ no ▶ halved again, held for 5 s
 */
export class Window {
  bytes: number
  readonly #first: number
  readonly #limit: number
  #trial: 'steady' | 'doubled' | 'measured' = 'steady'
  #rateBefore = 0
  #mayGrowAt = 0
  #roundFrom = 0
  #roundAt: number

  constructor({ first, limit, now }: { first: number; limit: number; now: number }) {
    this.bytes = first
    this.#first = first
    this.#limit = limit
    this.#roundAt = now
  }

  /** By how much it has grown. */
  get grownBytes(): number {
    return this.bytes - this.#first
  }

  isRoundOver(consumed: number): boolean {
    return consumed - this.#roundFrom >= this.bytes
  }

  /** Ends a round; `mayGrow` says whether the session can afford more. Returns by how many bytes the window changed. */
  round(at: { consumed: number; now: number; rttMs: number | undefined }, mayGrow: (bytes: number) => boolean): number {
    const ms = Math.max(at.now - this.#roundAt, 0.001)
    const rate = (at.consumed - this.#roundFrom) / ms
    this.#roundFrom = at.consumed
    this.#roundAt = at.now
    switch (this.#trial) {
      case 'doubled':
        this.#trial = 'measured'
        return 0
      case 'measured':
        this.#trial = 'steady'
        if (rate >= this.#rateBefore * WORTH) return 0
        this.#mayGrowAt = at.now + HOLD_MS
        this.bytes /= 2
        return -this.bytes
      case 'steady': {
        const isPacedByWindow = at.rttMs !== undefined && ms < 2 * at.rttMs
        const step = this.bytes
        if (!isPacedByWindow || at.now < this.#mayGrowAt || step * 2 > this.#limit || !mayGrow(step)) return 0
        this.bytes += step
        this.#rateBefore = rate
        this.#trial = 'doubled'
        return step
      }
      default:
        return this.#trial satisfies never
    }
  }
}
