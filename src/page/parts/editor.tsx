import type { RefObject } from 'preact'
import { useRef } from 'preact/hooks'
import type { LineFault } from '../model/document.ts'

interface Props {
  label: string
  placeholder: string
  value: string
  change: (text: string) => void
  faults: readonly LineFault[]
  isWarning: boolean
  field: RefObject<HTMLTextAreaElement | null>
}

/** Plain text with the numbers of its lines; those with a fault are marked, and say it. Tab leaves the field, as everywhere. */
export function Editor({ label, placeholder, value, change, faults, isWarning, field }: Props) {
  const gutter = useRef<HTMLOListElement>(null)
  const byLine = Map.groupBy(faults, ({ line }) => line ?? 0)
  const count = Math.max(1, value.split('\n').length)
  return (
    <div class="editor">
      <ol class="gutter" aria-hidden="true" ref={gutter}>
        {Array.from({ length: Math.min(count, MOST_LINES) }, (_, at) => {
          const own = byLine.get(at + 1)
          return (
            <li
              key={at}
              class={own === undefined ? undefined : isWarning ? 'warn' : 'bad'}
              title={own?.map(({ problem }) => problem).join('\n')}
            >
              {at + 1}
            </li>
          )
        })}
      </ol>
      <textarea
        ref={field}
        aria-label={label}
        placeholder={placeholder}
        spellcheck={false}
        autocomplete="off"
        wrap="off"
        value={value}
        onInput={({ currentTarget }) => change(currentTarget.value)}
        onScroll={({ currentTarget }) => {
          if (gutter.current !== null) gutter.current.scrollTop = currentTarget.scrollTop
        }}
      />
    </div>
  )
}

/** Longer documents have no numbers behind that. */
const MOST_LINES = 5_000
