import type { EarlySource } from './connect.ts'
import type { ByteStream } from '../tunnel/contract.ts'
import { MAX_EARLY_BYTES } from '../tunnel/wire/frame.ts'
import { Retained } from '../tunnel/stream/retained.ts'

/*
 * What a caller says before an instance has answered. It travels right behind OPEN, so that the answer comes after one round trip
 * instead of two:
 *
 *     caller ─bytes─▶ kept ──▶ the one candidate that is asked ─┬─ OPENED  ─▶ the rest follows
 *                      │                                        ├─ REFUSED ─▶ the next candidate gets them from the start
 *                      └ to the winner, when nobody got them    └─ lost    ─▶ the flow ends with RST
 *
 * A request is never given to two instances. Only REFUSED proves that a candidate's instance had none of the bytes (mux-stream.ts),
 * so a candidate that has them is never passed over as long as it says nothing: after its patience it is asked to give them back
 * (WITHDRAW), which it does with REFUSED unless the instance has them. A node that is dead answers nothing at all: the flow then
 * waits for the session to come back, or for its deadline. So that this happens to few flows, bytes go along only where nothing the
 * session has asked is overdue. A caller that says nothing is hedged as ever, and what it says once two are asked waits for OPENED.
 */

/** Stands for the instance until there is one: the far side of the caller's joint. */
export class EarlyData implements ByteStream, EarlySource<ByteStream> {
  readonly #listen: () => void
  /** Up to MAX_EARLY_BYTES and one chunk. */
  readonly #kept = new Retained()
  #hasEnded = false
  #to: ByteStream | undefined
  #onSpoken: (() => void) | undefined
  #isOver = false

  /** `listen`: the caller is to be read from now on; called more than once. */
  constructor(listen: () => void) {
    this.#listen = listen
  }

  /** Something was said. */
  get hasSpoken(): boolean {
    return this.#kept.length > 0 || this.#hasEnded
  }

  feed(to: ByteStream, spoken: () => void): void {
    this.#to = to
    this.#onSpoken = spoken
    if (this.hasSpoken) {
      this.#told()
      this.#tell(to)
    }
    this.#listen()
  }

  pause(): void {
    this.#to = undefined
    this.#onSpoken = undefined
  }

  /** The winner has all of it from here on, and what follows is written to it without us. */
  settle(winner: ByteStream): void {
    if (this.#to !== winner) this.#tell(winner)
    this.drop()
  }

  /** Nobody will have it. */
  drop(): void {
    this.#isOver = true
    this.pause()
    this.#kept.clear()
  }

  // ── the caller's joint writes here ──

  write(chunk: Buffer): boolean {
    if (this.#isOver) return true
    this.#kept.push(chunk)
    this.#told()
    this.#to?.write(chunk)
    return this.#kept.length < MAX_EARLY_BYTES
  }

  end(): void {
    if (this.#isOver) return
    this.#hasEnded = true
    this.#told()
    this.#to?.end()
  }

  /** The caller's socket has closed, and tells the race by itself. */
  reset(): void {
    this.drop()
  }

  consumed(): void {
    // nothing is said to the caller before OPENED
  }

  #told(): void {
    this.#onSpoken?.()
    this.#onSpoken = undefined
  }

  #tell(to: ByteStream): void {
    const { length } = this.#kept
    if (length > 0) {
      const bytes = Buffer.allocUnsafe(length)
      this.#kept.rewind()
      this.#kept.read(bytes, 0, length)
      to.write(bytes)
    }
    if (this.#hasEnded) to.end()
  }
}
