import type { Collection } from '../../core/kit/store.ts'
import type { ServiceEntry } from '../../core/model/change.ts'
import type { InterestKey, ServiceId } from '../../core/model/ids.ts'
import type { Service, VipIndex } from '../../core/model/service.ts'
import type { KeyEntries } from '../link/messages/cluster-root.ts'

/** How many keys without a service are remembered; then the oldest is forgotten. */
const MAX_EMPTY = 4_096

/**
 * What the root has sent about services, by interest key: the services, and where other clusters run them. Saved, so that
 * it is there while the root is away.
 */
export class EntryCache {
  readonly #saved: Collection<KeyEntries>
  readonly #entries = new Map<InterestKey, KeyEntries>()
  /** Keys under which the root has no service. */
  readonly #empty = new Set<InterestKey>()
  readonly #byVip = new Map<VipIndex, InterestKey>()

  constructor(saved: Collection<KeyEntries>) {
    this.#saved = saved
    for (const entries of saved.list()) this.#remember(entries)
  }

  /** An empty list means that no such service exists; `undefined` that the root has not been asked. */
  get(key: InterestKey): readonly ServiceEntry[] | undefined {
    return this.#entries.get(key)?.entries ?? (this.#empty.has(key) ? [] : undefined)
  }

  service(id: ServiceId, key: InterestKey): ServiceEntry | undefined {
    return this.#entries.get(key)?.entries.find(({ service }) => service.id === id)
  }

  keyOfVip(vip: VipIndex): InterestKey | undefined {
    return this.#byVip.get(vip)
  }

  keys(): InterestKey[] {
    return [...this.#entries.keys(), ...this.#empty]
  }

  /** Replaces everything under the key. Returns the services that were there before or are there now; none when nothing is new. */
  put(next: KeyEntries): ServiceId[] {
    const { key } = next
    const known = this.#entries.get(key)
    if (known !== undefined && JSON.stringify(known) === JSON.stringify(next)) return [] // as after each new link to the root
    const before = known?.entries ?? []
    this.drop(key)
    if (next.entries.length > 0) {
      this.#saved.put(key, next)
      this.#remember(next)
    } else {
      for (const oldest of this.#empty) {
        if (this.#empty.size < MAX_EMPTY) break
        this.#empty.delete(oldest)
      }
      this.#empty.add(key)
    }
    return [...new Set([...before, ...next.entries].map(({ service }) => service.id))]
  }

  drop(key: InterestKey): void {
    for (const { service } of this.#entries.get(key)?.entries ?? []) {
      for (const vip of vipsOf(service)) this.#byVip.delete(vip)
    }
    if (this.#entries.delete(key)) this.#saved.delete(key)
    this.#empty.delete(key)
  }

  #remember(next: KeyEntries): void {
    this.#entries.set(next.key, next)
    for (const { service } of next.entries) {
      for (const vip of vipsOf(service)) this.#byVip.set(vip, next.key)
    }
  }
}

function vipsOf({ vips }: Service): VipIndex[] {
  return Object.values(vips) as VipIndex[]
}
