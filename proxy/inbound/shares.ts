import { BoundedMap } from '../../src/core/kit/bounded-map.ts'
import { TokenBucket } from '../../src/core/kit/token-bucket.ts'
import type { InstanceId, NodeId } from '../../src/core/model/ids.ts'
import { Counts } from '../../src/core/kit/counts.ts'

/** What one peer, and what one instance, may take of this node, so that there is room for the others (SEC-18). */
export interface ShareLimits {
  /**
   * The part of `maxFlows` that flows of one peer, or to one instance, may take, and the part of an instance's flows that those of
   * one peer may be. Larger: one of them can shut out the others.
   */
  ofFlows: number
  /** Flows that one peer may open to one instance in a second, with a burst of as many. Smaller: a busy gateway is refused. */
  opensPerPeer: number
  /** The same of all peers together. Larger: a flood from many peers keeps the instance from serving anyone. */
  opensPerInstance: number
}

export const SHARE_LIMITS: ShareLimits = {
  ofFlows: 0.75,
  opensPerPeer: 3_000,
  opensPerInstance: 6_000,
}

/** Rates that are remembered; a flood of names cannot make us keep more, and the oldest has most likely recovered. */
const RATES = 1_024

/** Counts the flows of other nodes by peer and by instance, from the OPEN on, and refuses what exceeds a share. */
export class Shares {
  readonly #limits: ShareLimits & { maxFlows: number }
  readonly #now: () => number
  readonly #openByPeer = new Counts<NodeId>()
  readonly #openByInstance = new Counts<InstanceId>()
  readonly #openByBoth = new Counts<string>()
  readonly #rates = new BoundedMap<string, TokenBucket>(RATES)

  constructor(limits: ShareLimits & { maxFlows: number }, now: () => number) {
    this.#limits = limits
    this.#now = now
  }

  /** Flows that are open, or are being opened. */
  get size(): number {
    return this.#openByPeer.total
  }

  /** The share that is used up, if one is. */
  admit(peer: NodeId, instance: InstanceId): string | undefined {
    const { maxFlows, ofFlows, opensPerPeer, opensPerInstance } = this.#limits
    const mostOpen = Math.ceil(maxFlows * ofFlows)
    if (this.#openByPeer.of(peer) >= mostOpen) return 'too many flows of this node are open'
    if (this.open(instance) >= mostOpen) return 'too many flows to the instance are open'
    const both = `${peer} ${instance}`
    if (this.#openByBoth.of(both) >= Math.ceil(mostOpen * ofFlows))
      return 'too many flows of this node to the instance are open'
    if (!this.#rate(both, opensPerPeer).tryTake()) return 'this node opens flows to the instance too fast'
    if (!this.#rate(instance, opensPerInstance).tryTake()) return 'flows to the instance are opened too fast'
    return undefined
  }

  /** A flow is being opened (1), or has ended (-1). */
  changeOpen(peer: NodeId, instance: InstanceId, by: 1 | -1): void {
    this.#openByPeer.change(peer, by)
    this.#openByInstance.change(instance, by)
    this.#openByBoth.change(`${peer} ${instance}`, by)
  }

  /** Flows to an instance, also those being opened. */
  open(instance: InstanceId): number {
    return this.#openByInstance.of(instance)
  }

  #rate(key: string, perSecond: number): TokenBucket {
    return this.#rates.getOrCreate(key, () => new TokenBucket({ perSecond, burst: perSecond, now: this.#now }))
  }
}
