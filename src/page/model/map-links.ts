import type { MapLayout } from './map-layout.ts'
import type { LinkRow } from './rows.ts'
import { memoryText } from './text.ts'

/** A link as a line between the middles of two nodes of the map. */
export interface PlacedLink {
  row: LinkRow
  isRelayed: boolean
  x1: number
  y1: number
  x2: number
  y2: number
}

/** More lines than this nobody can tell apart: then those that carried most. */
export const MOST_LINES = 4_000

/** Those whose two nodes are on the map. */
export function linesOf(links: readonly LinkRow[], { clusters }: MapLayout): PlacedLink[] {
  const nodes = new Map(clusters.flatMap((cluster) => cluster.nodes.map((node) => [node.id, node] as const)))
  const placed = links.flatMap((row): PlacedLink[] => {
    const [from, to] = [nodes.get(row.from), nodes.get(row.to)]
    if (from === undefined || to === undefined) return []
    const [x1, y1] = [from.x + from.width / 2, from.y + from.height / 2]
    const [x2, y2] = [to.x + to.width / 2, to.y + to.height / 2]
    return [{ row, isRelayed: row.path === 'relayed', x1, y1, x2, y2 }]
  })
  if (placed.length <= MOST_LINES) return placed
  return placed.toSorted((a, b) => bytesOf(b.row) - bytesOf(a.row)).slice(0, MOST_LINES)
}

/** `relayed, 12.3 ms, 4.5 MB`. */
export function linkText({ path, rttMs, ...row }: LinkRow): string {
  const parts = [path, ...(rttMs === undefined ? [] : [`${rttMs.toFixed(1)} ms`])]
  return [...parts, ...(row.bytesIn === undefined ? [] : [memoryText(bytesOf(row) / 1_048_576)])].join(', ')
}

/** What shows that a link has changed: another path, not another round-trip time. */
export function changedLinks(before: readonly LinkRow[], now: readonly LinkRow[]): string[] {
  const paths = new Map(before.map(({ id, path }) => [id, path]))
  return now.flatMap(({ id, path }) => (paths.get(id) === path ? [] : [id]))
}

function bytesOf({ bytesIn = 0, bytesOut = 0 }: Pick<LinkRow, 'bytesIn' | 'bytesOut'>): number {
  return bytesIn + bytesOut
}
