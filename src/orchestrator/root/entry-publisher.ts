import type { Clock } from '../../core/kit/clock.ts'
import { Paced } from '../../core/kit/paced.ts'
import { interestOf, type InterestKey, type ServiceId } from '../../core/model/ids.ts'
import type { Clusters } from './clusters.ts'
import { entriesUnder, toldTo } from './entries.ts'
import type { RootStore } from './root-store.ts'
import type { Vips } from './vips.ts'

export interface EntryPublisherParts {
  store: RootStore
  vips: Vips
  clusters: Clusters
  clock: Clock
}

/** Services in one turn of the event loop. Smaller costs transactions, larger holds up what else waits. */
const AT_ONCE = 100
/** Between two times. Smaller sends more messages while much changes, larger tells later what changed after something else did. */
const EVERY_MS = 50

/**
 * Tells the clusters that asked what tables show of the services that changed: what changes alone at the end of the turn, much together. What a cluster has said of
 * its own nodes is not told to that cluster: of those it believes nobody but itself.
 */
export class EntryPublisher {
  readonly #parts: EntryPublisherParts
  /** And the only cluster that need not be told. */
  readonly #changed = new Map<ServiceId, string | undefined>()
  readonly #paced: Paced
  #isClosed = false

  constructor(parts: EntryPublisherParts) {
    this.#parts = parts
    this.#paced = new Paced({
      name: 'publishing of entries to clusters',
      work: () => this.#flush(),
      everyMs: EVERY_MS,
      clock: parts.clock,
    })
  }

  /** `saidBy`: the cluster that knows it already. */
  publish(service: ServiceId, saidBy?: string): void {
    if (this.#isClosed) return
    const isSame = !this.#changed.has(service) || this.#changed.get(service) === saidBy
    this.#changed.set(service, isSame ? saidBy : undefined)
    this.#paced.due()
  }

  close(): void {
    this.#isClosed = true
    this.#paced[Symbol.dispose]()
  }

  #flush(): void {
    if (this.#isClosed) return
    const { store, vips, clusters } = this.#parts
    const some = [...this.#changed].slice(0, AT_ONCE)
    for (const [service] of some) this.#changed.delete(service)
    if (this.#changed.size > 0) setImmediate(() => this.#flush())
    const keys = new Map<InterestKey, string | undefined>()
    for (const [service, saidBy] of some) {
      const key = interestOf(service)
      keys.set(key, keys.has(key) && keys.get(key) !== saidBy ? undefined : saidBy)
    }
    clusters.publish(
      keys,
      (key) => entriesUnder(key, store, vips),
      (cluster, entries) => toldTo(cluster, entries, store),
    )
  }
}
