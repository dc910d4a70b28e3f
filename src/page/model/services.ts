import type { InstanceRow, ServiceRow, Tone } from './rows.ts'

/** A service with what its instances say, as one line of the list. */
export interface ServiceView {
  row: ServiceRow
  tone: Tone
  /** `running`, `updating`, `2 of 3 ready`, `stopped`. */
  word: string
  wanted: number
  ready: number
  /** Ready instances of the newest document. */
  updated: number
  /** Newest first: a generation and how many placed instances have it. */
  versions: { generation: number; count: number }[]
  /** Undefined when nothing of it can be measured. */
  cpu?: number
  memoryMb?: number
  restarts: number
}

/** In the order of the API. */
export function serviceViews(services: readonly ServiceRow[], instances: readonly InstanceRow[]): ServiceView[] {
  const byService = Map.groupBy(instances, ({ service }) => service)
  return services.map((row) => serviceView(row, byService.get(row.id) ?? []))
}

export function serviceView(row: ServiceRow, instances: readonly InstanceRow[]): ServiceView {
  const ready = instances.filter(({ state }) => state === 'running').length
  const updated = instances.filter(
    ({ generation, state }) => generation >= row.generation && state === 'running',
  ).length
  const placed = instances.filter(({ node }) => node !== undefined)
  const groups = Map.groupBy(placed, ({ generation }) => generation)
  const versions = [...groups]
    .map(([generation, all]) => ({ generation, count: all.length }))
    .toSorted((a, b) => b.generation - a.generation)
  const used = instances.flatMap(({ usage }) => usage ?? [])
  return {
    row,
    ...stateOf(row, instances, ready),
    wanted: row.replicas,
    ready,
    updated,
    versions,
    ...(used.length === 0
      ? {}
      : { cpu: sum(used.map(({ cpu }) => cpu)), memoryMb: sum(used.map(({ memoryMb }) => memoryMb)) }),
    restarts: sum(instances.map(({ restarts }) => restarts)),
  }
}

/** What is told first: trouble, then what goes on, then that all is well. */
function stateOf(
  row: ServiceRow,
  instances: readonly InstanceRow[],
  ready: number,
): Pick<ServiceView, 'tone' | 'word'> {
  const worst = instances.filter((instance) => toneOf(instance) === 'bad')
  if (row.oneShot === true) {
    if (worst.length > 0) return { tone: 'bad', word: 'job failed' }
    if (ready > 0) return { tone: 'busy', word: 'job runs' }
    return { tone: 'idle', word: row.schedule === undefined ? 'job ended' : 'job waits' }
  }
  if (row.replicas === 0 && instances.length === 0) return { tone: 'idle', word: 'stopped' }
  if (worst.length > 0) return { tone: ready === 0 ? 'bad' : 'warn', word: `${ready} of ${row.replicas} ready` }
  if (row.update !== undefined) return { tone: /stuck|stopped/.test(row.update) ? 'warn' : 'busy', word: 'updating' }
  if (ready < row.replicas) return { tone: 'busy', word: `${ready} of ${row.replicas} ready` }
  if (instances.length > row.replicas) return { tone: 'busy', word: 'scaling down' }
  return { tone: 'good', word: 'running' }
}

const TONES: Readonly<Record<string, Tone>> = {
  running: 'good',
  finished: 'idle',
  stopped: 'idle',
  requested: 'busy',
  placed: 'busy',
  starting: 'busy',
  stopping: 'busy',
  unplaceable: 'bad',
  failed: 'bad',
  lost: 'bad',
}

export function toneOf({ state, outcome, detail }: Pick<InstanceRow, 'state' | 'outcome' | 'detail'>): Tone {
  if (outcome === 'failed') return 'bad'
  if (state === 'running' && detail?.startsWith('constraint violated') === true) return 'warn'
  return TONES[outcome ?? state] ?? 'busy'
}

export type ServiceFilter = 'all' | 'trouble' | 'changing'

/** By what was typed (every word somewhere in its id, state or detail) and by filter; those in trouble first, then by name. */
export function shownServices(views: readonly ServiceView[], typed: string, filter: ServiceFilter): ServiceView[] {
  const words = typed.toLowerCase().split(/\s+/).filter(Boolean)
  return views
    .filter(({ row, word, tone }) => {
      if (filter === 'trouble' && tone !== 'bad' && tone !== 'warn') return false
      if (filter === 'changing' && tone !== 'busy') return false
      const text = `${row.id} ${word} ${row.detail ?? ''} ${row.runtime}`.toLowerCase()
      return words.every((each) => text.includes(each))
    })
    .toSorted((a, b) => RANK[a.tone] - RANK[b.tone] || (a.row.id < b.row.id ? -1 : 1))
}

const RANK: Readonly<Record<Tone, number>> = { bad: 0, warn: 1, busy: 2, good: 3, idle: 3 }

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0)
}
