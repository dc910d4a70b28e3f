import { LONG_RTT_MS } from '../carrier/in-flight.ts'

/** A doubled window must make the stream faster by this factor, or it only made the queue in front of it longer. */
const WORTH = 1.25
/** The pause after a doubling that was not worth it. Smaller: more useless doublings; larger: a faster path is used later. */
const HOLD_MS = 5_000
/**
 * What a window covers on a long path, in round trips: one is in flight, one or more wait behind a lost packet, and ACKs are a
 * quarter of a window late. Smaller: loss halves the rate of a stream. Larger: a reader that stalls holds more memory.
 */
const COVERED = 4

/**
 * How much the sender of one stream may have in flight: starts small, and grows with the bandwidth-delay product.
 *
 * On a short path it doubles and measures; a round is one whole window consumed:
 *
 *     steady ──a round took less than two round trips: the window sets the pace──▶ doubled
 *     doubled ──a round later──▶ measured ──faster by a quarter?── yes ▶ steady (and perhaps again)
 *                                                               └─ no ▶ halved again, held for 5 s
 *
 * On a long path it becomes four times what was consumed in a round trip. A measurement there would show the loss of a packet,
 * not the effect of the window.
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

  /** Whether a round may have ended; cheap. */
  hasRoundEnded(consumed: number, now: number): boolean {
    return consumed - this.#roundFrom >= this.bytes || now - this.#roundAt >= LONG_RTT_MS
  }

  /** Ends a round if it has ended; `mayGrow`: whether the session can afford more. Returns by how many bytes the window changed. */
  round(at: { consumed: number; now: number; rttMs: number | undefined }, mayGrow: (bytes: number) => boolean): number {
    const bytes = at.consumed - this.#roundFrom
    const ms = Math.max(at.now - this.#roundAt, 0.001)
    const isLong = at.rttMs !== undefined && at.rttMs >= LONG_RTT_MS
    if (isLong ? ms < at.rttMs! : bytes < this.bytes) return 0
    this.#roundFrom = at.consumed
    this.#roundAt = at.now
    if (isLong) return this.#cover((COVERED * bytes * at.rttMs!) / ms, mayGrow)
    return this.#tryMore({ rate: bytes / ms, ms, now: at.now, rttMs: at.rttMs }, mayGrow)
  }

  #cover(wanted: number, mayGrow: (bytes: number) => boolean): number {
    this.#trial = 'steady'
    let next = this.bytes
    while (next < wanted && next * 2 <= this.#limit) next *= 2
    while (next > this.bytes && !mayGrow(next - this.bytes)) next /= 2
    const step = next - this.bytes
    this.bytes = next
    return step
  }

  #tryMore(
    { rate, ms, now, rttMs }: { rate: number; ms: number; now: number; rttMs: number | undefined },
    mayGrow: (bytes: number) => boolean,
  ): number {
    switch (this.#trial) {
      case 'doubled':
        this.#trial = 'measured'
        return 0
      case 'measured':
        this.#trial = 'steady'
        if (rate >= this.#rateBefore * WORTH) return 0
        this.#mayGrowAt = now + HOLD_MS
        this.bytes /= 2
        return -this.bytes
      case 'steady': {
        const isPacedByWindow = rttMs !== undefined && ms < 2 * rttMs
        const step = this.bytes
        if (!isPacedByWindow || now < this.#mayGrowAt || step * 2 > this.#limit || !mayGrow(step)) return 0
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
