import type { NodeId } from '../../src/core/model/ids.ts'

/** How long a node that kept a flow waiting is not waited for again. Larger: a node that is back is passed over longer. */
const SUSPECT_MS = 1_000
const SUSPECTS_LIMIT = 1_024

/**
 * Nodes that were silent for a whole patience. As long as one is suspected, the next candidate is tried at the same time
 * instead of after it: a node that hangs costs one flow a second its patience, not every flow. It is still asked, and a
 * word from it clears it at once.
 */
export class Outliers {
  readonly #until = new Map<NodeId, number>()

  /** A flow waited for it in vain, and tried another. */
  wasSilent(node: NodeId, now: number): void {
    this.#until.delete(node) // kept in the order of time
    this.#until.set(node, now + SUSPECT_MS)
    for (const [oldest, until] of this.#until) {
      if (until > now && this.#until.size <= SUSPECTS_LIMIT) break
      this.#until.delete(oldest)
    }
  }

  answered(node: NodeId): void {
    if (this.#until.size > 0) this.#until.delete(node)
  }

  has(node: NodeId, now: number): boolean {
    return this.#until.size > 0 && (this.#until.get(node) ?? now) > now
  }
}
