import { linkText, type PlacedLink } from '../model/map-links.ts'
import { type Box, DOT, type MapLayout, type MapNode, type Placing } from '../model/map-layout.ts'
import type { Tone } from '../model/rows.ts'

/** What is drawn beside the layout itself. */
export interface Shown {
  /** Only instances of these services are in full colour. */
  isShown: (service: string) => boolean
  chosen: string | undefined
  /** Instances that have just changed: how far their ring has faded, from 0 to 1. */
  changed: ReadonlyMap<string, number>
  links: readonly PlacedLink[]
}

const TONES: readonly Tone[] = ['good', 'busy', 'warn', 'bad', 'idle']
/** Below this scale words cannot be read. */
const WORDS_SCALE = 0.55
const DIM = 0.18

/** The whole map on a canvas of this size in CSS pixels. Dots of one colour are one path: ten thousand are five fills. */
export function drawMap(
  context: CanvasRenderingContext2D,
  layout: MapLayout,
  { scale, x, y }: Placing,
  { isShown, chosen, changed, links }: Shown,
  screen: { width: number; height: number; density: number },
): void {
  const colours = coloursOf(context.canvas)
  context.setTransform(screen.density, 0, 0, screen.density, 0, 0)
  context.clearRect(0, 0, screen.width, screen.height)
  context.translate(x, y)
  context.scale(scale, scale)
  const seen = { x: -x / scale, y: -y / scale, width: screen.width / scale, height: screen.height / scale }
  const clusters = layout.clusters.filter((box) => overlaps(box, seen))
  const nodes = clusters.flatMap(({ nodes }) => nodes).filter((box) => overlaps(box, seen))
  context.lineWidth = 1 / scale
  for (const cluster of clusters) {
    outlined(context, cluster, 14, colours.surface, colours.line)
    words(
      context,
      cluster.name,
      { ...cluster, x: cluster.x + 16, y: cluster.y + 21 },
      `600 13px ${colours.font}`,
      colours.text,
    )
  }
  for (const node of nodes) {
    const isChosen = node.id === chosen
    context.lineWidth = (isChosen ? 2.5 : 1) / scale
    outlined(context, node, 8, colours.back, isChosen ? colours.accent : colours.line)
  }
  const dots = Map.groupBy(
    nodes.flatMap(({ dots }) => dots),
    ({ tone, instance }) => `${tone} ${isShown(instance.service)}`,
  )
  for (const tone of TONES) {
    context.fillStyle = colours[tone]
    context.beginPath()
    for (const { tone: own, x, y, width } of nodes) if (own === tone) dot(context, x + width - 12, y + 14, 3.5)
    context.fill()
    for (const isFull of [true, false]) {
      const own = dots.get(`${tone} ${isFull}`) ?? []
      if (own.length === 0) continue
      context.globalAlpha = isFull ? 1 : DIM
      context.beginPath()
      for (const { x, y } of own) dot(context, x + 4, y + 4, DOT.size / 2)
      context.fill()
    }
    context.globalAlpha = 1
  }
  if (scale >= WORDS_SCALE) for (const node of nodes) nodeWords(context, node, colours)
  lines(context, links, { chosen, changed, scale, seen }, colours)
  rings(context, nodes, changed, colours.accent)
}

function nodeWords(context: CanvasRenderingContext2D, node: MapNode, colours: Colours): void {
  words(
    context,
    node.name,
    { x: node.x + 10, y: node.y + 18, width: node.width - 34 },
    `11.5px ${colours.font}`,
    colours.text,
  )
  if (node.more > 0)
    words(
      context,
      `+${node.more}`,
      { x: node.x + node.width - 26, y: node.y + 56, width: 24 },
      `10px ${colours.font}`,
      colours.muted,
    )
}

/** Lines of one look are one path, so that thousands are two strokes. Those of the chosen node say their round-trip time. */
function lines(
  context: CanvasRenderingContext2D,
  links: readonly PlacedLink[],
  { chosen, changed, scale, seen }: Pick<Shown, 'chosen' | 'changed'> & { scale: number; seen: Box },
  colours: Colours,
): void {
  const isOf = ({ row }: PlacedLink) => row.from === chosen || row.to === chosen
  const inSight = links.filter((link) => overlaps(boxOf(link), seen))
  const groups = Map.groupBy(inSight, (link) => `${link.isRelayed} ${isOf(link)} ${changed.has(link.row.id)}`)
  for (const group of groups.values()) {
    const [{ isRelayed, row }] = group as [PlacedLink]
    const isMarked = isOf(group[0] as PlacedLink)
    const age = changed.get(row.id)
    context.strokeStyle = isRelayed ? colours.warn : isMarked ? colours.accent : colours.muted
    context.setLineDash(isRelayed ? [7 / scale, 5 / scale] : [])
    context.lineWidth = (isMarked ? 2 : age === undefined ? 1 : 1 + 3 * (1 - age)) / scale
    context.globalAlpha = isMarked || age !== undefined ? 0.95 : chosen === undefined ? 0.4 : DIM
    context.beginPath()
    for (const { x1, y1, x2, y2 } of group) {
      context.moveTo(x1, y1)
      context.lineTo(x2, y2)
    }
    context.stroke()
  }
  context.setLineDash([])
  context.globalAlpha = 1
  for (const link of inSight) {
    if (!isOf(link)) continue
    const at = { x: (link.x1 + link.x2) / 2 + 4 / scale, y: (link.y1 + link.y2) / 2 - 4 / scale, width: 240 / scale }
    words(context, linkText(link.row), at, `${11 / scale}px ${colours.font}`, colours.text)
  }
}

function boxOf({ x1, y1, x2, y2 }: PlacedLink): Box {
  return { x: Math.min(x1, x2), y: Math.min(y1, y2), width: Math.abs(x2 - x1) + 1, height: Math.abs(y2 - y1) + 1 }
}

function rings(
  context: CanvasRenderingContext2D,
  nodes: readonly MapNode[],
  changed: Shown['changed'],
  colour: string,
): void {
  if (changed.size === 0) return
  context.strokeStyle = colour
  context.lineWidth = 2
  for (const { dots } of nodes)
    for (const { instance, x, y } of dots) {
      const age = changed.get(instance.id)
      if (age === undefined) continue
      context.globalAlpha = 1 - age
      context.beginPath()
      dot(context, x + 4, y + 4, 5 + age * 9)
      context.stroke()
    }
  context.globalAlpha = 1
}

function dot(context: CanvasRenderingContext2D, x: number, y: number, radius: number): void {
  context.moveTo(x + radius, y)
  context.arc(x, y, radius, 0, Math.PI * 2)
}

function outlined(context: CanvasRenderingContext2D, box: Box, radius: number, fill: string, line: string): void {
  context.beginPath()
  context.roundRect(box.x, box.y, box.width, box.height, radius)
  context.fillStyle = fill
  context.fill()
  context.strokeStyle = line
  context.stroke()
}

/** Cut where there is no more room. */
function words(
  context: CanvasRenderingContext2D,
  text: string,
  { x, y, width }: { x: number; y: number; width: number },
  font: string,
  colour: string,
): void {
  context.font = font
  context.fillStyle = colour
  let shown = text
  while (shown.length > 1 && context.measureText(shown).width > width) shown = `${shown.slice(0, -2)}…`
  context.fillText(shown, x, y)
}

function overlaps(a: Box, b: Box): boolean {
  return a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height
}

type Colours = Record<Tone | 'back' | 'surface' | 'line' | 'text' | 'muted' | 'accent' | 'font', string>

/** As the style sheet has them, in either theme. */
function coloursOf(element: HTMLElement): Colours {
  const style = getComputedStyle(element)
  const value = (name: string) => style.getPropertyValue(name).trim()
  const names = [...TONES, 'back', 'surface', 'text', 'muted', 'accent'] as const
  const colours = Object.fromEntries(names.map((name) => [name, value(`--${name}`)]))
  return { ...colours, line: value('--line-strong'), font: value('--sans') } as Colours
}
