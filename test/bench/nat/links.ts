import { setTimeout as sleep } from 'node:timers/promises'
import type { LinkConditions } from '../../../src/lab/link/conditions.ts'
import { printConditions } from '../../../src/lab/link/conditions.ts'
import { busySince } from '../proc.ts'
import { median } from '../table.ts'
import { ENDLESS } from './origin.ts'
import { type At, ORIGIN_PORT } from './station.ts'
import { CLUSTER, nameOf, SERVICE_PORT, until, type World } from './world.ts'

/**
 * The mesh over bad links, and beside each figure the same by plain TCP over the same link, in turns.
 *
 *     caller ── the link ──[ internet ]── callee          all that the caller says goes over its link, its questions too
 *                              └──────── edge, root       edge's link is the control link of the last rows
 *
 * Each link begins with a new agent at the caller: plain TCP begins with new connections too, and what a kernel thinks of a carrier
 * is about the link that was. A whole table takes six minutes at three seconds a figure.
 */
export const LINK_NODES = ['caller', 'callee'] as const
const FRESH = 24
/** Services that nobody has asked for: a first question is only once the first. */
export const FRESH_SERVICES = Object.fromEntries(Array.from({ length: FRESH }, (_, i) => [`fresh${i}`, 'callee']))

export function linksLab() {
  return { publics: ['caller', 'callee'], conditions: { caller: {}, [CLUSTER]: {} } } as const
}

/** One line of `--json`. */
export interface LinkRow {
  conditions: string
  measure: string
  unit: 'ms' | 'Mbit/s' | '1/s'
  ours: number
  /** Absent where there is nothing to compare with. */
  plain?: number
  /** What share of the processors was busy meanwhile, of both: near 1 they were measured, not the link. */
  busy: number
  link: string
  congestionControl: string
}

export interface LinksOptions {
  seconds: number
  /** Of `conditions: measure`. */
  only: RegExp
  congestionControl: string
  say: (line: string) => void
  told: (row: LinkRow) => void
  signal: AbortSignal
}

/** More, and the processors were the link. */
const BUSY = 0.9
/** Slow enough that the link is measured and not the processors. */
const RATE = { rateMbit: 50 }
const LINKS: readonly LinkConditions[] = [
  { delayMs: 10, ...RATE },
  { delayMs: 50, ...RATE },
  { delayMs: 100, ...RATE },
  { delayMs: 250, ...RATE },
  { delayMs: 25, lossPercent: 1, ...RATE },
  { delayMs: 25, lossPercent: 5, ...RATE },
  { delayMs: 25, lossPercent: 10, ...RATE },
]
/** Where eight streams must be as fast as plain TCP. */
const GOAL = printConditions({ delayMs: 25, lossPercent: 1, ...RATE })
const CONTROL: readonly LinkConditions[] = [
  { delayMs: 100 },
  { delayMs: 50, lossPercent: 10 },
  { delayMs: 50, lossPercent: 20 },
]
/** TUNNELS.md §6.6: 50 ms there and back, 50 Mbit/s, a buffer of 1 MB. */
const SMALL = { delayMs: 25, rateMbit: 50, queueKiB: 1_024 }
const SMALL_FLOWS = 20
const TRIES = 5
const NOTHING = { perSecond: 0, p95: 0, bulkMbps: 0 }
const EACH = [
  'name, first question',
  'name, known',
  'connect and a byte',
  'one stream',
  '8 streams',
  'requests, 8 flows',
] as const

export async function links(world: World, options: LinksOptions): Promise<LinkRow[]> {
  const table = new Table(world, options)
  for (const conditions of LINKS) await table.measure(conditions)
  for (const lossPercent of [0, 1]) {
    for (const hasBulk of [false, true]) await table.small({ ...SMALL, lossPercent }, hasBulk)
  }
  for (const conditions of CONTROL) await table.control(conditions)
  return table.rows
}

class Table {
  readonly rows: LinkRow[] = []
  readonly #world: World
  readonly #options: LinksOptions
  #fresh = 0
  #apps = 0

  constructor(world: World, options: LinksOptions) {
    this.#world = world
    this.#options = options
  }

  async measure(link: LinkConditions): Promise<void> {
    const conditions = printConditions(link)
    const { cell, wants } = this.#cells(conditions)
    if (!wants(...EACH)) return
    await this.#anew(conditions, link)
    const [mesh, plain] = await this.#places()
    await cell('name, first question', 'ms', async () => [await this.#names()])
    await cell('name, known', 'ms', async () => [await this.#name(nameOf('callee'))])
    await cell('connect and a byte', 'ms', async () => [await this.#bytes(mesh), await this.#bytes(plain)])
    let single = 0
    await cell('one stream', 'Mbit/s', async () => [await this.#take(mesh, 1), (single = await this.#take(plain, 1))])
    let eight = 0
    await cell('8 streams', 'Mbit/s', async () => [(eight = await this.#take(mesh, 8)), await this.#take(plain, 8)])
    if (single > 0) await cell('8 streams, against one plain', 'Mbit/s', async () => [eight, single])
    const how = { flows: 8, thinkMs: 0, hasBulk: false, isTls: false }
    await cell('requests, 8 flows', '1/s', async () => {
      const ours = await this.#requests(mesh, how)
      return [ours.perSecond, (await this.#requests(plain, how)).perSecond]
    })
  }

  /** Small requests, against a plain TLS connection for each flow. */
  async small(link: LinkConditions, hasBulk: boolean): Promise<void> {
    const conditions = `${printConditions(link)}${hasBulk ? ', bulk beside' : ''}`
    const { cell, wants } = this.#cells(conditions)
    if (!wants('20 flows', '20 flows, p95', 'the bulk')) return
    await this.#anew(`${SMALL_FLOWS} small flows, ${conditions}`, link)
    const [mesh, plain] = await this.#places()
    const how = { flows: SMALL_FLOWS, thinkMs: 20, hasBulk }
    let [ours, theirs] = [NOTHING, NOTHING]
    await cell('20 flows', '1/s', async () => {
      ours = await this.#requests(mesh, { ...how, isTls: false })
      theirs = await this.#requests(plain, { ...how, isTls: true })
      return [ours.perSecond, theirs.perSecond]
    })
    await cell('20 flows, p95', 'ms', async () => [ours.p95, theirs.p95])
    if (hasBulk) await cell('the bulk', 'Mbit/s', async () => [ours.bulkMbps, theirs.bulkMbps])
  }

  /** Names nobody asked for, connections to them, and deployments, while the control link is bad and the data link is not. */
  async control(link: LinkConditions): Promise<void> {
    const conditions = `control ${printConditions(link)}`
    const { cell, wants } = this.#cells(conditions)
    if (!wants('name, first question', 'name, connect and a byte', 'deployment')) return
    this.#options.say(conditions)
    await this.#over('caller', {})
    await this.#over(CLUSTER, link)
    await cell('name, first question', 'ms', async () => [await this.#names()])
    await cell('name, connect and a byte', 'ms', async () => [await this.#reach(this.#freshName())])
    await cell('deployment', 'ms', async () => [await this.#deploy(`late${this.#apps++}`)])
    await this.#over(CLUSTER, {})
  }

  /** From the command at the root until the service answers by its name. */
  async #deploy(app: string): Promise<number> {
    const startedAt = performance.now()
    await this.#world.submit(app, { late: 'callee' })
    await until(async () => (await this.#reach(nameOf('late', app))) > 0, `${app} answers`)
    return performance.now() - startedAt
  }

  /** Asks for a name, connects, and has a byte come back. */
  async #reach(name: string): Promise<number> {
    const { resolver: server } = await this.#world.status('caller')
    const station = this.#world.station('caller')
    const { ms, address: host } = await station.ask({ ask: 'name', name, server })
    const at = { host, port: SERVICE_PORT }
    return ms + (await station.ask({ ask: 'byte', at, protocol: 'tcp', limitMs: 20_000 })).ms
  }

  /** Figures of one link: those that are wanted are measured, and told. */
  #cells(conditions: string) {
    let busy = 0
    const isWanted = (measure: string) => this.#options.only.test(`${conditions}: ${measure}`)
    return {
      wants: (...measures: string[]) => measures.some(isWanted),
      cell: async (measure: string, unit: LinkRow['unit'], take: () => Promise<[ours: number, plain?: number]>) => {
        if (!isWanted(measure)) return
        const startedAt = performance.now()
        const busyShare = busySince()
        const [ours, plain] = await take()
        if (performance.now() - startedAt > 100) busy = busyShare() // else it was measured with the one before
        this.#report({ conditions, measure, unit, ours, ...(plain === undefined ? {} : { plain }), busy })
      },
    }
  }

  #report(row: Omit<LinkRow, 'link' | 'congestionControl'>): void {
    const told = { ...row, link: this.#world.lab.links, congestionControl: this.#options.congestionControl }
    this.rows.push(told)
    this.#options.told(told)
  }

  async #anew(what: string, link: LinkConditions): Promise<void> {
    this.#options.say(what)
    await this.#over('caller', link) // first: the kernel keeps to the round trip that a connection began with for 10 s
    await this.#world.restartAgent('caller')
    await sleep(1_000, undefined, { signal: this.#options.signal })
  }

  /** Changes a link; what was under way has time to arrive, and what counts time-outs to calm down. */
  async #over(host: string, conditions: LinkConditions): Promise<void> {
    this.#options.signal.throwIfAborted()
    await this.#world.lab.host(host).change(conditions)
    await sleep(1_000, undefined, { signal: this.#options.signal })
  }

  async #places(): Promise<[mesh: At, plain: At]> {
    const mesh = await this.#world.at('caller', 'callee')
    return [mesh, { host: this.#world.lab.host('callee').address, port: ORIGIN_PORT }]
  }

  /** The median of questions for names that this node never asked for. */
  async #names(): Promise<number> {
    const times: number[] = []
    for (let i = 0; i < 2; i++) times.push(await this.#name(this.#freshName()))
    return median(times) ?? 0
  }

  #freshName(): string {
    return nameOf(`fresh${this.#fresh++ % FRESH}`)
  }

  async #name(name: string): Promise<number> {
    const { resolver: server } = await this.#world.status('caller')
    return (await this.#world.station('caller').ask({ ask: 'name', name, server })).ms
  }

  async #bytes(at: At): Promise<number> {
    const times: number[] = []
    for (let i = 0; i < TRIES; i++) {
      times.push((await this.#world.station('caller').ask({ ask: 'byte', at, protocol: 'tcp', limitMs: 20_000 })).ms)
    }
    return median(times) ?? 0
  }

  async #take(at: At, streams: number): Promise<number> {
    const limitMs = this.#options.seconds * 1_000
    const question = { ask: 'take', at, protocol: 'tcp', bytes: ENDLESS, streams, limitMs } as const
    return (await this.#world.station('caller').ask(question)).mbps
  }

  #requests(at: At, how: { flows: number; thinkMs: number; hasBulk: boolean; isTls: boolean }) {
    return this.#world.station('caller').ask({ ask: 'requests', at, seconds: this.#options.seconds, ...how })
  }
}

/** What a figure lacks of its goal; where the processors were busy it says so instead. */
export function linkShort({ conditions, measure, ours, plain, busy }: LinkRow): string {
  if (busy > BUSY) return 'the processors were busy'
  if (plain === undefined) return ''
  const isGoal = measure.startsWith('20 flows') || (measure === '8 streams, against one plain' && conditions === GOAL)
  return isGoal && (measure.endsWith('p95') ? ours > plain : ours < plain) ? 'NOT REACHED' : ''
}

/** Lines for people. */
export function linkTableOf(rows: readonly LinkRow[]): string[] {
  const head = ['link', 'measure', 'hedgerow', 'plain', '', 'ratio', '']
  const cells = rows.map((row, i) => [
    rows[i - 1]?.conditions === row.conditions ? '' : row.conditions,
    row.measure,
    row.ours.toFixed(1),
    row.plain?.toFixed(1) ?? '',
    row.unit,
    row.plain === undefined ? '' : `${(row.ours / row.plain).toFixed(2)}×`,
    linkShort(row),
  ])
  const all = [head, ...cells]
  const widths = head.map((_, column) => Math.max(...all.map((line) => (line[column] as string).length)))
  return all.map((line) =>
    line
      .map((cell, column) =>
        [2, 3, 5].includes(column) ? cell.padStart(widths[column] as number) : cell.padEnd(widths[column] as number),
      )
      .join('  ')
      .trimEnd(),
  )
}
