/**
 * Packets per second that carry our receiver index and do not open. Smaller: damaged packets can interrupt a flow; larger: each
 * costs an AEAD call of 6 to 9 µs, and honest packets are lost behind them.
 */
const MAX_FORGED_PER_SECOND = 250
/** Pauses, each after the one before was in vain. Smaller: an attack costs more; larger: the path is used again later. */
const PAUSE_MS = [5_000, 10_000, 20_000, 60_000] as const
/** After this long without a pause, the next one is short again. */
const FORGET_MS = 120_000

/**
 * Whether packets of a channel are opened at all. Someone who sees the path can send packets with the right receiver index, and each
 * costs us as much as a genuine one; when there are many, all are dropped unopened, and datagrams go in frames for a while.
 *
 *     opening ──more than 250 forged in a second──▶ paused ──5 s, then 10, 20, 60 s──▶ opening
 */
export class ForgeryGuard {
  #forged = 0
  #since = Number.NEGATIVE_INFINITY
  #pauses = 0
  #pausedUntil = Number.NEGATIVE_INFINITY

  isPaused(now: number): boolean {
    return now < this.#pausedUntil
  }

  /** A packet did not open; returns the length of the pause that begins now, if one does. */
  forged(now: number): number | undefined {
    if (now - this.#since >= 1_000) {
      this.#since = now
      this.#forged = 0
    }
    this.#forged += 1
    if (this.#forged <= MAX_FORGED_PER_SECOND) return undefined
    this.#forged = 0
    if (now - this.#pausedUntil >= FORGET_MS) this.#pauses = 0
    const ms = PAUSE_MS[Math.min(this.#pauses, PAUSE_MS.length - 1)]!
    this.#pauses += 1
    this.#pausedUntil = now + ms
    return ms
  }
}
