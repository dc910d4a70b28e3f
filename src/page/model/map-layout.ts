import type { Mesh } from './mesh.ts'
import type { InstanceRow, Tone } from './rows.ts'
import { toneOf } from './services.ts'

/*
 * The map in units of its own, drawn at any size:
 *
 *     ┌ cluster ────────────────────┐  ┌ cluster ─────┐
 *     │ ┌ node ───┐ ┌ node ───┐ …   │  │ ┌ node ───┐  │
 *     │ │ ● ● ● ● │ │ ● ●     │     │  │ │ ● ●     │  │   a dot for each instance
 *     │ └─────────┘ └─────────┘     │  │ └─────────┘  │
 *     └─────────────────────────────┘  └──────────────┘
 */

export interface Box {
  x: number
  y: number
  width: number
  height: number
}

export interface MapDot {
  instance: InstanceRow
  tone: Tone
  x: number
  y: number
}

export interface MapNode extends Box {
  id: string
  name: string
  tone: Tone
  dots: MapDot[]
  /** Instances for which there is no room. */
  more: number
}

export interface MapCluster extends Box {
  name: string
  tone: Tone
  nodes: MapNode[]
}

export interface MapLayout extends Box {
  clusters: MapCluster[]
  /** Instances without a place. */
  unplaced: InstanceRow[]
}

const NODE = { width: 132, height: 62 }
const GAP = 10
const PAD = 16
const HEAD = 32
const BETWEEN = 28
export const DOT = { step: 12, size: 8, left: 10, top: 28, perRow: 10, rows: 3 }
/** As wide as high, about, on most screens. */
const RATIO = 1.7

export function layoutOf(
  { clusters, nodes, instances }: Pick<Mesh, 'clusters' | 'nodes' | 'instances'>,
  conditions: ReadonlyMap<string, Tone>,
): MapLayout {
  const byNode = Map.groupBy(instances, ({ node }) => node ?? '')
  const byCluster = Map.groupBy(nodes, ({ id }) => id.slice(0, id.indexOf('/')))
  const names = new Set([...clusters.map(({ name }) => name), ...byCluster.keys()])
  const boxes = [...names].toSorted().map((name): MapCluster => {
    const own = (byCluster.get(name) ?? []).toSorted((a, b) => (a.id < b.id ? -1 : 1))
    const columns = Math.max(1, Math.round(Math.sqrt((own.length * RATIO * NODE.height) / NODE.width)))
    const placed = own.map(({ id }, at): MapNode => {
      const all = byNode.get(id) ?? []
      const x = PAD + (at % columns) * (NODE.width + GAP)
      const y = HEAD + Math.floor(at / columns) * (NODE.height + GAP)
      const shown = all.slice(0, DOT.perRow * DOT.rows)
      return {
        id,
        name: id.slice(id.indexOf('/') + 1),
        tone: conditions.get(id) ?? 'idle',
        x,
        y,
        ...NODE,
        dots: shown.map((instance, dot) => ({
          instance,
          tone: toneOf(instance),
          x: x + DOT.left + (dot % DOT.perRow) * DOT.step,
          y: y + DOT.top + Math.floor(dot / DOT.perRow) * DOT.step,
        })),
        more: all.length - shown.length,
      }
    })
    const rows = Math.max(1, Math.ceil(own.length / columns))
    return {
      name,
      tone: conditions.get(name) ?? 'idle',
      x: 0,
      y: 0,
      width: PAD * 2 + columns * (NODE.width + GAP) - GAP,
      height: HEAD + rows * (NODE.height + GAP) - GAP + PAD,
      nodes: placed,
    }
  })
  return {
    ...shelved(boxes),
    unplaced: instances.filter(({ node, state }) => node === undefined && state !== 'stopped'),
  }
}

/** From left to right, in rows of the width with which all of them show largest. */
function shelved(boxes: readonly MapCluster[]): Omit<MapLayout, 'unplaced'> {
  const widest = Math.max(0, ...boxes.map(({ width }) => width))
  let width = 0
  const limits = boxes.map((box) => (width += box.width + BETWEEN)).filter((limit) => limit >= widest)
  const tried = limits.slice(0, MOST_TRIED).map((limit) => inRows(boxes, limit))
  const sizeOf = ({ width, height }: Box) => Math.max(width / RATIO, height)
  const [best] = tried.toSorted((a, b) => sizeOf(a) - sizeOf(b))
  return best ?? inRows(boxes, widest)
}

/** Widths of a row that are compared. */
const MOST_TRIED = 64

function inRows(boxes: readonly MapCluster[], limit: number): Omit<MapLayout, 'unplaced'> {
  let [x, y, rowHeight, right] = [0, 0, 0, 0]
  const clusters = boxes.map((box) => {
    if (x > 0 && x + box.width > limit) [x, y, rowHeight] = [0, y + rowHeight + BETWEEN, 0]
    const moved = movedBy(box, x, y)
    x += box.width + BETWEEN
    right = Math.max(right, x - BETWEEN)
    rowHeight = Math.max(rowHeight, box.height)
    return moved
  })
  return { x: 0, y: 0, width: Math.max(right, 1), height: Math.max(y + rowHeight, 1), clusters }
}

function movedBy(cluster: MapCluster, x: number, y: number): MapCluster {
  const nodes = cluster.nodes.map((node) => ({
    ...node,
    x: node.x + x,
    y: node.y + y,
    dots: node.dots.map((dot) => ({ ...dot, x: dot.x + x, y: dot.y + y })),
  }))
  return { ...cluster, x, y, nodes }
}

/** What is at a point: an instance before its node. */
export function hitAt(layout: MapLayout, x: number, y: number): { node: MapNode; dot?: MapDot } | undefined {
  const cluster = layout.clusters.find((box) => isIn(box, x, y))
  const node = cluster?.nodes.find((box) => isIn(box, x, y))
  if (node === undefined) return undefined
  const dot = node.dots.find((one) => isIn({ ...one, width: DOT.step, height: DOT.step }, x + 2, y + 2))
  return dot === undefined ? { node } : { node, dot }
}

function isIn(box: Box, x: number, y: number): boolean {
  return x >= box.x && x < box.x + box.width && y >= box.y && y < box.y + box.height
}

export type Direction = 'ArrowLeft' | 'ArrowRight' | 'ArrowUp' | 'ArrowDown'

/** The next node in a direction: the nearest, where the way sideways counts twice. Without one to start from, the first. */
export function nextNode({ clusters }: MapLayout, from: string | undefined, towards: Direction): MapNode | undefined {
  const nodes = clusters.flatMap(({ nodes }) => nodes)
  const start = nodes.find(({ id }) => id === from)
  if (start === undefined) return nodes[0]
  const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[towards] as [
    number,
    number,
  ]
  const far = ({ x, y }: MapNode) => {
    const [ahead, sideways] = dx === 0 ? [(y - start.y) * dy, x - start.x] : [(x - start.x) * dx, y - start.y]
    return ahead <= 0 ? Infinity : ahead + 2 * Math.abs(sideways)
  }
  const [nearest] = nodes.toSorted((a, b) => far(a) - far(b))
  return nearest !== undefined && far(nearest) < Infinity ? nearest : start
}

/** How the map lies on the screen: `screen = map × scale + (x, y)`. */
export interface Placing {
  scale: number
  x: number
  y: number
}

const LEAST_SCALE = 0.05
const MOST_SCALE = 3
const MARGIN = 24

/** All of it, in the middle. */
export function fitted({ width, height }: Box, screen: { width: number; height: number }): Placing {
  const scale = bounded(
    Math.min((screen.width - 2 * MARGIN) / width, (screen.height - 2 * MARGIN) / height, 1.25),
    LEAST_SCALE,
    MOST_SCALE,
  )
  return { scale, x: (screen.width - width * scale) / 2, y: Math.max(MARGIN, (screen.height - height * scale) / 2) }
}

/** Larger or smaller; what is at the point stays there. */
export function zoomed({ scale, x, y }: Placing, factor: number, at: { x: number; y: number }): Placing {
  const next = bounded(scale * factor, LEAST_SCALE, MOST_SCALE)
  const by = next / scale
  return { scale: next, x: at.x - (at.x - x) * by, y: at.y - (at.y - y) * by }
}

function bounded(value: number, least: number, most: number): number {
  return Math.min(most, Math.max(least, value))
}
