import type { Clock } from '../../core/kit/clock.ts'
import type { Log } from '../../core/kit/log.ts'
import { interestOf, type ServiceId } from '../../core/model/ids.ts'
import type { Clusters } from './clusters.ts'
import { entriesUnder } from './entries.ts'
import type { RootStore } from './root-store.ts'
import type { Vips } from './vips.ts'

export interface EntryPublisherParts {
  store: RootStore
  vips: Vips
  clusters: Clusters
  clock: Clock
  log: Log
}

/** Services in one turn of the event loop. Smaller costs transactions, larger holds up what else waits. */
const AT_ONCE = 100

/** Tells the clusters that asked what tables show of the services that changed: all changes of one turn together. */
export class EntryPublisher {
  readonly #parts: EntryPublisherParts
  readonly #changed = new Set<ServiceId>()
  #isClosed = false

  constructor(parts: EntryPublisherParts) {
    this.#parts = parts
  }

  publish(service: ServiceId): void {
    if (this.#isClosed) return
    if (this.#changed.size === 0) setImmediate(() => this.#flush())
    this.#changed.add(service)
  }

  close(): void {
    this.#isClosed = true
  }

  #flush(): void {
    if (this.#isClosed) return
    const { store, vips, clusters, clock, log } = this.#parts
    const services = [...this.#changed].slice(0, AT_ONCE)
    for (const service of services) this.#changed.delete(service)
    if (this.#changed.size > 0) setImmediate(() => this.#flush())
    try {
      store.database.transaction(() => {
        for (const service of services) {
          const record = store.services.get(service)
          if (record !== undefined)
            store.services.put(service, { ...record, version: store.next('version', clock.wall()) })
        }
      })
    } catch (error) {
      log.warn('entries of services are sent without a new version', { count: services.length, error }) // a full disk
    }
    const keys = [...new Set(services.map(interestOf))]
    clusters.publish(keys, (key) => entriesUnder(key, store, vips))
  }
}
