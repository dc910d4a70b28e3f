import { Backoff } from '../../../src/core/kit/backoff.ts'
import type { Clock } from '../../../src/core/kit/clock.ts'

/** A relay may be gone for a second or for an hour, and with it all its nodes: soon at first, and never much too late. */
const BACK = { firstMs: 500, limitMs: 4_000 }
/** After another process with our identity has taken our place: slower, or the two chase each other. */
const REPLACED_MS = 30_000
/**
 * While streams wait for a path: between two tries, and after a channel that has just ended. Longer: they wait longer; shorter: a
 * relay that starts again sees all its busy nodes in the same moment. After so many tries it is no short break any more.
 */
const QUICK = { firstMs: 200, limitMs: 400 }
const QUICK_TRIES = 25
const AT_ONCE_MS = 200
/** A relay that goes away asks for a spread in which flows would wait too long: at most this for nodes that have some waiting. */
const BACK_SOON_MS = 1_000
/** Streams wait as long as that is said so often. */
const HURRIED_MS = 1_000
/**
 * A dial that hangs is begun anew after this, then after twice as long: its SYN may have been swallowed, and the third comes late.
 * Smaller: a relay that all come back to at once never finishes a handshake.
 */
const PATIENCE_MS = 2_000
const DIAL_MS = 5_000
/** A channel that held so long was good; a relay that ends each one at once is asked ever more slowly. */
const STEADY_MS = 10_000

/**
 * When a node dials its relay again: slowly, so that a relay that starts again is not run down by all its nodes, or quickly, as
 * long as streams wait for a path.
 */
export class ReconnectPolicy {
  readonly #clock: Clock
  readonly #random: () => number
  readonly #slow: Backoff
  readonly #quick: Backoff
  #hurriedAt = Number.NEGATIVE_INFINITY
  /** Dials that hung, one after the other. */
  #hung = 0
  /** When the relay wants us back, as it said before it went. */
  #backInMs: number | undefined

  constructor(clock: Clock, random: () => number) {
    this.#clock = clock
    this.#random = random
    this.#slow = new Backoff({ ...BACK, random })
    this.#quick = new Backoff({ ...QUICK, random })
  }

  /** What failed, or hung, did so in a network that is not there any more. */
  afresh(): void {
    this.#slow.reset()
    this.#quick.reset()
    this.#hung = 0
  }

  /** Streams wait, now. */
  hurried(): void {
    this.#hurriedAt = this.#clock.now()
  }

  /** The relay goes away, and has said when it wants us back. */
  asked(backInMs: number): void {
    this.#backInMs = backInMs
  }

  reached(): void {
    this.#hung = 0
  }

  /** Whether a dial that began then is to be given up for a new one, as streams wait. */
  hangs(since: number): boolean {
    const patienceMs = PATIENCE_MS * 2 ** this.#hung
    if (patienceMs >= DIAL_MS || this.#clock.now() - since < patienceMs) return false
    this.#hung += 1
    return true
  }

  /** How long is enough for a rest until then, as streams wait; nothing when it is short, or they have waited too long. */
  sooner(until: number): number | undefined {
    return until - this.#clock.now() > QUICK.limitMs && this.#mayBeQuick ? this.#quick.nextMs() : undefined
  }

  /** How long a channel that began then, and has ended, is not dialled again; `isReplaced`: by another process of ours. */
  afterLoss(since: number, isReplaced: boolean): number {
    if (this.#clock.now() - since > STEADY_MS) {
      this.#slow.reset()
      this.#quick.reset()
    }
    if (isReplaced) return REPLACED_MS
    const backInMs = this.#backInMs
    this.#backInMs = undefined
    if (backInMs !== undefined) return this.#mayBeQuick ? Math.min(backInMs, BACK_SOON_MS * this.#random()) : backInMs
    return this.#mayBeQuick ? AT_ONCE_MS * this.#random() : this.#slow.nextMs()
  }

  /** How long after a dial in vain. */
  afterFailure(): number {
    return this.#mayBeQuick ? this.#quick.nextMs() : this.#slow.nextMs()
  }

  get #mayBeQuick(): boolean {
    return this.#clock.now() - this.#hurriedAt < HURRIED_MS && this.#quick.failures < QUICK_TRIES
  }
}
