import type { NodeId, ServiceId } from '../model/ids.ts'
import type { NodeReach } from '../model/node.ts'

/**
 * How nodes are reached, told by the entries that mention them. Several entries mention the same node: the newest word
 * counts, and the node is forgotten with the last entry that mentions it.
 */
export class NodeBook {
  readonly #pages = new Map<NodeId, Page>()

  reach(id: NodeId): NodeReach | undefined {
    return this.#pages.get(id)?.reach
  }

  /** A service's entry changed, as of the cluster's number `seq`. */
  swap(service: ServiceId, old: readonly NodeReach[], nodes: readonly NodeReach[], seq: number): void {
    for (const reach of nodes) {
      const page = this.#pages.get(reach.id)
      if (page === undefined) {
        this.#pages.set(reach.id, { reach, seq, services: new Set([service]) })
        continue
      }
      page.services.add(service)
      if (seq >= page.seq) {
        page.reach = reach
        page.seq = seq
      }
    }
    const stillThere = new Set(nodes.map(({ id }) => id))
    for (const { id } of old) {
      const page = this.#pages.get(id)
      if (stillThere.has(id) || page === undefined) continue
      page.services.delete(service)
      if (page.services.size === 0) this.#pages.delete(id)
    }
  }

  /** A new epoch: whatever it says is newer. */
  startNumbering(): void {
    for (const page of this.#pages.values()) page.seq = 0
  }
}

interface Page {
  reach: NodeReach
  seq: number
  services: Set<ServiceId>
}
