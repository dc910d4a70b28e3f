import type { Change, ServiceEntry } from '../../src/core/model/change.ts'
import { Table } from '../../src/core/table/table.ts'
import { ManualClock } from '../support/manual-clock.ts'
import { entryOf } from './world.ts'

const SERVICES = ['a.x.s.p', 'a.x.s.q', 'a.x.t.p', 'b.x.s.p']
const KEYS = ['a.x.s', 'a.x.t', 'b.x.s']

/** What can happen between a cluster and the table of one of its nodes. `which` is the service, the key or the number concerned. */
export interface Step {
  kind: 'put' | 'delete' | 'ask' | 'forget' | 'changes' | 'answer' | 'reconnect' | 'renumber'
  which: number
}

const keyOf = (id: string) => id.slice(0, id.lastIndexOf('.'))
const byId = (a: ServiceEntry, b: ServiceEntry) => (a.service.id < b.service.id ? -1 : 1)

/**
 * A cluster, the link to one node and the table of that node. Changes come in order; answers come in order too, but may be overtaken
 * by changes; a link that breaks loses both.
 */
export class SimulatedCluster {
  readonly table = new Table({ clock: new ManualClock() })
  reconnects = 0
  #epoch = 0
  #seq = 0
  #versions = 0
  readonly #log: Change[] = []
  readonly #truth = new Map<string, ServiceEntry>()
  #subscribed = new Set<string>()
  #changes: Change[] = []
  #answers: Array<{ key: string; seq: number; entries: ServiceEntry[] }> = []

  constructor() {
    this.#reconnect(true)
  }

  step({ kind, which }: Step): void {
    switch (kind) {
      case 'put':
        return this.#put(which)
      case 'delete':
        return this.#delete(SERVICES[which] as string)
      case 'ask':
        return this.#ask(KEYS[which] as string)
      case 'forget':
        return this.#forget(KEYS[which] as string)
      case 'changes':
        return this.#deliverChanges(which)
      case 'answer':
        return this.#deliverAnswer()
      case 'reconnect':
        return this.#reconnect(which === 1)
      case 'renumber':
        return this.#renumber()
      default:
        kind satisfies never
    }
  }

  /** Delivers what is still on its way. */
  settle(): void {
    this.#deliverChanges(this.#changes.length)
    while (this.#answers.length > 0) this.#deliverAnswer()
  }

  /** What the table should hold now, and does not; nothing when both are equal. */
  difference(): string | undefined {
    const followed = this.table.keys()
    const expected = [...this.#truth.values()].filter(({ service }) => followed.includes(keyOf(service.id))).sort(byId)
    const held = [...this.table.services()].sort(byId)
    if (JSON.stringify(held) !== JSON.stringify(expected))
      return `the cluster holds ${JSON.stringify(expected)}, the table ${JSON.stringify(held)}`
    for (const { service } of expected) {
      for (const vip of Object.values(service.vips))
        if (this.table.byVip(vip as number)?.service !== service) return `VIP ${vip} does not lead to ${service.id}`
    }
    const { instances } = this.table.counts
    return instances === expected.length
      ? undefined
      : `${instances} instances are counted, ${expected.length} are there`
  }

  #put(which: number): void {
    const id = SERVICES[which] as string
    const entry = entryOf(id, { version: ++this.#versions, vip: 0xe0100 + which * 64 })
    this.#truth.set(id, entry)
    this.#publish({ seq: ++this.#seq, kind: 'service', key: keyOf(id), entry })
  }

  #delete(id: string): void {
    if (!this.#truth.delete(id)) return
    this.#publish({ seq: ++this.#seq, kind: 'gone', key: keyOf(id), service: id })
  }

  #publish(change: Change): void {
    this.#log.push(change)
    if (this.#subscribed.has(change.key)) this.#changes.push(change)
  }

  #ask(key: string): void {
    this.table.expect(key)
    this.#subscribed.add(key)
    this.#answers.push({ key, seq: this.#seq, entries: this.#under(key) })
  }

  #forget(key: string): void {
    if (this.#answers.some((answer) => answer.key === key)) return
    this.table.forget([key])
    this.#subscribed.delete(key)
  }

  #deliverChanges(count: number): void {
    for (const change of this.#changes.splice(0, count)) this.table.apply(change)
  }

  #deliverAnswer(): void {
    const answer = this.#answers.shift()
    if (answer !== undefined) this.table.learn(answer.key, answer)
  }

  #reconnect(full: boolean): void {
    this.reconnects += 1
    this.#changes = []
    for (const { key } of this.#answers.splice(0)) this.table.unexpect(key)
    const point = this.table.point()
    this.#subscribed = new Set(point.keys)
    const epoch = `e${this.#epoch}`
    const resumed =
      full || point.epoch !== epoch ? { full: true, changes: this.#all(point.keys) } : this.#missed(point.seq)
    if (!this.table.resume({ epoch, seq: this.#seq, ...resumed }, point.keys))
      throw new Error(`the table refused to resume in epoch ${epoch} at ${this.#seq}`)
  }

  #all(keys: readonly string[]): Change[] {
    return keys
      .flatMap((key) => this.#under(key))
      .map((entry) => ({ seq: this.#seq, kind: 'service', key: keyOf(entry.service.id), entry }))
  }

  #missed(since: number): { full: boolean; changes: Change[] } {
    return { full: false, changes: this.#log.filter(({ seq, key }) => seq > since && this.#subscribed.has(key)) }
  }

  /** The cluster lost its state: it counts from the beginning, in a new epoch. */
  #renumber(): void {
    this.#epoch += 1
    this.#seq = 0
    this.#versions = 0
    this.#log.length = 0
    for (const [id, entry] of this.#truth) this.#truth.set(id, { ...entry, version: ++this.#versions })
    this.#reconnect(false)
  }

  #under(key: string): ServiceEntry[] {
    return [...this.#truth.values()].filter(({ service }) => keyOf(service.id) === key)
  }
}
