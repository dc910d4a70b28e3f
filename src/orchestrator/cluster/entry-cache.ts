import type { Collection } from '../../core/kit/store.ts'
import type { ServiceEntry } from '../../core/model/change.ts'
import type { InterestKey, ServiceId } from '../../core/model/ids.ts'
import type { Service, VipIndex } from '../../core/model/service.ts'
import type { KeyEntries } from '../link/messages.ts'

/** Names nobody has deployed that are remembered as such; the oldest is forgotten first. */
const MAX_UNKNOWN = 4_096

/** What the root said, by key: the services and what other clusters run of them. Kept, so that it holds without a root. */
export class EntryCache {
  readonly #kept: Collection<KeyEntries>
  readonly #known = new Map<InterestKey, KeyEntries>()
  /** Keys under which the root has nothing, as far as we know. */
  readonly #unknown = new Set<InterestKey>()
  readonly #byVip = new Map<VipIndex, InterestKey>()

  constructor(kept: Collection<KeyEntries>) {
    this.#kept = kept
    for (const known of kept.list()) this.#remember(known)
  }

  get(key: InterestKey): readonly ServiceEntry[] | undefined {
    return this.#known.get(key)?.entries ?? (this.#unknown.has(key) ? [] : undefined)
  }

  service(id: ServiceId, key: InterestKey): ServiceEntry | undefined {
    return this.#known.get(key)?.entries.find(({ service }) => service.id === id)
  }

  keyOfVip(vip: VipIndex): InterestKey | undefined {
    return this.#byVip.get(vip)
  }

  keys(): InterestKey[] {
    return [...this.#known.keys(), ...this.#unknown]
  }

  /** Returns the services that this concerns: those that were under the key, and those that are. */
  put(known: KeyEntries): ServiceId[] {
    const { key } = known
    const before = this.#known.get(key)?.entries ?? []
    this.drop(key)
    if (known.entries.length > 0) {
      this.#kept.put(key, known)
      this.#remember(known)
    } else {
      for (const oldest of this.#unknown) {
        if (this.#unknown.size < MAX_UNKNOWN) break
        this.#unknown.delete(oldest)
      }
      this.#unknown.add(key)
    }
    return [...new Set([...before, ...known.entries].map(({ service }) => service.id))]
  }

  drop(key: InterestKey): void {
    for (const { service } of this.#known.get(key)?.entries ?? []) {
      for (const vip of vipsOf(service)) this.#byVip.delete(vip)
    }
    if (this.#known.delete(key)) this.#kept.delete(key)
    this.#unknown.delete(key)
  }

  #remember(known: KeyEntries): void {
    this.#known.set(known.key, known)
    for (const { service } of known.entries) {
      for (const vip of vipsOf(service)) this.#byVip.set(vip, known.key)
    }
  }
}

function vipsOf({ vips }: Service): VipIndex[] {
  return Object.values(vips) as VipIndex[]
}
