import { TokenBucket } from '../../src/core/kit/token-bucket.ts'
import type { NodeId } from '../../src/core/model/ids.ts'
import { BoundedMap } from '../../src/core/kit/bounded-map.ts'

/** Requests after a rest: as many as a node makes that has lost all its relayed carriers. */
const BURST_SECONDS = 5
/** Nodes remembered before idle ones are forgotten. */
const KEPT = 4_096

/** How often each node may make a request that costs the relay, or another node, a connection. */
export class RequestRate {
  readonly #perSecond: number
  readonly #buckets = new BoundedMap<NodeId, TokenBucket>(KEPT, ({ isFull }) => isFull)

  constructor(perSecond: number) {
    this.#perSecond = perSecond
  }

  /** Counts one request; false when there were too many. */
  allows(node: NodeId): boolean {
    const rate = { perSecond: this.#perSecond, burst: this.#perSecond * BURST_SECONDS }
    const bucket = this.#buckets.getOrCreate(node, () => new TokenBucket(rate))
    if (bucket.waitMs > 0) return false
    bucket.take(1)
    return true
  }
}
