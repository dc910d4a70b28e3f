import { BoundedMap } from '../../src/core/kit/bounded-map.ts'
import { TokenBucket } from '../../src/core/kit/token-bucket.ts'
import type { NodeId } from '../../src/core/model/ids.ts'

/** Lines about refused flows of one peer: a flood of them must not fill the log, nor hide those of other peers. */
const LINES = { perSecond: 1, burst: 10 }
/** Peers that are told apart. */
const PEERS = 256

/** Which refusals get a log line; the next line of a peer tells how many had none. */
export class RefusalLines {
  readonly #peers = new BoundedMap<NodeId, { bucket: TokenBucket; leftOut: number }>(PEERS)

  /** How many refusals of this peer had no line before this one; `undefined`: this one gets none either. */
  admit(peer: NodeId): number | undefined {
    const known = this.#peers.getOrCreate(peer, () => ({ bucket: new TokenBucket(LINES), leftOut: 0 }))
    if (!known.bucket.tryTake()) {
      known.leftOut += 1
      return undefined
    }
    const { leftOut } = known
    known.leftOut = 0
    return leftOut
  }
}
