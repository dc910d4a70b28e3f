import { Backoff } from '../../../src/core/kit/backoff.ts'
import type { Clock } from '../../../src/core/kit/clock.ts'

/** A relay may be gone for a second or for an hour, and all its nodes with it: soon at first, and never much too late. */
const SLOW = { firstMs: 500, limitMs: 4_000 }
/** After another process with our identity has replaced us: slower, or the two take turns replacing each other. */
const REPLACED_MS = 30_000
/**
 * While streams wait for a path. Longer: they wait longer; shorter: a relay that restarts sees all its busy nodes in one
 * moment. After this many tries it is no short interruption any longer.
 */
const QUICK = { firstMs: 200, limitMs: 400 }
const QUICK_TRIES = 25
/** After a channel that has just ended, drawn evenly from 0 to this. */
const FIRST_MOST_MS = 200
/** A relay that goes away asks for a spread over which flows would wait too long: a node with waiting flows waits at most this. */
const SOON_MOST_MS = 1_000
/** How long streams count as waiting after the last call of `expedite`. */
const EXPEDITED_MS = 1_000
/**
 * A dial that hangs is begun anew after this, then after twice as long: its SYN may have been lost, and the third comes late.
 * Smaller: a relay to which everybody returns at once never finishes a handshake.
 */
const HUNG_MS = 2_000
const DIAL_MS = 5_000
/** A channel that lasted this long was good; a relay that ends each one at once is dialled ever more slowly. */
const STEADY_MS = 10_000

/**
 * When a node dials its relay again: slowly, so that a relay which restarts is not overrun by all its nodes, or quickly, while
 * streams wait for a path.
 */
export class ReconnectPolicy {
  readonly #clock: Clock
  readonly #random: () => number
  readonly #slow: Backoff
  readonly #quick: Backoff
  #expeditedAt = Number.NEGATIVE_INFINITY
  /** Dials in a row that hung. */
  #hung = 0
  /** When the relay wants us back, as it said before it went away. */
  #backInMs: number | undefined

  constructor(clock: Clock, random: () => number) {
    this.#clock = clock
    this.#random = random
    this.#slow = new Backoff({ ...SLOW, random })
    this.#quick = new Backoff({ ...QUICK, random })
  }

  /** What failed or hung did so in a network that is gone. */
  networkChanged(): void {
    this.#slow.reset()
    this.#quick.reset()
    this.#hung = 0
  }

  /** Streams are waiting for a path; called again for as long as they do. */
  expedite(): void {
    this.#expeditedAt = this.#clock.now()
  }

  /** The relay goes away, and has said when it wants us back. */
  relayGoesAway(backInMs: number): void {
    this.#backInMs = backInMs
  }

  connected(): void {
    this.#hung = 0
  }

  /** Whether a dial that began at `since` is to be given up for a new one. Asked only while streams wait. */
  isHung(since: number): boolean {
    const limitMs = HUNG_MS * 2 ** this.#hung
    if (limitMs >= DIAL_MS || this.#clock.now() - since < limitMs) return false
    this.#hung += 1
    return true
  }

  /** The shorter rest that a rest until then is to become, as streams wait; `undefined` to leave it as it is. */
  shortened(until: number): number | undefined {
    return until - this.#clock.now() > QUICK.limitMs && this.#mayBeQuick ? this.#quick.nextMs() : undefined
  }

  /** How long to rest after a channel that began at `since` has ended. */
  afterLoss(since: number, isReplaced: boolean): number {
    if (this.#clock.now() - since > STEADY_MS) {
      this.#slow.reset()
      this.#quick.reset()
    }
    if (isReplaced) return REPLACED_MS
    const backInMs = this.#backInMs
    this.#backInMs = undefined
    if (backInMs !== undefined) return this.#mayBeQuick ? Math.min(backInMs, SOON_MOST_MS * this.#random()) : backInMs
    return this.#mayBeQuick ? FIRST_MOST_MS * this.#random() : this.#slow.nextMs()
  }

  /** How long to rest after a dial that failed. */
  afterFailure(): number {
    return this.#mayBeQuick ? this.#quick.nextMs() : this.#slow.nextMs()
  }

  get #mayBeQuick(): boolean {
    return this.#clock.now() - this.#expeditedAt < EXPEDITED_MS && this.#quick.failures < QUICK_TRIES
  }
}
