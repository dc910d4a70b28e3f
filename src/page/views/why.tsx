import { useEffect, useMemo, useState } from 'preact/hooks'
import { ApiError } from '../live/api.ts'
import { explain, type Explanation, type TierExplanation } from '../live/calls.ts'
import { Badge } from '../parts/badge.tsx'
import { useDesk } from '../parts/desk.tsx'
import { EventList } from '../parts/events.tsx'
import { Search } from '../parts/search.tsx'
import type { Mesh } from '../model/mesh.ts'
import { hashOf } from '../model/route.ts'
import type { Tone } from '../model/rows.ts'
import { counted, nameParts, whenText } from '../model/text.ts'
import { byHour, eventsAbout, eventsWith, puzzling, suggested, type Verdict, verdictsOf } from '../model/why.ts'

const EVENTS_SHOWN = 300
const SUGGESTED = 12

/** Why something is where it is, or nowhere; and what has happened, on one time line. */
export function Why({ mesh, open, now }: { mesh: Mesh; open: string | undefined; now: number }) {
  const { services, instances, events } = mesh
  const [typed, setTyped] = useState('')
  const subjects = useMemo(
    () => (typed === '' ? puzzling(services, instances) : suggested(typed, services, SUGGESTED)),
    [services, instances, typed],
  )
  const told = useMemo(() => {
    const about = eventsAbout(events, open)
    return byHour(open === undefined ? eventsWith(about, typed) : about, EVENTS_SHOWN)
  }, [events, open, typed])
  return (
    <div class="view why">
      <div class="tools">
        <p class="title" aria-hidden="true">
          Why
        </p>
        <Search label="Find a service or event" value={typed} change={setTyped} />
        {open === undefined ? undefined : (
          <a class="button small" href={hashOf({ view: 'why' })}>
            The whole mesh
          </a>
        )}
      </div>
      <div class="columns">
        <section aria-label="Placement" tabIndex={0}>
          {open === undefined ? undefined : <Placement key={open} about={open} mesh={mesh} now={now} />}
          {open !== undefined && typed === '' ? undefined : (
            <>
              <h2>{typed === '' ? 'Not as it is wanted' : 'Services'}</h2>
              {subjects.length === 0 ? (
                <p class="muted">{typed === '' ? 'Everything runs as it is wanted.' : 'No service has such a name.'}</p>
              ) : (
                <ul class="subjects">
                  {subjects.map((id) => (
                    <li key={id}>
                      <a href={hashOf({ view: 'why', open: id })}>
                        <b>{nameParts(id).name}</b> <span class="muted">{nameParts(id).within}</span>
                        <span class="two muted">{services.find((row) => row.id === id)?.detail}</span>
                      </a>
                    </li>
                  ))}
                </ul>
              )}
            </>
          )}
        </section>
        <section aria-label="Time line" tabIndex={0}>
          <h2>{open === undefined ? 'What happened' : `What happened to ${nameParts(open).name}`}</h2>
          {told.length === 0 ? <p class="muted">Nothing that the root still knows of.</p> : undefined}
          {told.map(({ hour, events }) => (
            <div key={hour}>
              <h3 class="hour">{hourText(hour)}</h3>
              <EventList events={events} now={now} most={events.length} />
            </div>
          ))}
        </section>
      </div>
    </div>
  )
}

function hourText(hour: number): string {
  const date = new Date(hour)
  const until = new Date(hour + 3_600_000)
  const time = (one: Date) => one.toLocaleTimeString(undefined, { hour: '2-digit', minute: '2-digit' })
  return `${date.toLocaleDateString(undefined, { weekday: 'short', day: 'numeric', month: 'short' })}, ${time(date)} – ${time(until)}`
}

/** As the root and its clusters explain it. Asked anew when the instances of the service have changed. */
function Placement({ about, mesh, now }: { about: string; mesh: Mesh; now: number }) {
  const { api } = useDesk()
  const [told, setTold] = useState<Explanation>()
  const [fault, setFault] = useState<string>()
  const service = about.split('.').slice(0, 4).join('.')
  const places = useMemo(
    () =>
      mesh.instances
        .filter((row) => row.service === service)
        .map(({ id, state, node }) => `${id} ${state} ${node ?? ''}`)
        .join(),
    [mesh.instances, service],
  )
  useEffect(() => {
    const gone = new AbortController()
    explain(api, about, gone.signal).then(
      (answer) => {
        setTold(answer)
        setFault(undefined)
      },
      (error: unknown) => gone.signal.aborted || setFault(faultText(error)),
    )
    return () => gone.abort()
  }, [api, about, places])
  const { name, within } = nameParts(about)
  const own = mesh.instances.filter((row) => row.service === service)
  return (
    <div class="placement">
      <h2>
        {name} <span class="muted">{within}</span>
      </h2>
      {own.length === 0 ? undefined : (
        <nav class="numbers" aria-label="Instances">
          <a href={hashOf({ view: 'why', open: service })} aria-current={about === service ? 'page' : undefined}>
            a new one
          </a>
          {own.slice(0, 40).map(({ id, ordinal }) => (
            <a key={id} href={hashOf({ view: 'why', open: id })} aria-current={about === id ? 'page' : undefined}>
              {ordinal}
            </a>
          ))}
        </nav>
      )}
      {fault === undefined ? undefined : <p class="notice bad">{fault}</p>}
      {told === undefined ? (
        fault === undefined && <p class="muted">Asking the root and its clusters …</p>
      ) : (
        <>
          <p class="lead">{leadOf(told)}</p>
          {told.detail === undefined ? undefined : <p class="notice busy">{told.detail}</p>}
          <Tier title="Which cluster" explanation={told.root} now={now} />
          {told.clusters.map((one) =>
            one.nodes !== undefined ? (
              <Tier key={one.cluster} title={`Which node of ${one.cluster}`} explanation={one.nodes} now={now} />
            ) : (
              <p key={one.cluster} class="muted">
                {one.cluster}: {one.unknown}
              </p>
            ),
          )}
        </>
      )}
    </div>
  )
}

function faultText(error: unknown): string {
  return error instanceof ApiError && error.status === 404
    ? 'There is no such service or instance.'
    : (error as Error).message
}

function leadOf({ instance, node, state, root }: Explanation): string {
  if (instance === undefined)
    return root.chosen === undefined
      ? 'Another instance would fit nowhere at present.'
      : `Another instance would go to ${root.chosen}${root.why === undefined ? '' : `: ${root.why}`}.`
  if (node === undefined) return `It has no place and is ${state ?? 'unknown'}.`
  return `It is ${state ?? 'placed'} on ${node}.`
}

const WORDS: Readonly<Record<Verdict['kind'], readonly [Tone, string]>> = {
  chosen: ['good', 'chosen'],
  fits: ['busy', 'fits'],
  refused: ['idle', 'refused'],
}

function Tier({ title, explanation, now }: { title: string; explanation: TierExplanation; now: number }) {
  const { candidates, fit, strategy, at } = explanation
  const verdicts = verdictsOf(explanation)
  return (
    <>
      <h3>
        {title}{' '}
        <span class="muted">
          {fit} of {candidates} fit, by {strategy}
          {at === undefined ? '' : `, decided ${whenText(at, now)}`}
        </span>
      </h3>
      {verdicts.length === 0 ? <p class="muted">There was none to choose from.</p> : undefined}
      <ul class="verdicts">
        {verdicts.map(({ id, kind, text }) => (
          <li key={id}>
            <span class="mono">{id}</span>
            <Badge tone={WORDS[kind][0]}>{WORDS[kind][1]}</Badge>
            <span class="muted">{text}</span>
          </li>
        ))}
      </ul>
      {candidates > verdicts.length ? (
        <p class="muted">and {counted(candidates - verdicts.length, 'other')}</p>
      ) : undefined}
    </>
  )
}
