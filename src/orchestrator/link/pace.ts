/**
 * How often the ends of a link say that they live, and how long a silent peer is believed. Each heartbeat says when the next one comes:
 *
 *     node in use   {"beat":1,"next":1000}  ─▶ cluster     {"beat":1,"next":1000}     dead after 2.7 s of silence
 *     node at rest  {"beat":1,"next":10000} ─▶ cluster     {"beat":1,"next":20000}    after 15 s; a dead machine or network, which
 *                                                                                     the kernel probes, after 4 s
 *     peer of an earlier version  {"beat":1}               it expects a heartbeat each second, and gets it
 */

/** Less and one delayed heartbeat ends a link; more and new flows still go to a dead node. */
const BEAT_MS = 1_000
const SILENCE_MS = 2_700
/** Of a node that carries nothing. Smaller costs messages that nobody needs, larger finds a hung agent later. */
const REST_MS = 10_000
/** Beyond the announced time. */
const LATE_MS = 5_000
/** A node that has carried nothing for this long is at rest; one that has carried nothing yet is so from the start: many may come at once. */
const QUIET_MS = 30_000

export interface PaceOptions {
  /** Nothing that depends on this end at once is under way; absent at an end that follows the other one. */
  isAtRest?: (() => boolean) | undefined
  /** Monotonic, in milliseconds. */
  now: () => number
}

export class Pace {
  readonly #options: PaceOptions
  /** As the peer announced it; `undefined` for one of an earlier version, or that has not spoken yet. */
  #announced: number | undefined
  #busyAt = Number.NEGATIVE_INFINITY

  constructor(options: PaceOptions) {
    this.#options = options
  }

  /** A heartbeat of the peer. */
  heard(next: number | undefined): void {
    this.#announced = next
  }

  /** Until our next heartbeat, as this one announces it. */
  nextMs(): number {
    const { isAtRest, now } = this.#options
    if (isAtRest?.() === false) this.#busyAt = now()
    if (this.#announced === undefined) return BEAT_MS
    if (isAtRest === undefined) return this.#announced > BEAT_MS ? 2 * REST_MS : BEAT_MS
    return now() - this.#busyAt >= QUIET_MS ? REST_MS : BEAT_MS
  }

  /** A peer that is silent for longer is dead. */
  get silenceMs(): number {
    const announced = this.#announced ?? BEAT_MS
    return announced <= BEAT_MS ? SILENCE_MS : announced + LATE_MS
  }
}
