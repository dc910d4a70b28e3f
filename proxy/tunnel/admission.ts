import type { Refusal } from './contract.ts'
import type { TunnelLimits } from './limits.ts'

/** Whether a session takes one more stream that the peer opens: as many as may be open, may wait, and may come a second. */
export class Admission {
  readonly #limits: TunnelLimits
  #tokens: number
  #tokensAt: number

  constructor(limits: TunnelLimits, now: number) {
    this.#limits = limits
    this.#tokens = limits.opensPerSecond ?? Number.POSITIVE_INFINITY
    this.#tokensAt = now
  }

  whyNot(open: { streams: number; pending: number }, now: number): Refusal | undefined {
    const { streams, pendingOpens, opensPerSecond } = this.#limits
    if (open.streams >= streams || open.pending >= pendingOpens) return 'overloaded'
    if (opensPerSecond === undefined) return undefined
    this.#tokens = Math.min(opensPerSecond, this.#tokens + ((now - this.#tokensAt) / 1000) * opensPerSecond)
    this.#tokensAt = now
    if (this.#tokens < 1) return 'overloaded'
    this.#tokens -= 1
    return undefined
  }
}
