import type { Clock } from '../../core/kit/clock.ts'
import type { Collection } from '../../core/kit/store.ts'
import type { NodeId } from '../../core/model/ids.ts'

export interface RevokedNode {
  node: NodeId
  /** Milliseconds since 1970: by then the node's last certificate has expired. */
  until: number
}

/** A node's certificate lives 24 hours: an hour later the last certificate of a revoked node has certainly expired. */
const REVOKED_MS = 25 * 3_600_000

/** Which nodes are revoked, for root and cluster alike. An entry is forgotten when the certificate it is about has expired. */
export class Revocations {
  readonly #saved: Collection<RevokedNode>
  readonly #clock: Clock

  constructor(saved: Collection<RevokedNode>, clock: Clock) {
    this.#saved = saved
    this.#clock = clock
  }

  has(node: NodeId): boolean {
    return (this.#saved.get(node)?.until ?? 0) > this.#clock.wall()
  }

  all(): NodeId[] {
    for (const node of this.#saved.keys()) if (!this.has(node)) this.#saved.delete(node)
    return this.#saved.keys()
  }

  add(node: NodeId): void {
    this.#saved.put(node, { node, until: this.#clock.wall() + REVOKED_MS })
  }
}
