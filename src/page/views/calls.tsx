import { useMemo, useRef, useState } from 'preact/hooks'
import type { Api } from '../live/api.ts'
import { connect, type ConnectionWish, disconnect, tryConnection } from '../live/calls.ts'
import {
  BOX,
  type Connection,
  connectionsIn,
  type Graph,
  graphOf,
  lineOf,
  nameFor,
  needsAllow,
  placeAt,
  POLICIES,
} from '../model/connections.ts'
import { isEmpty } from '../model/difference.ts'
import { numberIn, textIn } from '../model/entered.ts'
import type { Mesh } from '../model/mesh.ts'
import { hashOf } from '../model/route.ts'
import type { ServiceRow } from '../model/rows.ts'
import { serviceViews, type ServiceView } from '../model/services.ts'
import { nameParts } from '../model/text.ts'
import { may, namespaceOf } from '../model/who.ts'
import { Field, type Question, useDesk } from '../parts/desk.tsx'
import { Differences } from '../parts/differences.tsx'
import { Search } from '../parts/search.tsx'
import { Sheet } from '../parts/sheet.tsx'

/** More are not drawn: what was typed says which. */
const MOST_SHOWN = 300

/** Who calls whom. A line is drawn from the caller to the called with the mouse, or chosen in the form above. */
export function Calls({ mesh }: { mesh: Mesh }) {
  const { services, instances } = mesh
  const desk = useDesk()
  const [typed, setTyped] = useState('')
  const connections = useMemo(() => connectionsIn(services), [services])
  const views = useMemo(() => new Map(serviceViews(services, instances).map((one) => [one.row.id, one])), [mesh])
  const shown = useMemo(() => shownOf(services, connections, typed), [services, connections, typed])
  const graph = useMemo(() => {
    const ids = new Set(shown.map(({ id }) => id))
    return graphOf(
      shown,
      connections.filter(({ from, to }) => ids.has(from) && ids.has(to)),
    )
  }, [shown, connections])
  const mine = services.filter(({ id }) => may(desk.me, 'change', namespaceOf(id)))
  const draw = (from: string, to: string) => {
    const called = services.find(({ id }) => id === to)
    const known = connections.find((one) => one.from === from && one.to === to)
    if (called !== undefined && from !== to) desk.ask(connectQuestion(desk.api, from, called, known))
  }
  return (
    <div class="view calls">
      <div class="tools">
        <p class="title" aria-hidden="true">
          Calls
        </p>
        <Search label="Find a service" value={typed} change={setTyped} />
        {mine.length === 0 || services.length < 2 ? undefined : <ByForm from={mine} to={services} draw={draw} />}
      </div>
      <section class="sheets" aria-label="Who calls whom" tabIndex={0}>
        {services.length === 0 ? <p class="muted">No services yet.</p> : undefined}
        {shown.length < services.length && typed === '' ? (
          <p class="muted">
            {shown.length} of {services.length} services. Type a name to see others.
          </p>
        ) : undefined}
        <Drawing graph={graph} views={views} mine={new Set(mine.map(({ id }) => id))} draw={draw} />
        <h2>Connections</h2>
        <Sheet
          label="Connections"
          rows={graph.connections}
          keyOf={({ from, to }) => `${from} ${to}`}
          empty="No service says that it calls another. Draw a line from one to the other."
          columns={[
            { head: 'Caller', cell: ({ from }) => <ServiceLink id={from} /> },
            { head: 'Called', cell: ({ to }) => <ServiceLink id={to} /> },
            { head: 'Within', cell: ({ latencyMs }) => (latencyMs === undefined ? 'any time' : `${latencyMs} ms`) },
            { head: 'May call', isExtra: true, cell: (one) => letInText(one, views) },
            {
              head: '',
              cell: ({ from, to }) =>
                may(desk.me, 'change', namespaceOf(from)) ? (
                  <>
                    <button type="button" class="button small" onClick={() => draw(from, to)}>
                      Change<span class="hidden">{` ${nameParts(from).name} to ${nameParts(to).name}`}</span>
                    </button>
                    <button
                      type="button"
                      class="button small danger"
                      onClick={() => desk.ask(disconnectQuestion(desk.api, from, to))}
                    >
                      Remove<span class="hidden">{` ${nameParts(from).name} to ${nameParts(to).name}`}</span>
                    </button>
                  </>
                ) : undefined,
            },
          ]}
        />
      </section>
    </div>
  )
}

/** What was typed, and what that calls or is called by. */
function shownOf(services: readonly ServiceRow[], connections: readonly Connection[], typed: string): ServiceRow[] {
  const words = typed.toLowerCase().split(/\s+/).filter(Boolean)
  if (words.length === 0) {
    const joined = new Set(connections.flatMap(({ from, to }) => [from, to]))
    return services.toSorted((a, b) => Number(joined.has(b.id)) - Number(joined.has(a.id))).slice(0, MOST_SHOWN)
  }
  const found = new Set(services.filter(({ id }) => words.every((word) => id.includes(word))).map(({ id }) => id))
  const near = new Set(connections.flatMap(({ from, to }) => (found.has(from) || found.has(to) ? [from, to] : [])))
  return services.filter(({ id }) => found.has(id) || near.has(id)).slice(0, MOST_SHOWN)
}

function ServiceLink({ id }: { id: string }) {
  const { name, within } = nameParts(id)
  return (
    <>
      <a href={hashOf({ view: 'services', open: id })}>{name}</a> <small class="muted">{within}</small>
    </>
  )
}

function letInText({ from, to }: Connection, views: ReadonlyMap<string, ServiceView>): string {
  const called = views.get(to)?.row
  return called !== undefined && needsAllow(from, called) ? 'no: it is not let in' : 'yes'
}

interface FormProps {
  from: readonly ServiceRow[]
  to: readonly ServiceRow[]
  draw: (from: string, to: string) => void
}

/** The same without a mouse. */
function ByForm({ from, to, draw }: FormProps) {
  const submit = (event: SubmitEvent) => {
    event.preventDefault()
    const entered = new FormData(event.currentTarget as HTMLFormElement)
    draw(textIn(entered, 'from'), textIn(entered, 'to'))
  }
  const options = (some: readonly ServiceRow[]) => some.map(({ id }) => <option key={id}>{id}</option>)
  return (
    <form class="connectform" onSubmit={submit}>
      <select class="field" name="from" aria-label="Service that calls">
        {options(from)}
      </select>
      <span aria-hidden="true">→</span>
      <select class="field" name="to" aria-label="Service that is called">
        {options(to)}
      </select>
      <button type="submit" class="button">
        Connect
      </button>
    </form>
  )
}

interface DrawingProps {
  graph: Graph
  views: ReadonlyMap<string, ServiceView>
  /** Services from which a line may be drawn. */
  mine: ReadonlySet<string>
  draw: (from: string, to: string) => void
}

function Drawing({ graph, views, mine, draw }: DrawingProps) {
  const svg = useRef<SVGSVGElement>(null)
  const [line, setLine] = useState<{ from: string; x: number; y: number }>()
  const byId = useMemo(() => new Map(graph.places.map((one) => [one.id, one])), [graph])
  const pointAt = (event: PointerEvent) => {
    const { left, top } = svg.current?.getBoundingClientRect() ?? { left: 0, top: 0 }
    return { x: event.clientX - left, y: event.clientY - top }
  }
  const released = (event: PointerEvent) => {
    if (line === undefined) return
    setLine(undefined)
    const { x, y } = pointAt(event)
    const over = placeAt(graph, x, y)
    if (over !== undefined && over.id !== line.from) draw(line.from, over.id)
    else if (over !== undefined) location.hash = hashOf({ view: 'services', open: over.id })
  }
  const started = line === undefined ? undefined : byId.get(line.from)
  const over = line === undefined ? undefined : placeAt(graph, line.x, line.y)?.id
  return (
    <svg
      ref={svg}
      class="graph"
      width={graph.width}
      height={graph.height}
      role="img"
      aria-label="Services and lines from callers to what they call. The table below has the same."
      onPointerMove={(event) => line !== undefined && setLine({ ...line, ...pointAt(event) })}
      onPointerUp={released}
      onPointerCancel={() => setLine(undefined)}
    >
      <defs>
        <marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">
          <path d="M0 0 8 4 0 8z" />
        </marker>
      </defs>
      {graph.connections.map(({ from, to, latencyMs }) => {
        const [start, end] = [byId.get(from), byId.get(to)]
        if (start === undefined || end === undefined) return undefined
        const called = views.get(to)?.row
        const isShut = called !== undefined && needsAllow(from, called)
        const middle = { x: (start.x + BOX.width + end.x) / 2, y: (start.y + end.y + BOX.height) / 2 - 5 }
        return (
          <g key={`${from} ${to}`} class={isShut ? 'line shut' : 'line'}>
            <path d={lineOf(start, { x: end.x, y: end.y + BOX.height / 2 })} marker-end="url(#arrow)" />
            {latencyMs === undefined ? undefined : (
              <text {...middle} text-anchor="middle">
                ≤ {latencyMs} ms
              </text>
            )}
          </g>
        )
      })}
      {graph.places.map(({ id, x, y }) => {
        const view = views.get(id)
        const { name, within } = nameParts(id)
        const isMine = mine.has(id)
        return (
          <g
            key={id}
            class={`box ${view?.tone ?? 'idle'}${isMine ? ' mine' : ''}${id === over || id === line?.from ? ' chosen' : ''}`}
            transform={`translate(${x} ${y})`}
            onPointerDown={(event) => {
              if (!isMine) return
              event.preventDefault()
              svg.current?.setPointerCapture(event.pointerId)
              setLine({ from: id, ...pointAt(event) })
            }}
          >
            <rect width={BOX.width} height={BOX.height} rx="9" />
            <circle cx="16" cy="20" r="4.5" />
            <text x="28" y="24" class="named">
              {cut(name, 20)}
            </text>
            <text x="16" y="44">
              {view === undefined ? '' : `${view.ready}/${view.wanted} ready · ${cut(within, 16)}`}
            </text>
          </g>
        )
      })}
      {line === undefined || started === undefined ? undefined : (
        <path class="drawn" d={lineOf(started, line)} marker-end="url(#arrow)" />
      )}
    </svg>
  )
}

function cut(text: string, most: number): string {
  return text.length <= most ? text : `${text.slice(0, most - 1)}…`
}

function Policy({ called }: { called: string }) {
  const [policy, setPolicy] = useState<string>('closest')
  return (
    <Field
      label="How an instance is chosen"
      hint={`The caller says so by the name that it calls: ${nameFor(called, policy)}`}
    >
      <select
        class="field"
        value={policy}
        onChange={({ currentTarget }) => setPolicy(currentTarget.value)}
        aria-label="How an instance is chosen"
      >
        {POLICIES.map(([word, text]) => (
          <option key={word} value={word}>
            {word}: {text}
          </option>
        ))}
      </select>
    </Field>
  )
}

function connectQuestion(api: Api, from: string, called: ServiceRow, known: Connection | undefined): Question {
  const [caller, target] = [nameParts(from).name, nameParts(called.id).name]
  const isShut = needsAllow(from, called)
  const isNamed = called.allow.includes(from)
  return {
    title: `Connect ${caller} to ${target}`,
    fields: (
      <>
        <Field
          label="Greatest round trip in ms"
          hint="Instances are placed so near; any distance where nothing stands."
        >
          <input
            class="field"
            type="number"
            name="latencyMs"
            min={0}
            max={1_000_000}
            step="any"
            autofocus
            defaultValue={known?.latencyMs === undefined ? '' : String(known.latencyMs)}
          />
        </Field>
        <label class="tick">
          <input type="checkbox" name="allow" value="yes" defaultChecked={isShut || isNamed} /> {target} lets {caller}{' '}
          in{isShut || isNamed ? '' : ' (it does already)'}
        </label>
        <Policy called={called.id} />
      </>
    ),
    confirm: 'Show the difference',
    act: async (entered) => {
      const latencyMs = numberIn(entered, 'latencyMs')
      const isAllowed = textIn(entered, 'allow') === 'yes'
      const wish: ConnectionWish = {
        ...(latencyMs === undefined ? {} : { latencyMs }),
        ...(isAllowed !== isNamed ? { allow: isAllowed } : {}),
      }
      const { services } = await tryConnection(api, [from, called.id], wish)
      if (isEmpty(services)) return 'It is so already: nothing would change.'
      return {
        title: `Apply: ${caller} calls ${target}`,
        text: <Differences services={services} isWhole />,
        confirm: 'Apply',
        act: async () => {
          await connect(api, [from, called.id], wish)
          return `${caller} calls ${target}.`
        },
      }
    },
  }
}

function disconnectQuestion(api: Api, from: string, to: string): Question {
  const [caller, target] = [nameParts(from).name, nameParts(to).name]
  return {
    title: `Remove ${caller} to ${target}`,
    text: `${caller} no longer says that it calls ${target}: no latency is asked for, and ${target} no longer lets it in by its name. Flows that are open go on.`,
    confirm: 'Remove',
    isDanger: true,
    act: async () => {
      await disconnect(api, [from, to])
      return `${caller} no longer calls ${target}.`
    },
  }
}
