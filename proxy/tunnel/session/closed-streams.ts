import type { Carrier } from '../carrier/carrier.ts'

/*
 * Streams that have ended here, as far as the peer may not know that yet: RESETs that may be lost with their carrier, and ids of
 * streams whose OPEN may be repeated.
 */

/** Beyond this the oldest are forgotten: the peer then learns it when it resumes. */
const RESETS = 16_384
/** Beyond this the oldest are forgotten. Larger: more memory for each session; smaller: fewer flows may end while an OPEN is being repeated. */
const TOMBSTONES = 4_096

/**
 * RESETs that the peer may not have received: repeated on another carrier when theirs dies first. A PONG proves that everything
 * that was sent before its PING has arrived.
 */
export class PendingResets {
  readonly #resets = new Map<number, { carrier: Carrier | undefined; at: number }>()

  get size(): number {
    return this.#resets.size
  }

  /** No `carrier`: it waits for the next one. */
  add(stream: number, carrier: Carrier | undefined, now: number): void {
    this.#resets.set(stream, { carrier, at: now })
    if (this.#resets.size <= RESETS) return
    for (const oldest of this.#resets.keys()) return void this.#resets.delete(oldest)
  }

  has(stream: number): boolean {
    return this.#resets.has(stream)
  }

  /** Everything that was sent on this carrier before `pingedAt` has arrived. */
  confirmed(carrier: Carrier, pingedAt: number): void {
    for (const [stream, { carrier: on, at }] of this.#resets) {
      if (on === carrier && at < pingedAt) this.#resets.delete(stream)
    }
  }

  /** What was sent on a carrier that is gone waits to be repeated on the next. */
  carrierLost(carrier: Carrier): void {
    for (const reset of this.#resets.values()) if (reset.carrier === carrier) reset.carrier = undefined
  }

  /** The streams whose RESET must be repeated, on this carrier. */
  resend(carrier: Carrier, now: number): number[] {
    const streams: number[] = []
    for (const [stream, reset] of this.#resets) {
      if (reset.carrier !== undefined) continue
      reset.carrier = carrier
      reset.at = now
      streams.push(stream)
    }
    return streams
  }
}

/**
 * Streams that the peer opened with early bytes, and that have ended. When the carrier of their OPEN is lost, the peer repeats
 * it, and it must not be taken twice. Searched only then; remembering one costs one store.
 */
export class Tombstones {
  #ids: Uint32Array | undefined
  #next = 0

  add(stream: number): void {
    this.#ids ??= new Uint32Array(TOMBSTONES)
    this.#ids[this.#next] = stream
    this.#next = (this.#next + 1) % TOMBSTONES
  }

  has(stream: number): boolean {
    return this.#ids?.includes(stream) === true
  }
}
