import type { ComponentChildren } from 'preact'
import { useEffect, useState } from 'preact/hooks'
import type { Api } from '../live/api.ts'
import { useDesk } from './desk.tsx'

export interface SheetColumn<T> {
  head: string
  /** Left out on a phone. */
  isExtra?: boolean
  cell: (row: T) => ComponentChildren
}

interface Props<T> {
  label: string
  columns: readonly SheetColumn<T>[]
  rows: readonly T[]
  keyOf: (row: T) => string | number
  empty: ComponentChildren
}

/** A table of some ten or hundred rows; those of thousands are `Table`. */
export function Sheet<T>({ label, columns, rows, keyOf, empty }: Props<T>) {
  if (rows.length === 0) return <p class="muted">{empty}</p>
  return (
    <table class="sheet" aria-label={label}>
      <thead>
        <tr>
          {columns.map(({ head, isExtra }) => (
            <th key={head} scope="col" class={isExtra === true ? 'extra' : undefined}>
              {head === '' ? <span class="hidden">Actions</span> : head}
            </th>
          ))}
        </tr>
      </thead>
      <tbody>
        {rows.map((row) => (
          <tr key={keyOf(row)}>
            {columns.map(({ head, isExtra, cell }) => (
              <td key={head} class={isExtra === true ? 'extra' : head === '' ? 'does' : undefined}>
                {cell(row)}
              </td>
            ))}
          </tr>
        ))}
      </tbody>
    </table>
  )
}

/** What a view asks when it is opened, and again after it has changed something. */
export type Asked<T> =
  | { state: 'asking' }
  | { state: 'refused'; message: string }
  | { state: 'answered'; answer: T; again: () => void }

export function useAnswer<T>(ask: (api: Api, signal: AbortSignal) => Promise<T>, about = ''): Asked<T> {
  const { api } = useDesk()
  const [turn, setTurn] = useState(0)
  const [asked, setAsked] = useState<Asked<T>>({ state: 'asking' })
  useEffect(() => {
    const gone = new AbortController()
    const again = () => setTurn((before) => before + 1)
    ask(api, gone.signal).then(
      (answer) => setAsked({ state: 'answered', answer, again }),
      (error: unknown) => gone.signal.aborted || setAsked({ state: 'refused', message: (error as Error).message }),
    )
    return () => gone.abort()
  }, [api, turn, about])
  return asked
}

/** What is shown while there is no answer. */
export function Waiting({ asked }: { asked: Asked<unknown> }) {
  if (asked.state === 'refused') return <p class="notice bad">{asked.message}</p>
  return <p class="muted">Asking the root …</p>
}
