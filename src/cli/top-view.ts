import { styleText } from 'node:util'
import { printable } from '../core/kit/printable.ts'
import { nodeViews, shownNodes, type NodeView } from '../page/model/nodes.ts'
import type { ClusterRow, InstanceRow, NodeRow, ServiceRow, Tone } from '../page/model/rows.ts'
import { serviceViews, shownServices, type ServiceView } from '../page/model/services.ts'
import { coresText, counted, memoryText } from '../page/model/text.ts'

/** What `hedgerow top` shows, in the words of the page (src/page/model). */
export interface TopFacts {
  clusters: readonly ClusterRow[]
  nodes: readonly NodeRow[]
  services: readonly ServiceRow[]
  instances: readonly InstanceRow[]
}

export interface Screen {
  list: 'services' | 'nodes'
  /** The first row that is shown. */
  from: number
  columns: number
  /** Undefined: as many lines as it takes. */
  lines: number | undefined
  now: number
  /** Why this is not how it is now. */
  problem?: string | undefined
}

interface Column<T> {
  head: string
  width: number
  isRight?: boolean
  cell: (view: T) => string
}

const SERVICES: readonly Column<ServiceView>[] = [
  { head: 'service', width: 30, cell: ({ row }) => row.id },
  { head: 'state', width: 14, cell: ({ word }) => word },
  { head: 'ready', width: 7, isRight: true, cell: ({ ready, wanted }) => `${ready}/${wanted}` },
  { head: 'updated', width: 7, isRight: true, cell: ({ updated, wanted }) => `${updated}/${wanted}` },
  { head: 'cpu', width: 7, isRight: true, cell: ({ cpu }) => coresText(cpu) },
  { head: 'memory', width: 9, isRight: true, cell: ({ memoryMb }) => memoryText(memoryMb) },
  { head: 'restarts', width: 8, isRight: true, cell: ({ restarts }) => String(restarts) },
  { head: 'detail', width: 0, cell: ({ row }) => row.detail ?? '' },
]

const NODES: readonly Column<NodeView>[] = [
  { head: 'node', width: 30, cell: ({ row }) => row.id },
  { head: 'condition', width: 14, cell: ({ word }) => word },
  { head: 'instances', width: 9, isRight: true, cell: ({ row }) => String(row.instances) },
  { head: 'memory', width: 9, isRight: true, cell: ({ memoryTaken }) => shareText(memoryTaken) },
  { head: 'cpus', width: 7, isRight: true, cell: ({ cpuTaken }) => shareText(cpuTaken) },
  { head: 'free', width: 9, isRight: true, cell: ({ row }) => memoryText(row.freeMemoryMb) },
  { head: 'certificate', width: 12, isRight: true, cell: ({ certificate }) => certificate.text },
  { head: 'detail', width: 0, cell: ({ notes }) => notes.join('; ') },
]

function shareText(share: number | undefined): string {
  return share === undefined ? '–' : `${Math.round(share * 100)} %`
}

/** As lines of the terminal, none longer than it is wide. */
export function topText(facts: TopFacts, screen: Screen): string {
  const { list, columns, now, problem } = screen
  const services = shownServices(serviceViews(facts.services, facts.instances), '', 'all')
  const nodes = shownNodes(nodeViews(facts.nodes, now), '')
  const head = [headline(facts, services, nodes), problem === undefined ? '' : styleText('red', problem)]
  const body =
    list === 'services'
      ? rowsOf(SERVICES, services, screen, ({ tone }) => tone)
      : rowsOf(NODES, nodes, screen, ({ tone }) => tone)
  return [...head.map((line) => cut(line, columns)), ...body].join('\n')
}

/** How many rows there are in all. */
export function rowCount({ services, nodes }: TopFacts, list: Screen['list']): number {
  return list === 'services' ? services.length : nodes.length
}

/** Above the rows: the headline, what is wrong, the names of the columns; below: the keys. */
const LINES_AROUND = 5

export function rowsThatFit(lines: number): number {
  return Math.max(1, lines - LINES_AROUND)
}

function headline({ clusters, instances }: TopFacts, services: readonly ServiceView[], nodes: readonly NodeView[]) {
  const ill = (views: readonly { tone: Tone }[]) => views.filter(({ tone }) => tone === 'bad' || tone === 'warn').length
  const part = (count: number, word: string, trouble: number) =>
    `${counted(count, word)}${trouble === 0 ? '' : `, ${styleText('red', `${trouble} in trouble`)}`}`
  const running = instances.filter(({ state }) => state === 'running').length
  return [
    part(services.length, 'service', ill(services)),
    `${counted(instances.length, 'instance')}, ${running} running`,
    part(nodes.length, 'node', ill(nodes)),
    counted(clusters.length, 'cluster'),
  ].join('  ·  ')
}

const STYLES: Readonly<Record<Tone, Parameters<typeof styleText>[0]>> = {
  good: 'green',
  busy: 'blue',
  warn: 'yellow',
  bad: 'red',
  idle: 'dim',
}

function rowsOf<T>(
  all: readonly Column<T>[],
  views: readonly T[],
  { from, columns, lines }: Screen,
  toneOf: (view: T) => Tone,
): string[] {
  const names = Math.max(all[0]?.width ?? 0, ...views.map((view) => all[0]?.cell(view).length ?? 0))
  const table = all.map((column, at) =>
    at === 0 ? { ...column, width: Math.min(names, Math.floor(columns / 3)) } : column,
  )
  const shown = lines === undefined ? views : views.slice(from, from + rowsThatFit(lines))
  const head = lineOf(table, columns, ({ head }) => head.toUpperCase())
  const rows = shown.map((view) =>
    lineOf(
      table,
      columns,
      ({ cell }) => printable(cell(view)),
      (text, at) => (at === 1 ? styleText(STYLES[toneOf(view)], text) : text),
    ),
  )
  return [styleText('bold', head), ...rows]
}

/** Of the last column; less tells nothing. */
const LEAST_WIDTH = 4

/** The last column takes what is left of the line. */
function lineOf<T>(
  table: readonly Column<T>[],
  columns: number,
  textOf: (column: Column<T>) => string,
  style: (text: string, at: number) => string = (text) => text,
): string {
  let left = columns
  const cells = table.flatMap((column, at) => {
    const width = column.width === 0 ? left : column.width
    if (left < Math.max(width, LEAST_WIDTH)) return [] // a narrow terminal has fewer columns
    left -= width + 2
    const text = cut(textOf(column), width)
    return [style(column.isRight === true ? text.padStart(width) : text.padEnd(width), at)]
  })
  return cells.join('  ').trimEnd()
}

/** By characters; what is styled is short. */
function cut(text: string, width: number): string {
  // eslint-disable-next-line no-control-regex
  const visible = text.replaceAll(/\u001b\[[0-9;]*m/g, '')
  if (visible.length <= width) return text
  return width <= 1 ? visible.slice(0, Math.max(0, width)) : `${visible.slice(0, width - 1)}…`
}

export type Key = 'quit' | 'other list' | 'up' | 'down' | 'page up' | 'page down' | 'first' | 'last'

const KEYS: Readonly<Record<string, Key>> = {
  q: 'quit',
  '\u0003': 'quit',
  '\u0004': 'quit',
  '\t': 'other list',
  n: 'other list',
  s: 'other list',
  k: 'up',
  j: 'down',
  '\u001b[A': 'up',
  '\u001b[B': 'down',
  '\u001b[5~': 'page up',
  '\u001b[6~': 'page down',
  ' ': 'page down',
  g: 'first',
  G: 'last',
}

export function keyIn(typed: string): Key | undefined {
  return Object.hasOwn(KEYS, typed) ? KEYS[typed] : undefined
}

/** Where a key leads. */
export function turned(
  { list, from }: Pick<Screen, 'list' | 'from'>,
  key: Exclude<Key, 'quit'>,
  { count, fit }: { count: number; fit: number },
): Pick<Screen, 'list' | 'from'> {
  if (key === 'other list') return { list: list === 'services' ? 'nodes' : 'services', from: 0 }
  const last = Math.max(0, count - fit)
  const to = {
    up: from - 1,
    down: from + 1,
    'page up': from - fit,
    'page down': from + fit,
    first: 0,
    last,
  }[key]
  return { list, from: Math.min(last, Math.max(0, to)) }
}
