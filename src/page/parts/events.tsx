import type { EventRow, Tone } from '../model/rows.ts'
import { nameParts, whenText } from '../model/text.ts'

const TONES: Readonly<Record<string, Tone>> = {
  ready: 'good',
  kept: 'good',
  joined: 'good',
  connected: 'good',
  finished: 'good',
  lost: 'bad',
  failed: 'bad',
  unplaceable: 'bad',
  stuck: 'bad',
  unready: 'warn',
  restarted: 'warn',
  refused: 'warn',
  violated: 'warn',
  skipped: 'warn',
}

export function toneOfEvent(what: string): Tone {
  return TONES[what] ?? 'idle'
}

/** Newest first. */
export function EventList({ events, now, most }: { events: readonly EventRow[]; now: number; most: number }) {
  if (events.length === 0) return <p class="muted">Nothing that the root still knows of.</p>
  return (
    <ol class="events">
      {events
        .slice(-most)
        .toReversed()
        .map((event) => (
          <li key={event.number} class={toneOfEvent(event.what)}>
            <time dateTime={new Date(event.at).toISOString()} title={new Date(event.at).toLocaleString()}>
              {whenText(event.at, now)}
            </time>
            <span>
              <b>{event.what}</b> {subjectText(event)} <span class="muted">by {event.by}</span>
              {event.why === undefined ? undefined : <span class="why">{event.why}</span>}
            </span>
          </li>
        ))}
    </ol>
  )
}

function subjectText({ instance, service, node, cluster }: EventRow): string {
  const about = instance ?? service
  const name = about === undefined ? undefined : nameParts(about).name
  const place = node ?? cluster
  if (name === undefined) return place ?? ''
  return place === undefined ? name : `${name} on ${place}`
}
