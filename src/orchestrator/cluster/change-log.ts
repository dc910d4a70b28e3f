import { randomUUID } from 'node:crypto'
import { isDeepStrictEqual } from 'node:util'
import type { Clock } from '../../core/kit/clock.ts'
import type { Collection, Store } from '../../core/kit/store.ts'
import type { Change, ResumePoint, Resumed, ServiceEntry } from '../../core/model/change.ts'
import { interestOf, type InterestKey, type ServiceId } from '../../core/model/ids.ts'

/** How many deleted services are remembered for nodes that were away; a node that missed more gets the whole table. */
const MAX_GONE = 5_000

/**
 * The numbered changes of this cluster: the newest change of each service.
 *
 *     seq 17  shop.acme.cart.prod    entry (version 17)
 *     seq 18  shop.acme.stock.prod   gone
 *     seq 21  …                      a node that is at 17 gets 18 and 21, if it follows their keys
 *
 * Numbers begin at the wall clock, so that a cluster that lost its state never counts below what its nodes have seen.
 */
export class ChangeLog {
  readonly epoch: string
  readonly #store: Store
  readonly #latest: Collection<Change>
  readonly #counters: Collection<number>
  #seq: number
  /** Below this number the log is incomplete. */
  #complete: number

  constructor(store: Store, clock: Clock) {
    this.#store = store
    this.#latest = store.keptCollection('changes')
    this.#counters = store.collection('feed')
    const epochs = store.collection<string>('feed-epoch')
    this.#seq = this.#counters.get('seq') ?? clock.wall()
    this.#complete = this.#counters.get('complete') ?? 0
    this.epoch = epochs.get('epoch') ?? randomUUID()
    store.transaction(() => {
      if (epochs.get('epoch') === undefined) epochs.put('epoch', this.epoch) // a later start writes nothing: its disk may be full
      this.#forgetOldest()
    })
  }

  get seq(): number {
    return this.#seq
  }

  /** Numbers what has changed, in one transaction; an entry equal to the last one is no change. `undefined`: the service is gone. */
  publish(services: Iterable<readonly [ServiceId, Omit<ServiceEntry, 'version'> | undefined]>): Change[] {
    const before = this.#seq
    try {
      return this.#store.transaction(() => {
        const changes: Change[] = []
        for (const [id, entry] of services) {
          const change = this.#next(id, entry)
          if (change === undefined) continue
          this.#latest.put(id, change)
          changes.push(change)
        }
        if (changes.length > 0) this.#counters.put('seq', this.#seq)
        return changes
      })
    } catch (error) {
      this.#seq = before
      throw error
    }
  }

  /** All that it says something of. */
  services(): ServiceId[] {
    return this.#latest.keys()
  }

  /** The current entries under a key. */
  entries(key: InterestKey): ServiceEntry[] {
    return this.#under(key).flatMap((change) => (change.kind === 'service' ? [change.entry] : []))
  }

  /** What a node missed since `seq`; everything when it is of another epoch or too far behind. */
  resume({ epoch, seq, keys }: ResumePoint): Resumed {
    const full = epoch !== this.epoch || seq < this.#complete || seq > this.#seq
    const changes = [...new Set(keys)]
      .flatMap((key) => this.#under(key))
      .filter((change) => (full ? change.kind === 'service' : change.seq > seq))
      .sort((a, b) => a.seq - b.seq)
    return { epoch: this.epoch, seq: this.#seq, full, changes }
  }

  /** Forgets a key in which no node is interested, without telling any node. */
  drop(key: InterestKey): void {
    for (const change of this.#under(key)) {
      this.#latest.delete(change.kind === 'service' ? change.entry.service.id : change.service)
    }
  }

  #under(key: InterestKey): Change[] {
    return this.#latest.list(`${key}.`).filter((change) => change.key === key)
  }

  #next(id: ServiceId, entry: Omit<ServiceEntry, 'version'> | undefined): Change | undefined {
    const latest = this.#latest.get(id)
    if (entry === undefined) {
      if (latest === undefined || latest.kind === 'gone') return undefined
      return { seq: ++this.#seq, kind: 'gone', key: interestOf(id), service: id }
    }
    if (latest?.kind === 'service') {
      const { version: _version, ...shown } = latest.entry
      if (isSame(shown, entry)) return undefined
    }
    const seq = ++this.#seq
    return { seq, kind: 'service', key: interestOf(id), entry: { version: seq, ...entry } }
  }

  #forgetOldest(): void {
    const gone = this.#latest.list().flatMap((change) => (change.kind === 'gone' ? [change] : []))
    const excess = gone.sort((a, b) => a.seq - b.seq).slice(0, Math.max(0, gone.length - MAX_GONE))
    for (const { service, seq } of excess) {
      this.#latest.delete(service)
      this.#complete = Math.max(this.#complete, seq)
    }
    if (excess.length > 0) this.#counters.put('complete', this.#complete)
  }
}

/** As they are sent; the order of keys says nothing, and is the same nearly always. */
function isSame(shown: unknown, entry: unknown): boolean {
  const text = JSON.stringify(entry)
  return JSON.stringify(shown) === text || isDeepStrictEqual(shown, JSON.parse(text))
}
