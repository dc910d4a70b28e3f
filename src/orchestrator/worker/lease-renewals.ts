import type { Clock } from '../../core/kit/clock.ts'
import type { Log } from '../../core/kit/log.ts'

/** What may run only while the cluster answers (worker/leases.ts). */
export interface UplinkLeases {
  /** Seconds; `undefined`: nothing needs one. */
  readonly shortest: number | undefined
  now(): number
  renewed(sentAt: number): void
}

export interface LeaseRenewalsParts {
  leases: UplinkLeases | undefined
  /** Resolves with the answer of the cluster. */
  ask: () => Promise<unknown>
  clock: Clock
  log: Log
}

/** Asks the cluster for the leases of what runs here, again and again for as long as something needs one. */
export class LeaseRenewals implements Disposable {
  readonly #parts: LeaseRenewalsParts
  #cancel = () => undefined as void
  #isClosed = false

  constructor(parts: LeaseRenewalsParts) {
    this.#parts = parts
  }

  /** What was assigned asks in its next turn. */
  renewSoon(): void {
    setImmediate(() => this.renew())
  }

  /** Three times within the shortest lease, so that one answer may be lost. */
  renew(): void {
    const { leases, ask, clock, log } = this.#parts
    const seconds = leases?.shortest
    this.#cancel()
    if (leases === undefined || seconds === undefined || this.#isClosed) return
    this.#cancel = clock.after((seconds * 1_000) / 3, () => this.renew())
    const sentAt = leases.now()
    ask().then(
      () => leases.renewed(sentAt),
      (error: unknown) => log.warn('leases of instances not renewed', { error }),
    )
  }

  [Symbol.dispose](): void {
    this.#isClosed = true
    this.#cancel()
  }
}
