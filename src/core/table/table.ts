import { systemClock, type Clock } from '../kit/clock.ts'
import type { Change, ResumePoint, Resumed, ServiceEntry } from '../model/change.ts'
import { choiceKey } from '../model/choice.ts'
import {
  interestKey,
  interestOf,
  type InstanceId,
  type InterestKey,
  type NodeId,
  type ServiceId,
} from '../model/ids.ts'
import type { Instance } from '../model/instance.ts'
import type { ServiceName } from '../model/name.ts'
import type { NodeReach } from '../model/node.ts'
import type { VipIndex } from '../model/service.ts'
import { NodeIndex, VipOwners } from './indexes.ts'
import { EMPTY_MS, meantService, newKey, noSuchChoice, settle, type KeyState } from './keys.ts'
import type { Found, TableView, Target } from './view.ts'

/**
 * A saved key counts as unused for no longer than this: where the clock was wrong at the start, or when the table was saved, names must
 * not be forgotten before they can be asked for.
 */
const RESTORED_AGE_MS = 12 * 3_600_000

/**
 * What this node knows. It is written by the feed (changes), by interests (answers) and at start (the saved copy). Each entry
 * is swapped in one synchronous step, so no reader sees half of one. What may replace what:
 *
 *   within an epoch   an entry of a higher version; a `gone` or an answer of a higher number
 *   a new epoch       numbers and versions start again: the cluster's full answer replaces everything that was asked for
 *
 *   key:   (unasked) ──expect──▶ asking ──learn──▶ known ──forget──▶ (unasked)
 *                                  └───unexpect──▶ (unasked)
 *
 * Changes are accepted for keys that are being asked for or known, so a change that overtakes the answer of its key is not lost.
 */
export class Table implements TableView {
  readonly #clock: Clock
  readonly #emptyMs: number
  readonly #keys = new Map<InterestKey, KeyState>()
  readonly #held = new Map<ServiceId, Held>()
  readonly #vips = new VipOwners()
  readonly #nodes = new NodeIndex()
  readonly #listeners = new Set<(service: ServiceId, entry: ServiceEntry | undefined) => void>()
  #epoch = ''
  #seq = 0
  #instances = 0

  constructor({ clock = systemClock, emptyMs = EMPTY_MS }: { clock?: Clock; emptyMs?: number } = {}) {
    this.#clock = clock
    this.#emptyMs = emptyMs
  }

  // reading

  find(name: ServiceName): Found {
    const key = interestKey(name)
    const state = this.#keys.get(key)
    if (state === undefined || !state.isKnown || this.#isStaleEmpty(state)) return { kind: 'unasked', key }
    state.usedAt = this.#clock.now()
    const meant = meantService(name, state.services)
    if (meant.kind === 'none') {
      const hinted = Array.from(state.services, (id) => (this.#held.get(id) as Held).entry.service)
      return { kind: 'unknown', reason: meant.reason, hinted }
    }
    const { entry } = this.#held.get(meant.id) as Held
    const { service } = entry
    const vip = service.vips[choiceKey(name.choice)]
    if (vip === undefined) return { kind: 'unknown', reason: noSuchChoice(name.choice, entry), hinted: [service] }
    return { kind: 'target', target: { service, choice: name.choice, vip } }
  }

  byVip(vip: VipIndex): Target | undefined {
    const slot = this.#vips.slot(vip)
    const held = slot === undefined ? undefined : this.#held.get(slot.service)
    if (slot === undefined || held === undefined) return undefined
    held.state.usedAt = this.#clock.now()
    return { service: held.entry.service, choice: slot.choice, vip }
  }

  entry(service: ServiceId): ServiceEntry | undefined {
    return this.#held.get(service)?.entry
  }

  instance(id: InstanceId): Instance | undefined {
    const held = this.#held.get(interestOf(id)) // an instance id is its service's and a number
    if (held === undefined) return undefined
    held.state.usedAt = this.#clock.now()
    held.instances ??= new Map(held.entry.instances.map((instance) => [instance.id, instance]))
    return held.instances.get(id)
  }

  node(id: NodeId): NodeReach | undefined {
    return this.#nodes.reach(id)
  }

  *services(): Iterable<ServiceEntry> {
    for (const { entry } of this.#held.values()) yield entry
  }

  onChange(listener: (service: ServiceId, entry: ServiceEntry | undefined) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  get counts(): { services: number; instances: number; keys: number } {
    return { services: this.#held.size, instances: this.#instances, keys: this.#keys.size }
  }

  // keys

  /** A question about the key is under way: from now on changes under it are accepted. */
  expect(key: InterestKey): void {
    const state = this.#keys.get(key) ?? newKey(this.#clock.now())
    state.asking += 1
    this.#keys.set(key, state)
  }

  /** The question has failed: what was not known before stays unknown. */
  unexpect(key: InterestKey): void {
    const state = this.#keys.get(key)
    if (state === undefined) return
    settle(state)
    if (!state.isKnown && state.asking === 0) this.forget([key])
  }

  /** Takes the answer to a question: everything under the key as of `seq`. What has changed since then is kept. */
  learn(key: InterestKey, answer: Answer): void {
    const state = this.#keys.get(key)
    if (state === undefined) return // forgotten while the question was under way
    const answered = new Set(answer.entries.map(({ service }) => service.id))
    for (const service of state.services) {
      const held = this.#held.get(service) as Held
      if (!answered.has(service) && held.seq <= answer.seq) this.#remove(held)
    }
    for (const entry of answer.entries) {
      if ((state.gone.get(entry.service.id) ?? 0) <= answer.seq) this.#swap(key, entry, answer.seq)
    }
    settle(state)
    state.isKnown = true
    if (state.services.size === 0) state.emptySince = this.#clock.now()
  }

  forget(keys: Iterable<InterestKey>): void {
    for (const key of keys) {
      const state = this.#keys.get(key)
      if (state === undefined) continue
      this.#keys.delete(key)
      for (const service of state.services) this.#remove(this.#held.get(service) as Held)
    }
  }

  isKnown(key: InterestKey): boolean {
    return this.#keys.get(key)?.isKnown ?? false
  }

  keys(): InterestKey[] {
    return [...this.#keys].filter(([, state]) => state.isKnown).map(([key]) => key)
  }

  /** Known keys that nobody has asked for in this time, and those under which there was nothing, longest unused first. */
  idle(forMs: number): InterestKey[] {
    const before = this.#clock.now() - forMs
    return [...this.#keys]
      .filter(([, state]) => state.isKnown && (state.usedAt < before || this.#isStaleEmpty(state)))
      .sort(([, a], [, b]) => a.usedAt - b.usedAt)
      .map(([key]) => key)
  }

  /** Marks the key as used. For what is in use without being looked up, such as a long flow. */
  touch(key: InterestKey): void {
    const state = this.#keys.get(key)
    if (state !== undefined) state.usedAt = this.#clock.now()
  }

  // changes

  get epoch(): string {
    return this.#epoch
  }

  point(): ResumePoint {
    return { epoch: this.#epoch, seq: this.#seq, keys: this.keys() }
  }

  /** Applies one change of the current epoch; false when there was nothing new in it. */
  apply(change: Change): boolean {
    if (change.seq < this.#seq) return false // resuming has covered it
    const isNew = this.#take(change)
    this.#seq = change.seq
    return isNew
  }

  /**
   * Applies the cluster's answer to `point()`, which named the keys `asked`. False, without any change, when the answer has
   * another numbering (or is behind ours) but is not full, because it cannot be joined to what we hold: `restart()` and ask again.
   */
  resume(resumed: Resumed, asked: readonly InterestKey[] = this.keys()): boolean {
    const isAnew = resumed.epoch !== this.#epoch || resumed.seq < this.#seq
    if (isAnew && !resumed.full && asked.length > 0) return false
    if (isAnew) this.#startNumbering(resumed.epoch)
    if (resumed.full) this.#removeAllBut(resumed.changes, asked)
    for (const change of resumed.changes) this.#take(change)
    this.#seq = resumed.seq // last, so that an answer that is applied in part is asked for again
    return true
  }

  /** The next resumption will ask for everything; what is known stays in use until then. */
  restart(): void {
    this.#epoch = ''
    this.#seq = 0
  }

  // the saved copy

  snapshot(): Snapshot {
    const [now, wall] = [this.#clock.now(), this.#clock.wall()]
    const keys = [...this.#keys].filter(([, state]) => state.isKnown && state.services.size > 0)
    return {
      epoch: this.#epoch,
      seq: this.#seq,
      keys: keys.map(([key, { usedAt }]) => ({ key, usedAt: Math.round(wall - (now - usedAt)) })),
      entries: [...this.services()],
    }
  }

  /** Fills an empty table. */
  restore({ epoch, seq, keys, entries }: Snapshot): void {
    if (this.#keys.size > 0) throw new Error('only an empty table can be restored')
    this.#epoch = epoch
    this.#seq = seq
    const [now, wall] = [this.#clock.now(), this.#clock.wall()]
    for (const { key, usedAt } of keys) {
      const age = Math.min(Math.max(0, wall - usedAt), RESTORED_AGE_MS)
      this.#keys.set(key, { ...newKey(now - age), isKnown: true })
    }
    for (const entry of entries) this.#swap(interestOf(entry.service.id), entry, seq)
  }

  // single steps

  #take(change: Change): boolean {
    if (change.kind === 'service') return this.#swap(change.key, change.entry, change.seq)
    const state = this.#keys.get(change.key)
    if (state !== undefined && state.asking > 0) state.gone.set(change.service, change.seq)
    const held = this.#held.get(change.service)
    if (held === undefined) return false
    this.#remove(held)
    return true
  }

  #swap(key: InterestKey, entry: ServiceEntry, seq: number): boolean {
    const { id } = entry.service
    const state = this.#keys.get(key)
    if (state === undefined || interestOf(id) !== key) return false
    const old = this.#held.get(id)
    if (old !== undefined && old.version >= entry.version) return false
    this.#held.set(id, { entry, version: entry.version, state, seq, instances: undefined })
    state.services.add(id)
    state.gone.delete(id)
    this.#instances += entry.instances.length - (old?.entry.instances.length ?? 0)
    this.#vips.swap(id, old?.entry.service.vips ?? {}, entry.service.vips)
    this.#nodes.swap(id, old?.entry.nodes ?? [], entry.nodes, seq)
    this.#notify(id, entry)
    return true
  }

  #remove({ entry, state }: Held): void {
    const { id } = entry.service
    this.#held.delete(id)
    state.services.delete(id)
    if (state.services.size === 0) state.emptySince = this.#clock.now()
    this.#instances -= entry.instances.length
    this.#vips.swap(id, entry.service.vips, {})
    this.#nodes.swap(id, entry.nodes, [], 0)
    this.#notify(id, undefined)
  }

  #startNumbering(epoch: string): void {
    this.#epoch = epoch
    this.#seq = 0
    for (const held of this.#held.values()) {
      held.version = -1 // any version of the new epoch is newer
      held.seq = 0
    }
    for (const state of this.#keys.values()) state.gone.clear()
    this.#nodes.startNumbering()
  }

  #removeAllBut(changes: readonly Change[], asked: readonly InterestKey[]): void {
    const present = new Set(changes.map((change) => (change.kind === 'service' ? change.entry.service.id : undefined)))
    for (const key of asked) {
      for (const service of this.#keys.get(key)?.services ?? []) {
        if (!present.has(service)) this.#remove(this.#held.get(service) as Held)
      }
    }
  }

  #notify(service: ServiceId, entry: ServiceEntry | undefined): void {
    for (const listener of this.#listeners) listener(service, entry)
  }

  #isStaleEmpty(state: KeyState): boolean {
    return state.services.size === 0 && this.#clock.now() - state.emptySince >= this.#emptyMs
  }
}

/** Everything under a key as of `seq`. */
export interface Answer {
  seq: number
  entries: readonly ServiceEntry[]
}

/** What is saved. Keys under which nothing was found are left out, and asked for again. */
export interface Snapshot {
  epoch: string
  seq: number
  keys: readonly { key: InterestKey; usedAt: number }[]
  entries: readonly ServiceEntry[]
}

interface Held {
  readonly entry: ServiceEntry
  version: number
  state: KeyState
  /** The number of the cluster as of which it holds. */
  seq: number
  /** Built on the first look-up. */
  instances: Map<InstanceId, Instance> | undefined
}
