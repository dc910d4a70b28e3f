import type { Clock } from '../../src/core/kit/clock.ts'
import type { Metrics } from '../../src/core/metrics.ts'
import type { VipRange } from '../../src/core/model/address.ts'
import type { InstanceId } from '../../src/core/model/ids.ts'
import { connectionKey, parseConnections, type Connection } from './connections.ts'
import { type Counted, countersOf, grown, parseCounters, payload, type Reading } from './counters.ts'
import type { Kernel } from './kernel.ts'
import type { Rows } from './rules.ts'
import { background } from '../../src/core/kit/background.ts'

/** An instance that the kernel sends flows to, or has. */
export interface Served extends Connection {
  instance: InstanceId
}

type HostPort = Pick<Connection, 'host' | 'port'>

interface OpenConnections {
  /** By `connectionKey`. */
  perPlace: ReadonlyMap<string, number>
  total: number
  at: number
}

export interface FlowCountsParts {
  readonly range: VipRange
  readonly kernel: Kernel
  readonly clock: Clock
  readonly metrics: Metrics
}

/** How long a list of connections is used. Smaller: more work to read it; larger: counts lag behind. */
const LISTED_MS = 250

/** What the kernel carries, read from its counters: flows and bytes since the start, and open flows. */
export class FlowCounts {
  readonly #parts: FlowCountsParts
  /** Counters in the kernel's table, used or not. */
  readonly #counted = new Map<string, Counted>()
  readonly #served = new Map<string, Served>()
  #readings = new Map<string, Reading>()
  #reading: Promise<void> | undefined
  #open: OpenConnections | undefined
  #listing: Promise<void> | undefined

  constructor(parts: FlowCountsParts) {
    this.#parts = parts
  }

  /** The names of all counters in the kernel. */
  get counters(): ReadonlySet<string> {
    return new Set(this.#counted.keys())
  }

  /** The kernel has these rows now; `isNew`: in a new table, whose counters begin at 0. */
  took(rows: Rows, isNew: boolean): void {
    if (isNew) {
      this.#counted.clear()
      this.#readings = new Map()
    }
    for (const row of rows.values()) {
      for (const [name, counted] of countersOf(row)) this.#counted.set(name, counted)
      for (const { instance, host, port } of row.instances) {
        const served = { protocol: row.protocol, host, port, instance }
        this.#served.set(connectionKey(served), served)
      }
    }
    this.#parts.metrics.kernelRows.set(rows.size)
  }

  /** Instances that may still have flows. */
  served(): Served[] {
    return [...this.#served.values()]
  }

  /** The instance has ended, and its flows with it. */
  ended(served: Served): void {
    this.#served.delete(connectionKey(served))
  }

  /** Brings the metrics up to date. */
  read(table: string): Promise<void> {
    this.#reading ??= this.#read(table).finally(() => {
      this.#reading = undefined
    })
    return this.#reading
  }

  /** Open flows to an instance, or only those that go `to` one of its runs; at least 1 until that is known. */
  openFlows(instance: InstanceId, to?: readonly HostPort[]): number {
    const isMeant = (served: Served) =>
      served.instance === instance && (to === undefined || to.some((place) => isAt(served, place)))
    const meant = this.served().filter(isMeant)
    if (meant.length === 0) return 0
    const open = this.#listed()
    if (open === undefined) return 1
    return meant.reduce((sum, served) => sum + (open.perPlace.get(connectionKey(served)) ?? 0), 0)
  }

  /** All open flows; at least 1 until that is known. */
  get open(): number {
    return this.#served.size === 0 ? 0 : (this.#listed()?.total ?? 1)
  }

  /** How many flows are open; `undefined` when the kernel cannot be read. */
  async count(): Promise<number | undefined> {
    await this.#list()
    return this.#open?.total
  }

  async #read(table: string): Promise<void> {
    const { kernel, metrics } = this.#parts
    const now = parseCounters(await kernel.counters(table))
    for (const [name, reading] of now) {
      const counted = this.#counted.get(name)
      if (counted === undefined) continue
      const more = grown(this.#readings.get(name), reading)
      if (counted.kind === 'flows') {
        const { policy, protocol } = counted
        metrics.flows.inc({ policy, path: 'kernel', result: 'begun', protocol }, more.packets)
      } else metrics.flowBytes.inc({ direction: counted.direction }, payload(more, counted.header))
    }
    this.#readings = now
  }

  /** The last list, while it is recent; an older one is read again in the background. */
  #listed(): OpenConnections | undefined {
    const age = this.#parts.clock.now() - (this.#open?.at ?? Number.NEGATIVE_INFINITY)
    if (age > LISTED_MS) void background.run('list of kernel flows', () => this.#list())
    return age > 4 * LISTED_MS ? undefined : this.#open
  }

  #list(): Promise<void> {
    this.#listing ??= this.#listAll().finally(() => {
      this.#listing = undefined
    })
    return this.#listing
  }

  async #listAll(): Promise<void> {
    const { kernel, range, clock } = this.#parts
    try {
      const open = parseConnections(await kernel.connections(), range)
      const perPlace = new Map<string, number>()
      for (const connection of open) {
        const key = connectionKey(connection)
        perPlace.set(key, (perPlace.get(key) ?? 0) + 1)
      }
      this.#open = { perPlace, total: open.length, at: clock.now() }
    } catch {
      this.#open = undefined // it cannot be read here: draining then takes its full time
    }
  }
}

function isAt({ host, port }: HostPort, place: HostPort): boolean {
  return host === place.host && port === place.port
}
