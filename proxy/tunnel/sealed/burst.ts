/** Datagrams per second to one node that make a burst. Smaller: calls and games go in frames too, where one loss delays all. */
const BURST_PER_SECOND = 10_000
/** Only on paths shorter than this, where TCP repairs a loss before anyone notices. */
const NEAR_MS = 5
/** The pause after frames were dropped: the carrier is the bottleneck. */
const PAUSE_MS = 10_000

/**
 * Whether datagrams go in frames although they could be sealed, because there are very many of them.
 *
 * Sealing costs one AEAD call per packet, which takes Node 6 to 9 µs; TLS seals 16 KiB with one, which is five times cheaper for
 * datagrams of 1,200 bytes (test/bench/sealed-micro.ts). So a burst on a near path takes the carrier until it ends, or until frames
 * are dropped.
 *
 *     calm ──≥ 10,000/s, near──▶ burst ──< 5,000/s, or dropped frames (then not again for 10 s)──▶ calm
 */
export class Burst {
  readonly #perSecond: number
  #isOn = false
  #count = 0
  #since = 0
  #dropped = 0
  #pausedUntil = 0

  constructor(perSecond = BURST_PER_SECOND) {
    this.#perSecond = perSecond
  }

  get isOn(): boolean {
    return this.#isOn
  }

  /** A datagram is sent, in a frame or sealed. */
  sent(): void {
    this.#count += 1
  }

  /** `framesDropped` counts since the start. */
  tick(now: number, { rttMs, framesDropped }: { rttMs: number | undefined; framesDropped: number }): void {
    const elapsed = now - this.#since
    if (elapsed <= 0) return
    const perSecond = (this.#count / elapsed) * 1_000
    const hasDropped = framesDropped > this.#dropped
    this.#count = 0
    this.#since = now
    this.#dropped = framesDropped
    if (this.#isOn && hasDropped) this.#pausedUntil = now + PAUSE_MS
    const isNear = rttMs !== undefined && rttMs <= NEAR_MS
    this.#isOn = isNear && now >= this.#pausedUntil && perSecond >= (this.#isOn ? this.#perSecond / 2 : this.#perSecond)
  }
}
