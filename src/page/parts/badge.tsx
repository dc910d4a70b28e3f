import type { ComponentChildren } from 'preact'
import type { Tone } from '../model/rows.ts'

/** A state as a word, with a dot in its colour. */
export function Badge({ tone, children }: { tone: Tone; children: ComponentChildren }) {
  return <span class={`badge ${tone}`}>{children}</span>
}

/** A share between 0 and 1 as a bar, with what it means as text. */
export function Meter({ share, text, tone }: { share: number | undefined; text: string; tone?: Tone }) {
  if (share === undefined) return <span class="muted">{text}</span>
  const shown = tone ?? (share > 0.92 ? 'bad' : share > 0.8 ? 'warn' : 'plain')
  return (
    <span class="meter">
      <svg class={`bar ${shown}`} viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true">
        <rect class="all" width="100" height="4" rx="2" />
        <rect class="taken" width={Math.round(share * 100)} height="4" rx="2" />
      </svg>
      <span class="num">{text}</span>
    </span>
  )
}
