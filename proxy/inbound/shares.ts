import { BoundedMap } from '../../src/core/kit/bounded-map.ts'
import { TokenBucket } from '../../src/core/kit/token-bucket.ts'
import type { InstanceId, NodeId } from '../../src/core/model/ids.ts'

/** What one peer, and what one instance, may take of this node, so that there is room for the others (SEC-18). */
export interface ShareLimits {
  /** The part of `maxFlows` that flows of one peer, or to one instance, may take. Larger: one of them can shut out the others. */
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

/**
 * Counts the flows of other nodes by peer and by instance, and refuses what exceeds a share. Flows that wait for a dial are
 * bounded by the dial queue.
 */
export class Shares {
  readonly #limits: ShareLimits & { maxFlows: number }
  readonly #now: () => number
  readonly #openByPeer = new Map<NodeId, number>()
  readonly #openByInstance = new Map<InstanceId, number>()
  readonly #rates = new BoundedMap<string, TokenBucket>(RATES)

  constructor(limits: ShareLimits & { maxFlows: number }, now: () => number) {
    this.#limits = limits
    this.#now = now
  }

  /** The share that is used up, if one is. */
  admit(peer: NodeId, instance: InstanceId): string | undefined {
    const { maxFlows, ofFlows, opensPerPeer, opensPerInstance } = this.#limits
    const mostOpen = Math.ceil(maxFlows * ofFlows)
    if ((this.#openByPeer.get(peer) ?? 0) >= mostOpen) return 'too many flows of this node are open'
    if (this.open(instance) >= mostOpen) return 'too many flows to the instance are open'
    if (!this.#rate(`${peer} ${instance}`, opensPerPeer).tryTake())
      return 'this node opens flows to the instance too fast'
    if (!this.#rate(instance, opensPerInstance).tryTake()) return 'flows to the instance are opened too fast'
    return undefined
  }

  /** A flow is open (1), or has ended (-1). */
  changeOpen(peer: NodeId, instance: InstanceId, by: 1 | -1): void {
    change(this.#openByPeer, peer, by)
    change(this.#openByInstance, instance, by)
  }

  /** Open flows to an instance. */
  open(instance: InstanceId): number {
    return this.#openByInstance.get(instance) ?? 0
  }

  #rate(key: string, perSecond: number): TokenBucket {
    return this.#rates.getOrCreate(key, () => new TokenBucket({ perSecond, burst: perSecond, now: this.#now }))
  }
}

function change<K>(counts: Map<K, number>, key: K, by: 1 | -1): void {
  const count = (counts.get(key) ?? 0) + by
  if (count === 0) counts.delete(key)
  else counts.set(key, count)
}
