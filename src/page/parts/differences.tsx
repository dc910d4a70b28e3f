import type { Difference } from '../live/calls.ts'
import { effectText } from '../model/difference.ts'
import type { Tone } from '../model/rows.ts'
import { nameParts } from '../model/text.ts'
import { Badge } from './badge.tsx'

export const CHANGE_TONES: Readonly<Record<string, Tone>> = { created: 'good', updated: 'busy', removed: 'bad' }

/** What would become of each service; with `isWhole` also what each key was and would be. */
export function Differences({ services, isWhole = false }: { services: readonly Difference[]; isWhole?: boolean }) {
  return (
    <ul class="differences">
      {services.map((one) => (
        <li key={one.id}>
          <span class="cardhead">
            <b>{nameParts(one.id).name}</b>
            <Badge tone={CHANGE_TONES[one.change] ?? 'idle'}>{one.change}</Badge>
          </span>
          <span>{effectText(one)}</span>
          {isWhole ? (
            (one.differences ?? []).map(({ keys, before, after }) => (
              <span key={keys.join()} class="mono">
                <span class="muted">{keys.join(', ')}:</span> {valueText(before)} → {valueText(after)}
              </span>
            ))
          ) : one.fields.length === 0 ? undefined : (
            <span class="mono muted">{one.fields.join(', ')}</span>
          )}
          {one.gap === undefined ? undefined : <span class="warntext">{one.gap}</span>}
          {one.places.map(({ instance, place, reason }) => (
            <span key={instance} class={place === undefined ? 'warntext' : 'muted'}>
              {nameParts(instance).name} → {place ?? `nowhere: ${reason ?? 'the cluster does not say why'}`}
            </span>
          ))}
        </li>
      ))}
    </ul>
  )
}

function valueText(value: unknown): string {
  return value === undefined ? 'nothing' : JSON.stringify(value)
}
