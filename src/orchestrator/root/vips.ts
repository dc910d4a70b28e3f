import { MeshError } from '../../core/errors.ts'
import type { Clock } from '../../core/kit/clock.ts'
import type { Collection } from '../../core/kit/store.ts'
import { isAllocatable, nextVip, VIP_COUNT } from '../../core/model/address.ts'
import type { ChoiceKey } from '../../core/model/choice.ts'
import type { ServiceId } from '../../core/model/ids.ts'
import type { VipIndex } from '../../core/model/service.ts'
import type { VipRecord } from './root-store.ts'

/**
 * Which VIP index belongs to which choice of which service. An index has one owner, and a choice has one index.
 *
 *     free ─▶ in use ─▶ resting ─▶ free        resting: freed, but callers may still remember the address
 *               ▲          │
 *               └──────────┘                   the same service and choice gets its own index back
 *
 * What has rested is forgotten, unless its service is still there: an instance that comes back has its address.
 *
 * An index in use was either requested by a document or assigned automatically. Writes belong in the caller's transaction; when
 * that fails, call `reload()`.
 */
export class Vips {
  readonly #saved: Collection<VipRecord>
  readonly #restMs: number
  readonly #clock: Clock
  readonly #byIndex = new Map<VipIndex, VipRecord>()
  /** The latest index of each owner, so that one that rests comes back. */
  readonly #byOwner = new Map<string, VipRecord>()
  /** Those that have an index in use. */
  readonly #byService = new Map<ServiceId, Map<ChoiceKey, VipIndex>>()
  /** Those that were freed, the earliest first. */
  readonly #freed = new Set<VipIndex>()
  #last: VipIndex | undefined
  #used = 0

  /** Mends what an earlier version may have saved: a choice with two indices keeps one, the other rests. */
  constructor(saved: Collection<VipRecord>, restMs: number, clock: Clock) {
    this.#saved = saved
    this.#restMs = restMs
    this.#clock = clock
    this.reload()
  }

  reload(): void {
    this.#byIndex.clear()
    this.#byOwner.clear()
    this.#byService.clear()
    this.#freed.clear()
    this.#used = 0
    this.#last = undefined
    for (const record of this.#saved.list().toSorted((a, b) => (a.freedAt ?? 0) - (b.freedAt ?? 0))) {
      if (!isAllocatable(record.index)) this.#saved.delete(String(record.index))
      else if (record.freedAt !== undefined) this.#remember(record)
      else this.#reloadInUse(record)
    }
  }

  /** How many are in use. */
  get used(): number {
    return this.#used
  }

  of(service: ServiceId): ReadonlyMap<ChoiceKey, VipIndex> {
    return this.#byService.get(service) ?? new Map()
  }

  services(): ServiceId[] {
    return [...this.#byService.keys()]
  }

  /** The owner of an index in use. */
  at(index: VipIndex): VipRecord | undefined {
    const record = this.#byIndex.get(index)
    return record?.freedAt === undefined ? record : undefined
  }

  /** The former owner of a resting index, and for how many more seconds it rests. */
  restingAt(index: VipIndex): { record: VipRecord; seconds: number } | undefined {
    const record = this.#byIndex.get(index)
    if (record === undefined || !this.#isResting(record)) return undefined
    const leftMs = (record.freedAt ?? 0) + this.#restMs - this.#clock.wall()
    return { record, seconds: Math.ceil(Math.min(leftMs, this.#restMs) / 1_000) }
  }

  /**
   * Assigns an index that a document requested, resting or not. What the choice had before rests.
   * @throws Error (a bug) when another owner has the index in use: `evict` it first
   */
  claim(index: VipIndex, service: ServiceId, choice: ChoiceKey): void {
    const holder = this.at(index)
    if (holder !== undefined && !isOwner(holder, service, choice))
      throw new Error(`VIP ${index} belongs to ${holder.choice} of ${holder.service}`)
    const before = this.of(service).get(choice)
    if (before !== undefined && before !== index) this.#rest(before)
    if (holder?.requested !== true) this.#use({ index, service, choice, requested: true })
  }

  /** Takes an index in use away from its owner, for a `claim` by another. Returns the owner. */
  evict(index: VipIndex): VipRecord | undefined {
    const holder = this.at(index)
    if (holder === undefined) return undefined
    this.#rest(index)
    return holder
  }

  /** The document no longer requests the index: the choice keeps it as an automatic one. */
  unrequest(service: ServiceId, choice: ChoiceKey): void {
    const index = this.of(service).get(choice)
    if (index !== undefined && this.at(index)?.requested === true) this.#use({ index, service, choice })
  }

  /** The index of this service and choice, assigned automatically when it has none. @throws MeshError REQUEST_FAILED when all are in use */
  ensure(service: ServiceId, choice: ChoiceKey): VipIndex {
    const has = this.of(service).get(choice)
    if (has !== undefined) return has
    const index = this.#ownResting(service, choice) ?? this.#nextFree() ?? this.#longestResting()
    if (index === undefined) throw new MeshError('REQUEST_FAILED', { reason: `all ${VIP_COUNT} VIPs are in use` })
    this.#use({ index, service, choice })
    return index
  }

  /** Every index of the service rests. */
  free(service: ServiceId): void {
    for (const index of this.of(service).values()) this.#rest(index)
  }

  /** The index of one choice rests, unless a document requests it. */
  freeAutomatic(service: ServiceId, choice: ChoiceKey): void {
    const index = this.of(service).get(choice)
    if (index !== undefined && this.at(index)?.requested !== true) this.#rest(index)
  }

  /** Of services that are gone, what has rested leaves nothing: at most so many. Returns how many there were. */
  forgetRested(most: number): number {
    let forgotten = 0
    for (const index of this.#freed) {
      const record = this.#byIndex.get(index)
      if (forgotten >= most || record === undefined || this.#isResting(record)) break
      if (this.#byService.has(record.service)) continue
      this.#saved.delete(String(index))
      this.#forgetOwner(index)
      this.#byIndex.delete(index)
      this.#freed.delete(index)
      forgotten += 1
    }
    return forgotten
  }

  #reloadInUse(record: VipRecord): void {
    const other = this.of(record.service).get(record.choice)
    if (other === undefined) return this.#remember(record)
    // of two, the requested one stays
    const isBetter = record.requested === true && this.at(other)?.requested !== true
    if (isBetter) this.#rest(other)
    this.#remember(record)
    if (!isBetter) {
      this.#rest(record.index)
      this.#remember(this.#byIndex.get(other) as VipRecord)
    }
  }

  #ownResting(service: ServiceId, choice: ChoiceKey): VipIndex | undefined {
    const index = this.#byOwner.get(ownerKey(service, choice))?.index
    const record = index === undefined ? undefined : this.#byIndex.get(index)
    return record !== undefined && record.freedAt !== undefined && isOwner(record, service, choice) ? index : undefined
  }

  #nextFree(): VipIndex | undefined {
    for (let tried = 0, index = nextVip(this.#last); tried < VIP_COUNT; tried++, index = nextVip(index)) {
      if (index === undefined) continue // the end: from the first one again
      const holder = this.#byIndex.get(index)
      if (holder === undefined || (holder.freedAt !== undefined && !this.#isResting(holder))) return index
    }
    return undefined
  }

  #longestResting(): VipIndex | undefined {
    let longest: VipRecord | undefined
    for (const record of this.#byIndex.values()) {
      if (record.freedAt !== undefined && record.freedAt < (longest?.freedAt ?? Infinity)) longest = record
    }
    return longest?.index
  }

  /** The wall clock may have been set back: nothing rests for longer than `restMs` because of that. */
  #isResting({ freedAt }: VipRecord): boolean {
    return freedAt !== undefined && Math.abs(this.#clock.wall() - freedAt) < this.#restMs
  }

  #rest(index: VipIndex): void {
    const record = this.#byIndex.get(index)
    if (record === undefined) return
    const { requested: _, ...rest } = record
    const resting = { ...rest, freedAt: this.#clock.wall() }
    this.#saved.put(String(index), resting)
    const choices = this.#byService.get(record.service)
    if (choices?.get(record.choice) === index) choices.delete(record.choice)
    if (choices?.size === 0) this.#byService.delete(record.service)
    this.#remember(resting)
  }

  #use(record: VipRecord): void {
    this.#saved.put(String(record.index), record)
    if (record.requested !== true) this.#last = record.index
    this.#remember(record)
  }

  #forgetOwner(index: VipIndex): void {
    const record = this.#byIndex.get(index)
    const key = record && ownerKey(record.service, record.choice)
    if (key !== undefined && this.#byOwner.get(key)?.index === index) this.#byOwner.delete(key)
  }

  #remember(record: VipRecord): void {
    if (this.at(record.index) !== undefined) this.#used -= 1
    this.#forgetOwner(record.index)
    if (record.freedAt === undefined) this.#used += 1
    this.#byIndex.set(record.index, record)
    this.#byOwner.set(ownerKey(record.service, record.choice), record)
    this.#freed.delete(record.index)
    if (record.freedAt !== undefined) this.#freed.add(record.index)
    if (record.freedAt !== undefined) return
    const choices = this.#byService.get(record.service) ?? new Map<ChoiceKey, VipIndex>()
    choices.set(record.choice, record.index)
    this.#byService.set(record.service, choices)
  }
}

function ownerKey(service: ServiceId, choice: ChoiceKey): string {
  return `${service} ${choice}`
}

function isOwner(record: VipRecord, service: ServiceId, choice: ChoiceKey): boolean {
  return record.service === service && record.choice === choice
}
