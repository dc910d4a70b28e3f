import { TokenBucket } from '../../../src/core/kit/token-bucket.ts'
import type { Refusal } from '../contract.ts'
import type { TunnelLimits } from '../limits.ts'

/** Whether a session takes one more stream that the peer opens: as many as may be open, may wait, and may come a second. */
export class OpenAdmission {
  readonly #limits: TunnelLimits
  readonly #opens: TokenBucket | undefined

  constructor(limits: TunnelLimits, now: () => number) {
    this.#limits = limits
    const { opensPerSecond: perSecond } = limits
    if (perSecond !== undefined) this.#opens = new TokenBucket({ perSecond, burst: perSecond, now })
  }

  whyNot(open: { streams: number; pending: number }): Refusal | undefined {
    const { streams, pendingOpens } = this.#limits
    if (open.streams >= streams || open.pending >= pendingOpens) return 'overloaded'
    return this.#opens?.tryTake() === false ? 'overloaded' : undefined
  }
}
