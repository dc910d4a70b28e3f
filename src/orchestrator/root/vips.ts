import { MeshError } from '../../core/errors.ts'
import type { Clock } from '../../core/kit/clock.ts'
import type { Collection } from '../../core/kit/store.ts'
import { nextVip, VIP_COUNT } from '../../core/model/address.ts'
import type { ChoiceKey } from '../../core/model/choice.ts'
import type { ServiceId } from '../../core/model/ids.ts'
import type { VipIndex } from '../../core/model/service.ts'
import type { VipRecord } from './root-store.ts'

/**
 * Which VIP index stands for what.
 *
 *     free ─▶ used ─▶ resting ─▶ free          resting: freed, but callers may still hold the address
 *               ▲         │
 *               └─────────┘                    the same service and choice gets its own index back
 *
 * Writes belong in the caller's transaction; when that fails, `reload()`.
 */
export class Vips {
  readonly #kept: Collection<VipRecord>
  readonly #restMs: number
  readonly #clock: Clock
  readonly #byIndex = new Map<VipIndex, VipRecord>()
  readonly #byOwner = new Map<string, VipRecord>()
  readonly #byService = new Map<ServiceId, Map<ChoiceKey, VipIndex>>()
  #last: VipIndex | undefined

  constructor(kept: Collection<VipRecord>, restMs: number, clock: Clock) {
    this.#kept = kept
    this.#restMs = restMs
    this.#clock = clock
    this.reload()
  }

  reload(): void {
    this.#byIndex.clear()
    this.#byOwner.clear()
    this.#byService.clear()
    for (const record of this.#kept.list()) this.#remember(record)
  }

  get used(): number {
    return this.#byIndex.values().reduce((sum, { freedAt }) => (freedAt === undefined ? sum + 1 : sum), 0)
  }

  of(service: ServiceId): ReadonlyMap<ChoiceKey, VipIndex> {
    return this.#byService.get(service) ?? new Map()
  }

  at(index: VipIndex): VipRecord | undefined {
    const record = this.#byIndex.get(index)
    return record?.freedAt === undefined ? record : undefined
  }

  /** Why the index cannot be given to this service and choice, for people; `undefined` when it can. */
  conflict(index: VipIndex, service: ServiceId, choice: ChoiceKey): string | undefined {
    const holder = this.#byIndex.get(index)
    if (holder === undefined || isOwner(holder, service, choice)) return undefined
    if (holder.freedAt === undefined) return `it stands for ${holder.choice} of ${holder.service}`
    if (!this.#isResting(holder) || holder.service === service) return undefined
    const seconds = Math.ceil((holder.freedAt + this.#restMs - this.#clock.wall()) / 1000)
    return `it stood for ${holder.choice} of ${holder.service} and rests for ${seconds} more seconds`
  }

  /** Gives an index that was asked for; the caller has looked at `conflict`. What the choice had before rests. */
  claim(index: VipIndex, service: ServiceId, choice: ChoiceKey): void {
    const before = this.of(service).get(choice)
    if (before === index) return
    if (before !== undefined) this.#rest(before)
    this.#use({ index, service, choice })
  }

  /** The index of this service and choice, allocated when it has none. @throws MeshError REQUEST_FAILED when all are in use */
  ensure(service: ServiceId, choice: ChoiceKey): VipIndex {
    const has = this.of(service).get(choice)
    if (has !== undefined) return has
    const index = this.#byOwner.get(owner(service, choice))?.index ?? this.#nextFree() ?? this.#longestResting()
    if (index === undefined) throw new MeshError('REQUEST_FAILED', { reason: 'every VIP is in use', count: VIP_COUNT })
    this.#use({ index, service, choice })
    return index
  }

  /** All of a service, or one of its choices, go to rest. */
  free(service: ServiceId, choice?: ChoiceKey): void {
    for (const [has, index] of this.of(service)) {
      if (choice === undefined || choice === has) this.#rest(index)
    }
  }

  #nextFree(): VipIndex | undefined {
    for (let tried = 0, index = nextVip(this.#last); tried < VIP_COUNT; tried++, index = nextVip(index)) {
      if (index === undefined) continue // around: the next one is the first
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

  #isResting({ freedAt }: VipRecord): boolean {
    return freedAt !== undefined && freedAt + this.#restMs > this.#clock.wall()
  }

  #rest(index: VipIndex): void {
    const record = this.#byIndex.get(index)
    if (record === undefined) return
    const resting = { ...record, freedAt: this.#clock.wall() }
    this.#kept.put(String(index), resting)
    this.#byService.get(record.service)?.delete(record.choice)
    this.#remember(resting)
  }

  #use(record: VipRecord): void {
    const before = this.#byIndex.get(record.index)
    if (before !== undefined) this.#byOwner.delete(owner(before.service, before.choice))
    this.#kept.put(String(record.index), record)
    this.#last = record.index
    this.#remember(record)
  }

  #remember(record: VipRecord): void {
    this.#byIndex.set(record.index, record)
    this.#byOwner.set(owner(record.service, record.choice), record)
    if (record.freedAt !== undefined) return
    const choices = this.#byService.get(record.service) ?? new Map<ChoiceKey, VipIndex>()
    choices.set(record.choice, record.index)
    this.#byService.set(record.service, choices)
  }
}

function owner(service: ServiceId, choice: ChoiceKey): string {
  return `${service} ${choice}`
}

function isOwner(record: VipRecord, service: ServiceId, choice: ChoiceKey): boolean {
  return record.service === service && record.choice === choice
}
