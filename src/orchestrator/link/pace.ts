/**
 * How often the ends of a link say that they live, and how long a silent peer is believed. Each heartbeat says when the next one comes:
 *
 *     node in use   {"beat":1,"next":1000}  ─▶ cluster     {"beat":1,"next":1000}     dead after 2.7 s of silence
 *     node at rest  {"beat":1,"next":12000} ─▶ cluster     at once: {"beat":1,"next":17000}
 *     peer of an earlier version  {"beat":1}               it expects a heartbeat each second, and gets it
 *
 * What shows whom a failure while a node is at rest:
 *
 *     machine or network of the node is gone      the cluster's kernel, which probes an idle connection: after 4 s
 *     the node's agent hangs                      the cluster, which hears no heartbeat: after 15 s
 *     the cluster hangs, or its machine is gone   the node, which gets no answer: after 20 s. It runs on with what it knows; only the
 *                                                 cluster places anything elsewhere, so only the cluster's end must know soon
 *
 * A probe and its answer are 104 bytes, a heartbeat and what it causes 250. Since the cluster speaks only when it has just heard the node,
 * nothing of it is on its way while a node dies, but within one round trip: the kernel does not probe a connection with something unacknowledged.
 */

/** Less and one delayed heartbeat ends a link; more and new flows still go to a dead node. */
const BEAT_MS = 1_000
const SILENCE_MS = 2_700
/** Of a node that carries nothing. Smaller costs messages that nobody needs, larger finds a hung agent later. */
const REST_MS = 12_000
/** Beyond the announced time. Smaller ends links of busy machines, larger finds a hung agent later. */
const LATE_MS = 3_000
/** What an answer may take besides, at a cluster that a thousand nodes keep busy. */
const ANSWER_MS = 5_000
/** The longest time that a heartbeat announces (wire.ts). */
export const MOST_MS = 60_000
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

  /** The peer is at rest and we follow it: we send a heartbeat when we have one of it, and at no other time. */
  get isAnswering(): boolean {
    return this.#options.isAtRest === undefined && (this.#announced ?? BEAT_MS) > BEAT_MS
  }

  /** Until our next heartbeat, as this one announces it. */
  nextMs(): number {
    const { isAtRest, now } = this.#options
    if (isAtRest?.() === false) this.#busyAt = now()
    if (this.#announced === undefined) return BEAT_MS
    if (isAtRest === undefined) return this.isAnswering ? Math.min(this.#announced + ANSWER_MS, MOST_MS) : BEAT_MS
    return now() - this.#busyAt >= QUIET_MS ? REST_MS : BEAT_MS
  }

  /** A peer that is silent for longer is dead. */
  get silenceMs(): number {
    const announced = this.#announced ?? BEAT_MS
    return announced <= BEAT_MS ? SILENCE_MS : announced + LATE_MS
  }
}
