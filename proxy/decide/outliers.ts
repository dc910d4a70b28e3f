import type { NodeId } from '../../src/core/model/ids.ts'

/** How long a node that kept a flow waiting is not waited for. Larger: a node that is back is passed over for longer. */
const OUTLIER_MS = 1_000
/** Nodes kept; the oldest goes first. */
const OUTLIERS_LIMIT = 1_024

/**
 * Nodes that did not answer before the next candidate was tried. While a node is an outlier, the next candidate is tried at
 * the same time and not after it, so that a node that hangs delays one flow a second and not every flow. It is still asked,
 * and its first answer clears it.
 */
export class Outliers {
  readonly #until = new Map<NodeId, number>()

  /** A flow waited for it in vain, and tried another node. */
  wasSilent(node: NodeId, now: number): void {
    this.#until.delete(node) // the map stays in the order of time
    this.#until.set(node, now + OUTLIER_MS)
    for (const [oldest, until] of this.#until) {
      if (until > now && this.#until.size <= OUTLIERS_LIMIT) break
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
