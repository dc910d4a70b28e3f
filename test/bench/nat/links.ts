import { setTimeout as sleep } from 'node:timers/promises'
import type { LinkConditions } from '../../lab/link/conditions.ts'
import { printConditions } from '../../lab/link/conditions.ts'
import { median } from '../table.ts'
import { ENDLESS } from './origin.ts'
import { type At, ORIGIN_PORT } from './station.ts'
import { CLUSTER, nameOf, type World } from './world.ts'

/**
 * The mesh over bad links, and beside each figure the same by plain TCP over the same link, in turns.
 *
 *     caller ── the link ──[ internet ]── callee          all that the caller says goes over its link, its questions too
 *                              └──────── edge, root       edge's link is the control link of the last rows
 */
export const LINK_NODES = ['caller', 'callee'] as const
const FRESH = 24
/** Services that nobody has asked for: a first question is only once the first. */
export const FRESH_SERVICES = Object.fromEntries(Array.from({ length: FRESH }, (_, i) => [`fresh${i}`, 'callee']))

export function linksLab() {
  return { publics: ['caller', 'callee'], conditions: { caller: {}, [CLUSTER]: {} } } as const
}

/** One line of `--json`; `plain` is absent where there is nothing to compare with. */
export interface LinkRow {
  conditions: string
  measure: string
  unit: 'ms' | 'Mbit/s' | '1/s'
  ours: number
  plain?: number
  link: string
}

export interface LinksOptions {
  seconds: number
  only: RegExp
  say: (line: string) => void
  told: (row: LinkRow) => void
  signal: AbortSignal
}

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
const CONTROL: readonly LinkConditions[] = [
  { delayMs: 100 },
  { delayMs: 50, lossPercent: 10 },
  { delayMs: 50, lossPercent: 20 },
]
/** TUNNELS.md §6.6: 50 ms there and back, 50 Mbit/s, a buffer of 1 MB. */
const SMALL = { delayMs: 25, rateMbit: 50, queueKiB: 1_024 }
const SMALL_FLOWS = 20
const TRIES = 5

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
    const words = printConditions(link)
    if (!this.#options.only.test(words)) return
    this.#options.say(words)
    await this.#over('caller', link)
    const tell = (measure: string, unit: LinkRow['unit'], ours: number, plain?: number) =>
      this.#tell({ conditions: words, measure, unit, ours, ...(plain === undefined ? {} : { plain }) })
    const [mesh, plain] = await this.#places()
    tell('name, first question', 'ms', await this.#names())
    tell('name, known', 'ms', await this.#name(nameOf('callee')))
    tell('connect and a byte', 'ms', await this.#bytes(mesh), await this.#bytes(plain))
    for (const streams of [1, 8]) {
      const words = streams === 1 ? 'one stream' : `${streams} streams`
      tell(words, 'Mbit/s', await this.#take(mesh, streams), await this.#take(plain, streams))
    }
    const ours = await this.#requests(mesh, { flows: 8, thinkMs: 0, hasBulk: false, isTls: false })
    const theirs = await this.#requests(plain, { flows: 8, thinkMs: 0, hasBulk: false, isTls: false })
    tell('requests, 8 flows', '1/s', ours.perSecond, theirs.perSecond)
  }

  /** Small requests, against a plain TLS connection for each flow. */
  async small(link: LinkConditions, hasBulk: boolean): Promise<void> {
    const words = `${printConditions(link)}${hasBulk ? ', bulk beside' : ''}`
    if (!this.#options.only.test(words)) return
    this.#options.say(`${SMALL_FLOWS} small flows, ${words}`)
    await this.#over('caller', link)
    const [mesh, plain] = await this.#places()
    const how = { flows: SMALL_FLOWS, thinkMs: 20, hasBulk }
    const ours = await this.#requests(mesh, { ...how, isTls: false })
    const theirs = await this.#requests(plain, { ...how, isTls: true })
    const row = { conditions: words }
    this.#tell({ ...row, measure: '20 flows', unit: '1/s', ours: ours.perSecond, plain: theirs.perSecond })
    this.#tell({ ...row, measure: '20 flows, p95', unit: 'ms', ours: ours.p95, plain: theirs.p95 })
    if (hasBulk)
      this.#tell({ ...row, measure: 'the bulk', unit: 'Mbit/s', ours: ours.bulkMbps, plain: theirs.bulkMbps })
  }

  async control(link: LinkConditions): Promise<void> {
    const words = `control ${printConditions(link)}`
    if (!this.#options.only.test(words)) return
    this.#options.say(words)
    await this.#over('caller', {})
    await this.#over(CLUSTER, link)
    this.#tell({ conditions: words, measure: 'name, first question', unit: 'ms', ours: await this.#names() })
    const ms = await this.#world.apply(`late${this.#apps++}`, { late: 'callee' })
    this.#tell({ conditions: words, measure: 'deployment', unit: 'ms', ours: ms })
    await this.#over(CLUSTER, {})
  }

  #tell(row: Omit<LinkRow, 'link'>): void {
    const told = { ...row, link: this.#world.lab.links }
    this.rows.push(told)
    this.#options.told(told)
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
    for (let i = 0; i < 2; i++) times.push(await this.#name(nameOf(`fresh${this.#fresh++ % FRESH}`)))
    return median(times) ?? 0
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

/** Lines for people. */
export function linkTableOf(rows: readonly LinkRow[]): string[] {
  const head = ['link', 'measure', 'hedgerow', 'plain', '', 'ratio']
  const cells = rows.map((row, i) => [
    rows[i - 1]?.conditions === row.conditions ? '' : row.conditions,
    row.measure,
    row.ours.toFixed(1),
    row.plain?.toFixed(1) ?? '',
    row.unit,
    row.plain === undefined ? '' : `${(row.ours / row.plain).toFixed(2)}×`,
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
