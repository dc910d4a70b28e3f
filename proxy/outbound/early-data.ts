import type { EarlySource } from './connect.ts'
import type { ByteStream } from '../tunnel/contract.ts'
import { MAX_EARLY_BYTES } from '../tunnel/wire/frame.ts'
import { Retained } from '../tunnel/stream/retained.ts'

/*
 * Early data: the bytes that a caller sends before an instance has answered. They follow OPEN at once, so that the answer
 * comes after one round trip instead of two:
 *
 *     caller ─bytes─▶ kept ──▶ the one candidate that is asked ─┬─ OPENED  ─▶ the rest follows
 *                      │                                        ├─ REFUSED ─▶ the next candidate gets them from the start
 *                      └ to the winner, when no other got them  └─ lost    ─▶ the flow ends with RST
 *
 * A request is never given to two instances. Only REFUSED proves that a candidate's instance got none of the bytes. So a
 * silent candidate that was fed is not simply passed over: it is asked to give the bytes back (WITHDRAW), and answers REFUSED
 * unless its instance has them. A dead node does not answer at all: the flow then waits for the session to come back, or for
 * its deadline. To make this rare, bytes go along only while no answer of the peer is overdue (decide/early.ts). A caller that
 * sends nothing first is raced as usual, and what it sends once two candidates are asked waits for OPENED.
 */

/** Stands in for the instance until there is one: the far side of the caller's splice. */
export class EarlyData implements ByteStream, EarlySource<ByteStream> {
  readonly #startReading: () => void
  /** Up to MAX_EARLY_BYTES and one chunk. */
  readonly #kept = new Retained()
  #hasEnded = false
  #to: ByteStream | undefined
  #onFirst: (() => void) | undefined
  #isOver = false

  /** `startReading`: reads the caller from now on; called more than once. */
  constructor(startReading: () => void) {
    this.#startReading = startReading
  }

  /** The caller has sent something, or has ended its side. */
  get hasData(): boolean {
    return this.#kept.length > 0 || this.#hasEnded
  }

  feed(to: ByteStream, onFirst: () => void): void {
    this.#to = to
    this.#onFirst = onFirst
    if (this.hasData) {
      this.#reportFirst()
      this.#writeAll(to)
    }
    this.#startReading()
  }

  pause(): void {
    this.#to = undefined
    this.#onFirst = undefined
  }

  /** The winner has all of it from here on; what follows is written to it directly. */
  settle(winner: ByteStream): void {
    if (this.#to !== winner) this.#writeAll(winner)
    this.drop()
  }

  /** No instance will get it. */
  drop(): void {
    this.#isOver = true
    this.pause()
    this.#kept.clear()
  }

  // ── the caller's splice writes here ──

  write(chunk: Buffer): boolean {
    if (this.#isOver) return true
    this.#kept.push(chunk)
    this.#reportFirst()
    this.#to?.write(chunk)
    return this.#kept.length < MAX_EARLY_BYTES
  }

  end(): void {
    if (this.#isOver) return
    this.#hasEnded = true
    this.#reportFirst()
    this.#to?.end()
  }

  /** The caller's socket has closed; the race hears of it from the socket. */
  reset(): void {
    this.drop()
  }

  consumed(): void {
    // nothing is sent to the caller before OPENED, so there is no credit to give back
  }

  #reportFirst(): void {
    this.#onFirst?.()
    this.#onFirst = undefined
  }

  #writeAll(to: ByteStream): void {
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
