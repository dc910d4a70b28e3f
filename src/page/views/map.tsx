import { useEffect, useMemo, useRef, useState } from 'preact/hooks'
import { Badge } from '../parts/badge.tsx'
import { useDesk } from '../parts/desk.tsx'
import { drawMap } from '../parts/map-drawing.ts'
import { Search } from '../parts/search.tsx'
import { type Direction, fitted, hitAt, layoutOf, nextNode, type Placing, zoomed } from '../model/map-layout.ts'
import { changedLinks, linesOf, linkText, type PlacedLink } from '../model/map-links.ts'
import type { Mesh } from '../model/mesh.ts'
import { clusterView, nodeView } from '../model/nodes.ts'
import { hashOf } from '../model/route.ts'
import type { InstanceRow, LinkRow, Tone } from '../model/rows.ts'
import { counted, nameParts } from '../model/text.ts'
import { may, namespaceOf } from '../model/who.ts'
import { moveQuestion } from './service-actions.tsx'

const RING_MS = 1_400
const STEP = 1.25
const KEYS: Readonly<Record<string, number>> = { '+': STEP, '=': STEP, '-': 1 / STEP }

const LEGEND: readonly (readonly [Tone, string])[] = [
  ['good', 'runs'],
  ['busy', 'starts, stops'],
  ['warn', 'violates a constraint'],
  ['bad', 'failed, lost'],
]

/** Everything in one picture: clusters, their nodes, a dot for each instance. */
export function MapView({ mesh }: { mesh: Mesh }) {
  const { clusters, nodes, instances, links } = mesh
  const [typed, setTyped] = useState('')
  const [chosen, setChosen] = useState<string>()
  const [tip, setTip] = useState<{ x: number; y: number; text: string }>()
  const [placing, setPlacing] = useState<Placing>()
  const canvas = useRef<HTMLCanvasElement>(null)
  const screen = useScreen(canvas)
  const layout = useMemo(() => {
    const tones = new Map<string, Tone>(nodes.map((row) => [row.id, nodeView(row, 0).tone]))
    for (const row of clusters) tones.set(row.name, clusterView(row).tone)
    return layoutOf({ clusters, nodes, instances }, tones)
  }, [clusters, nodes, instances])
  const placedLinks = useMemo(() => linesOf(links, layout), [links, layout])
  const placed = placing ?? fitted(layout, screen)
  useDrawing(canvas, { layout, placed, screen, typed, chosen, instances, links, placedLinks })

  const zoom = (factor: number, at = { x: screen.width / 2, y: screen.height / 2 }) =>
    setPlacing((before) => zoomed(before ?? placed, factor, at))
  const pointAt = (event: PointerEvent | WheelEvent | MouseEvent) => {
    const { left, top } = (event.currentTarget as HTMLElement).getBoundingClientRect()
    return { x: event.clientX - left, y: event.clientY - top }
  }
  const hit = ({ x, y }: { x: number; y: number }) =>
    hitAt(layout, (x - placed.x) / placed.scale, (y - placed.y) / placed.scale)
  const desk = useDesk()
  const drag = useRef<Drag>(undefined)

  const moved = (event: PointerEvent) => {
    const at = pointAt(event)
    if (drag.current === undefined) {
      const found = hit(at)
      const text = found === undefined ? undefined : tipText(found.node.id, found.dot?.instance)
      return setTip(text === undefined ? undefined : { ...at, text })
    }
    const [dx, dy] = [at.x - drag.current.x, at.y - drag.current.y]
    if (!drag.current.isMoved && Math.hypot(dx, dy) < 4) return undefined
    const { carried } = drag.current
    drag.current = { ...drag.current, ...at, isMoved: true }
    if (carried !== undefined) {
      const over = hit(at)?.node.id
      setChosen(over)
      return setTip({ ...at, text: carryText(carried, over) })
    }
    setTip(undefined)
    return setPlacing((before = placed) => ({ ...before, x: before.x + dx, y: before.y + dy }))
  }
  const released = (event: PointerEvent) => {
    const isClick = drag.current?.isMoved === false
    const { carried } = drag.current ?? {}
    drag.current = undefined
    if (carried !== undefined && !isClick) {
      setTip(undefined)
      const to = hit(pointAt(event))?.node.id
      if (to !== undefined && to !== carried.node) desk.ask(moveQuestion(desk.api, carried, to))
      return
    }
    const found = isClick ? hit(pointAt(event)) : undefined
    if (found === undefined) return
    location.hash =
      found.dot === undefined
        ? hashOf({ view: 'nodes', open: found.node.id })
        : hashOf({ view: 'services', open: found.dot.instance.id })
  }
  const pressed = (event: KeyboardEvent) => {
    const factor = KEYS[event.key]
    if (factor !== undefined) zoom(factor)
    else if (event.key === '0') setPlacing(undefined)
    else if (event.key.startsWith('Arrow')) setChosen(nextNode(layout, chosen, event.key as Direction)?.id)
    else if (event.key === 'Enter' && chosen !== undefined) location.hash = hashOf({ view: 'nodes', open: chosen })
    else return
    event.preventDefault()
  }
  useWheel(canvas, (event) => zoom(Math.exp(-event.deltaY * 0.0015), pointAt(event)))

  const chosenRow = nodes.find(({ id }) => id === chosen)
  return (
    <div class="view">
      <div class="list">
        <div class="tools">
          <p class="title" aria-hidden="true">
            Map
          </p>
          <Search label="Show only a service" value={typed} change={setTyped} />
          <ul class="legend" aria-label="Colours">
            <li class="line">path</li>
            <li class="line relayed">relayed</li>
            {LEGEND.map(([tone, text]) => (
              <li key={text} class={tone}>
                {text}
              </li>
            ))}
          </ul>
          <span class="end">
            <button type="button" class="button square" aria-label="Smaller" onClick={() => zoom(1 / STEP)}>
              −
            </button>
            <button type="button" class="button square" aria-label="Larger" onClick={() => zoom(STEP)}>
              +
            </button>
            <button type="button" class="button" onClick={() => setPlacing(undefined)}>
              All
            </button>
          </span>
        </div>
        <div class="map">
          <canvas
            ref={canvas}
            role="application"
            tabIndex={0}
            aria-label={`Map of ${counted(clusters.length, 'cluster')}, ${counted(nodes.length, 'node')} and ${counted(instances.length, 'instance')}. Arrow keys choose a node, Enter opens it, plus and minus zoom. An instance that is dragged to another node is moved; the button Migrate of the instance does the same. The view Nodes has the same as a list.`}
            onPointerDown={(event) => {
              event.currentTarget.setPointerCapture(event.pointerId)
              const at = pointAt(event)
              const carried = hit(at)?.dot?.instance
              const mayMove = carried !== undefined && may(desk.me, 'change', namespaceOf(carried.id))
              drag.current = { ...at, isMoved: false, ...(mayMove ? { carried } : {}) }
            }}
            onPointerMove={moved}
            onPointerUp={released}
            onPointerCancel={() => (drag.current = undefined)}
            onPointerLeave={() => setTip(undefined)}
            onKeyDown={pressed}
          />
          {tip === undefined ? undefined : (
            <p class="tip" style={{ left: `${tip.x + 14}px`, top: `${tip.y + 14}px` }}>
              {tip.text}
            </p>
          )}
          <p class="chosennode" role="status">
            {chosenRow === undefined
              ? undefined
              : [
                  `${chosenRow.id}: ${chosenRow.condition}, ${counted(chosenRow.instances, 'instance')}`,
                  ...links
                    .flatMap((row) => {
                      const other = row.from === chosen ? row.to : row.to === chosen ? row.from : undefined
                      return other === undefined ? [] : [`${other} ${linkText(row)}`]
                    })
                    .slice(0, 8),
                ].join('; ')}
          </p>
          {layout.unplaced.length === 0 ? undefined : (
            <a class="unplaced" href={hashOf({ view: 'why' })}>
              <Badge tone="bad">{counted(layout.unplaced.length, 'instance')} without a place</Badge>
            </a>
          )}
        </div>
      </div>
    </div>
  )
}

/** The map, or an instance on its way to another node. */
interface Drag {
  x: number
  y: number
  isMoved: boolean
  carried?: InstanceRow
}

function carryText({ id, node }: InstanceRow, over: string | undefined): string {
  const { name } = nameParts(id)
  if (over === undefined) return `${name}: drop it on a node`
  return over === node ? `${name} is here` : `${name} → ${over}`
}

function tipText(node: string, instance: InstanceRow | undefined): string {
  return instance === undefined
    ? node
    : `${nameParts(instance.id).name}, ${instance.outcome ?? instance.state}, on ${node}`
}

interface Screen {
  width: number
  height: number
  density: number
}

/** The size of the canvas, which follows that of the window. */
function useScreen(canvas: { current: HTMLCanvasElement | null }): Screen {
  const [screen, setScreen] = useState<Screen>({ width: 800, height: 600, density: 1 })
  useEffect(() => {
    const box = canvas.current?.parentElement
    if (box === null || box === undefined) return undefined
    const observer = new ResizeObserver(() =>
      setScreen({ width: box.clientWidth, height: box.clientHeight, density: devicePixelRatio }),
    )
    observer.observe(box)
    return () => observer.disconnect()
  }, [canvas])
  return screen
}

/** The browser lets only listeners that say so keep the page from scrolling. */
function useWheel(canvas: { current: HTMLCanvasElement | null }, turned: (event: WheelEvent) => void): void {
  const newest = useRef(turned)
  newest.current = turned
  useEffect(() => {
    const element = canvas.current
    const listener = (event: WheelEvent) => {
      event.preventDefault()
      newest.current(event)
    }
    element?.addEventListener('wheel', listener, { passive: false })
    return () => element?.removeEventListener('wheel', listener)
  }, [canvas])
}

interface Drawn {
  layout: ReturnType<typeof layoutOf>
  placed: Placing
  screen: Screen
  typed: string
  chosen: string | undefined
  instances: readonly InstanceRow[]
  links: readonly LinkRow[]
  placedLinks: readonly PlacedLink[]
}

/** Once for each change; at every frame only while a ring fades. */
function useDrawing(canvas: { current: HTMLCanvasElement | null }, drawn: Drawn): void {
  const { layout, placed, screen, typed, chosen, instances, links, placedLinks } = drawn
  const changes = useRef({ states: new Map<string, string>(), since: new Map<string, number>() })
  useEffect(() => {
    const { states, since } = changes.current
    const isFirst = states.size === 0
    const next = new Map(instances.map(({ id, state, node }) => [id, `${state} ${node ?? ''}`]))
    const isStill = matchMedia('(prefers-reduced-motion: reduce)').matches
    if (!isFirst && !isStill)
      for (const [id, state] of next) if (states.get(id) !== state) since.set(id, performance.now())
    changes.current.states = next
  }, [instances])
  const before = useRef(links)
  useEffect(() => {
    const isStill = matchMedia('(prefers-reduced-motion: reduce)').matches
    if (!isStill && before.current.length > 0)
      for (const id of changedLinks(before.current, links)) changes.current.since.set(id, performance.now())
    before.current = links
  }, [links])
  useEffect(() => {
    const element = canvas.current
    const context = element?.getContext('2d')
    if (element === null || context === null || context === undefined) return undefined
    element.width = Math.round(screen.width * screen.density)
    element.height = Math.round(screen.height * screen.density)
    const words = typed.toLowerCase().split(/\s+/).filter(Boolean)
    const isShown = (service: string) => words.every((word) => service.includes(word))
    let frame = 0
    const draw = () => {
      const { since } = changes.current
      const changed = new Map<string, number>()
      for (const [id, at] of since) {
        const age = (performance.now() - at) / RING_MS
        if (age >= 1) since.delete(id)
        else changed.set(id, age)
      }
      drawMap(context, layout, placed, { isShown, chosen, changed, links: placedLinks }, screen)
      if (since.size > 0) frame = requestAnimationFrame(draw)
    }
    frame = requestAnimationFrame(draw)
    const themes = new MutationObserver(draw)
    themes.observe(document.documentElement, { attributeFilter: ['data-theme'] })
    return () => {
      cancelAnimationFrame(frame)
      themes.disconnect()
    }
  }, [layout, placed.scale, placed.x, placed.y, screen, typed, chosen, placedLinks])
}
