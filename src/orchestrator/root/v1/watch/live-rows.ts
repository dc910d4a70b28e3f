import { randomBytes } from 'node:crypto'
import { Slices } from '../../../../core/kit/slices.ts'
import type { ApiContext } from '../../api-context.ts'
import type { InstanceRecord, KnownNodes, ServiceRecord } from '../../root-store.ts'
import { clusterRows, instanceRow, leftBehind, serviceRow } from '../../rows.ts'
import { nodeOf } from '../lists.ts'
import type { Live } from './live.ts'
import { RowLog } from './row-log.ts'

/** How often records are compared with what was told last. Smaller costs more, larger tells later. */
export const TICK_MS = 250
/** Every so many ticks all rows are made anew: some say what is kept elsewhere than in their record. */
const TICKS_OF_A_SWEEP = 40
/** For so long after the last reader has gone the changes are kept, for one that comes back. */
const REST_MS = 60_000
/** While somebody watches, the list of a cluster's nodes that has changed is fetched at most this often. */
const NODES_MS = 1_000
/** More are refused: each costs a piece of text for every change. */
export const MAX_READERS = 64

export type LiveContext = Pick<ApiContext, 'store' | 'vips' | 'reconciler' | 'clusters' | 'nodes' | 'clock'>

/**
 * Records are never changed in place (kept-collection.ts): whether one has
 * changed is seen by comparing it with the one that its row was made of.
 */
export class LiveRows implements Live {
  readonly log = new RowLog()
  readonly epoch = randomBytes(4).toString('hex')
  readonly #context: LiveContext
  readonly #instances = new Map<string, InstanceRecord>()
  readonly #services = new Map<string, ServiceRecord>()
  readonly #nodes = new Map<string, { known: KnownNodes | undefined; isLinked: boolean }>()
  #readers = 0
  #ticks = 0
  #running: Promise<void> | undefined
  #restsAt = 0
  readonly #listeners = new Set<() => void>()

  constructor(context: LiveContext) {
    this.#context = context
  }

  get isFull(): boolean {
    return this.#readers >= MAX_READERS
  }

  async enter(): Promise<() => void> {
    this.#readers++
    const leave = () => {
      this.#readers--
      this.#restsAt = this.#context.clock.now() + REST_MS
    }
    try {
      if (this.#ticks === 0) {
        const { nodes } = this.#context
        nodes.refreshWithin(NODES_MS)
        await nodes.list(NODES_MS)
        await this.#ticked()
      }
      return leave
    } catch (error) {
      leave()
      throw error
    }
  }

  onChanged(act: () => void): Disposable {
    const listener = () => act() // one of its own for each
    this.#listeners.add(listener)
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) }
  }

  /** Every `TICK_MS`; costs nothing while nobody watches. */
  async tick(): Promise<void> {
    if (this.#readers > 0) return this.#ticked()
    if (this.#ticks > 0 && this.#context.clock.now() > this.#restsAt) this.#rest()
  }

  /** Those who come while it compares wait for the same. */
  #ticked(): Promise<void> {
    this.#running ??= this.#tick()
    return this.#running
  }

  #rest(): void {
    this.#ticks = 0
    for (const seen of [this.#instances, this.#services, this.#nodes]) seen.clear()
    this.log.clear()
    this.#context.nodes.refreshWithin(undefined)
  }

  async #tick(): Promise<void> {
    const before = this.log.last
    try {
      await this.#compare(this.#ticks % TICKS_OF_A_SWEEP === 0)
    } finally {
      this.#ticks++
      this.#running = undefined
    }
    if (this.log.last !== before) for (const listener of this.#listeners) listener()
  }

  async #compare(isSweep: boolean): Promise<void> {
    const { store } = this.#context
    const slices = new Slices()
    const instances = changed(store.instances.list(), this.#instances, isSweep)
    const services = new Set(changed(store.services.list(), this.#services, isSweep).map(({ id }) => id))
    const left = instances.length === 0 ? new Map<string, string[]>() : leftBehind(this.#context)
    for (const { id, service } of instances) {
      services.add(service)
      const record = store.instances.get(id)
      if (record !== undefined) this.log.put('instances', id, JSON.stringify(instanceRow(record, left, this.#context)))
      if (slices.isOver) await slices.next()
    }
    for (const id of services) {
      const service = store.services.get(id)
      if (service !== undefined) this.log.put('services', id, JSON.stringify(serviceRow(service, this.#context)))
      if (slices.isOver) await slices.next()
    }
    this.#dropGone()
    this.#compareClusters()
    await this.#compareNodes(isSweep, slices)
  }

  /** Also an instance without a record of its own, whose service is changed by it. */
  #dropGone(): void {
    const { store } = this.#context
    for (const [id, { service }] of this.#instances) {
      if (store.instances.get(id) !== undefined) continue
      this.#instances.delete(id)
      const record = store.services.get(service)
      if (record !== undefined) this.log.put('services', service, JSON.stringify(serviceRow(record, this.#context)))
    }
    for (const id of this.#services.keys()) if (store.services.get(id) === undefined) this.#services.delete(id)
    this.log.keepOnly('instances', (id) => this.#instances.has(id))
    this.log.keepOnly('services', (id) => this.#services.has(id))
  }

  #compareClusters(): void {
    const rows = clusterRows(this.#context)
    for (const row of rows) this.log.put('clusters', row.name, JSON.stringify(row))
    const names = new Set(rows.map(({ name }) => name))
    this.log.keepOnly('clusters', (name) => names.has(name))
  }

  async #compareNodes(isSweep: boolean, slices: Slices): Promise<void> {
    const { store, clusters, nodes } = this.#context
    const now = store.clusters.keys().map((name) => {
      const isLinked = clusters.linked(name) !== undefined
      return { name, known: nodes.lastKnown(name), isLinked }
    })
    const isSame = now.every(({ name, known, isLinked }) => {
      const before = this.#nodes.get(name)
      return before !== undefined && before.known === known && before.isLinked === isLinked
    })
    if (isSame && now.length === this.#nodes.size && !isSweep) return
    this.#nodes.clear()
    for (const { name, ...seen } of now) this.#nodes.set(name, seen)
    const left = leftBehind(this.#context)
    const rows = nodes.listKnown()
    for (const node of rows) {
      const row = nodeOf(node, left)
      const { silentMs: _silent, ageSeconds: _age, dampedMs: _damped, coordinate: _at, ...mark } = row
      this.log.put('nodes', row.id, JSON.stringify(row), JSON.stringify(mark))
      if (slices.isOver) await slices.next()
    }
    const ids = new Set<string>(rows.map(({ id }) => id))
    this.log.keepOnly('nodes', (id) => ids.has(id))
  }
}

/** Those that are others than before; all of them in a sweep. */
function changed<T extends { id: string }>(records: readonly T[], seen: Map<string, T>, isSweep: boolean): T[] {
  const found: T[] = []
  for (const record of records) {
    if (!isSweep && seen.get(record.id) === record) continue
    seen.set(record.id, record)
    found.push(record)
  }
  return found
}
