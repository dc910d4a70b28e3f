import type { Carrier } from '../carrier/carrier.ts'

/** More are forgotten, oldest first: the peer then learns it when it resumes. */
const LIMIT = 16_384

/**
 * RESETs that the peer may not have heard yet: said again elsewhere when their carrier dies first. A pong proves that all that
 * was said before its ping has arrived.
 */
export class PendingResets {
  readonly #resets = new Map<number, { carrier: Carrier | undefined; at: number }>()

  get size(): number {
    return this.#resets.size
  }

  add(stream: number, carrier: Carrier | undefined, now: number): void {
    this.#resets.set(stream, { carrier, at: now })
    if (this.#resets.size <= LIMIT) return
    for (const oldest of this.#resets.keys()) return void this.#resets.delete(oldest)
  }

  has(stream: number): boolean {
    return this.#resets.has(stream)
  }

  /** All that was said on this carrier before `pingedAt` has arrived. */
  confirmed(carrier: Carrier, pingedAt: number): void {
    for (const [stream, { carrier: on, at }] of this.#resets) {
      if (on === carrier && at < pingedAt) this.#resets.delete(stream)
    }
  }

  /** What was said on a carrier that is gone; it waits to be said on the next. */
  carrierLost(carrier: Carrier): void {
    for (const reset of this.#resets.values()) if (reset.carrier === carrier) reset.carrier = undefined
  }

  /** What is to be said again, on this carrier. */
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
