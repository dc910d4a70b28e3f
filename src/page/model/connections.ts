import type { ServiceRow } from './rows.ts'

/*
 * Services as a graph: who calls is on the left, who is called is further to the right.
 *
 *     ┌ web ┐ ───────▶ ┌ cart ┐ ───────▶ ┌ db ┐
 *     └─────┘          └──────┘          └────┘
 */

/** One service calls another, as its document says. */
export interface Connection {
  from: string
  to: string
  /** Within this round trip. */
  latencyMs?: number
}

export interface BoxAt {
  id: string
  x: number
  y: number
}

export interface Graph {
  places: BoxAt[]
  connections: Connection[]
  width: number
  height: number
}

export const BOX = { width: 212, height: 58 }
const ACROSS = 96
const DOWN = 22
const PAD = 24
/** Of a graph without connections: boxes side by side. */
const PER_COLUMN = 8

/** `app.ns.service` may mean several services: all of that name. */
export function meantBy(key: string, ids: readonly string[]): string[] {
  return ids.filter((id) => id === key || id.split('.').slice(0, 3).join('.') === key)
}

export function connectionsIn(services: readonly Pick<ServiceRow, 'id' | 'calls'>[]): Connection[] {
  const ids = services.map(({ id }) => id)
  return services.flatMap(({ id, calls = [] }) =>
    calls.flatMap(({ service, latencyMs }) =>
      meantBy(service, ids)
        .filter((to) => to !== id)
        .map((to): Connection => ({ from: id, to, ...(latencyMs === undefined ? {} : { latencyMs }) })),
    ),
  )
}

/** In columns: each service one further to the right than what calls it; a circle ends where it began. */
export function graphOf(services: readonly Pick<ServiceRow, 'id'>[], connections: readonly Connection[]): Graph {
  const columns = columnsOf(services, connections)
  const counts = new Map<number, number>()
  const places = services
    .toSorted((a, b) => (a.id < b.id ? -1 : 1))
    .map(({ id }): BoxAt => {
      const column = columns.get(id) ?? 0
      const row = counts.get(column) ?? 0
      counts.set(column, row + 1)
      return { id, x: PAD + column * (BOX.width + ACROSS), y: PAD + row * (BOX.height + DOWN) }
    })
  return {
    places,
    connections: [...connections],
    width: Math.max(BOX.width, ...places.map(({ x }) => x + BOX.width)) + PAD,
    height: Math.max(BOX.height, ...places.map(({ y }) => y + BOX.height)) + PAD,
  }
}

function columnsOf(services: readonly Pick<ServiceRow, 'id'>[], connections: readonly Connection[]) {
  const columns = new Map<string, number>()
  const callers = Map.groupBy(connections, ({ to }) => to)
  const columnOf = (id: string, above: ReadonlySet<string>): number => {
    const known = columns.get(id)
    if (known !== undefined) return known
    const through = new Set([...above, id])
    const own = (callers.get(id) ?? []).filter(({ from }) => !through.has(from))
    const column = Math.max(-1, ...own.map(({ from }) => columnOf(from, through))) + 1
    columns.set(id, column)
    return column
  }
  for (const { id } of services) columnOf(id, new Set())
  const isAlone = ({ id }: { id: string }) => !connections.some(({ from, to }) => from === id || to === id)
  const last = Math.max(-1, ...services.filter((one) => !isAlone(one)).map(({ id }) => columns.get(id) ?? 0))
  for (const [at, { id }] of services.filter(isAlone).entries()) columns.set(id, last + 1 + Math.floor(at / PER_COLUMN)) // what calls nothing stands behind
  return columns
}

/** The service at a point. */
export function placeAt({ places }: Graph, x: number, y: number): BoxAt | undefined {
  return places.find((one) => x >= one.x && x < one.x + BOX.width && y >= one.y && y < one.y + BOX.height)
}

/** A line from the right side of the one to the left side of the other; a way back goes below. */
export function lineOf(from: BoxAt, to: { x: number; y: number }): string {
  const start = { x: from.x + BOX.width, y: from.y + BOX.height / 2 }
  const bend = Math.max(40, Math.abs(to.x - start.x) / 2)
  return `M${start.x} ${start.y}C${start.x + bend} ${start.y} ${to.x - bend} ${to.y} ${to.x} ${to.y}`
}

export const POLICIES = [
  ['rr', 'one after the other'],
  ['closest', 'the nearest first'],
  ['least', 'the one with fewer flows'],
  ['pinned', 'always the same for a caller'],
] as const

/** The name by which a caller says how an instance is chosen. */
export function nameFor(called: string, policy: string): string {
  return `${called}.any.${policy}.local`
}

/** Services of one app may call one another. */
export function needsAllow(from: string, to: Pick<ServiceRow, 'id' | 'allow'>): boolean {
  const app = (id: string) => id.split('.').slice(0, 2).join('.')
  if (app(from) === app(to.id)) return false
  return !to.allow.some((rule) => rule === '*' || rule === from || rule === app(from))
}
