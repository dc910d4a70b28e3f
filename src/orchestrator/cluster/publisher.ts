import type { InterestKey, NodeId, ServiceId } from '../../core/model/ids.ts'
import { interestOf } from '../../core/model/ids.ts'
import type { NodeReach } from '../../core/model/node.ts'
import type { Assignments } from './cluster-store.ts'
import { compose } from './compose.ts'
import type { ChangeLog } from './change-log.ts'
import type { EntryCache } from './entry-cache.ts'
import type { Nodes } from './nodes.ts'

type Shown = ReturnType<typeof compose>

export interface PublisherParts {
  cluster: string
  feed: ChangeLog
  entryCache: EntryCache
  assignments: Assignments
  nodes: Nodes
  reachOf: (node: NodeId) => NodeReach | undefined
}

/** Turns what changed in one turn of the loop into one numbered batch, and tells the nodes that asked. */
export class Publisher {
  readonly #parts: PublisherParts
  readonly #dirty = new Set<ServiceId>()
  #isClosed = false

  constructor(parts: PublisherParts) {
    this.#parts = parts
  }

  touch(service: ServiceId): void {
    if (this.#isClosed) return
    if (this.#dirty.size === 0) setImmediate(() => this.flush())
    this.#dirty.add(service)
  }

  /** At once, for whoever needs an answer that is up to date. */
  flush(): void {
    if (this.#dirty.size === 0 || this.#isClosed) return
    const { feed, nodes, entryCache, assignments, cluster, reachOf } = this.#parts
    const services = [...this.#dirty]
    this.#dirty.clear()
    const changes = feed.publish(
      services.flatMap((id): Array<readonly [ServiceId, Shown | undefined]> => {
        const known = entryCache.service(id, interestOf(id))
        if (known !== undefined) return [[id, compose(known, assignments.of(id), { cluster, reachOf })]]
        // gone when the root said so; a service that it has not spoken of yet is no news
        return entryCache.get(interestOf(id)) === undefined ? [] : [[id, undefined]]
      }),
    )
    nodes.publish(feed.epoch, changes)
  }

  /** Nobody wants it any more. */
  drop(key: InterestKey): void {
    this.#parts.entryCache.drop(key)
    this.#parts.feed.drop(key)
  }

  close(): void {
    this.flush()
    this.#isClosed = true
  }
}
