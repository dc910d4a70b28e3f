import type { ComponentChildren } from 'preact'
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks'
import { windowOf } from '../model/window.ts'

export interface Column<T> {
  head: string
  cell: (row: T) => ComponentChildren
  /** Of the grid: `2fr`, `120px`. */
  width: string
  /** Left out on narrow screens, and where a panel stands beside the table. */
  isExtra?: boolean
  isNumber?: boolean
}

interface Props<T> {
  label: string
  columns: readonly Column<T>[]
  rows: readonly T[]
  keyOf: (row: T) => string
  /** The address that a row leads to. */
  linkOf?: (row: T) => string
  rowPx: number
  chosen?: string | undefined
  /** Fewer columns. */
  isNarrow?: boolean
  empty: ComponentChildren
}

/**
 * A table of any length: the document has only the rows that can be seen. The arrow keys go from row to row, Enter follows a row's
 * link.
 */
export function Table<T>({ label, columns, rows, keyOf, linkOf, rowPx, chosen, isNarrow, empty }: Props<T>) {
  const box = useRef<HTMLDivElement>(null)
  const [seen, setSeen] = useState({ top: 0, height: 900 })
  const [active, setActive] = useState(0)
  const wanted = useRef<number>(undefined)
  useEffect(() => {
    const element = box.current
    if (element === null) return undefined
    const measure = () => setSeen({ top: element.scrollTop, height: element.clientHeight })
    const observer = new ResizeObserver(measure)
    observer.observe(element)
    element.addEventListener('scroll', measure, { passive: true })
    return () => {
      observer.disconnect()
      element.removeEventListener('scroll', measure)
    }
  }, [])
  useLayoutEffect(() => {
    if (wanted.current === undefined) return
    const link = box.current?.querySelector<HTMLElement>(`[aria-rowindex="${wanted.current + 2}"] a`)
    if (link === null || link === undefined) return
    wanted.current = undefined
    link.focus({ preventScroll: true })
  })

  const shown = isNarrow === true ? columns.filter(({ isExtra }) => isExtra !== true) : columns
  const { first, end, above, below } = windowOf(rows.length, rowPx, seen)
  const reachable = Math.min(Math.max(active, first), Math.max(first, end - 1))
  const template = (some: readonly Column<T>[]) => some.map(({ width }) => width).join(' ')
  const layout = {
    '--all': template(shown),
    '--few': template(shown.filter(({ isExtra }) => isExtra !== true)),
    '--row': `${rowPx}px`,
  }

  const step = (event: KeyboardEvent) => {
    const to = TO[event.key]?.(reachable, rows.length, Math.floor(seen.height / rowPx) - 1)
    const element = box.current
    if (to === undefined || element === null) return
    event.preventDefault()
    const next = Math.min(rows.length - 1, Math.max(0, to))
    wanted.current = next
    setActive(next)
    const head = 36
    if (next * rowPx < element.scrollTop) element.scrollTop = next * rowPx
    if ((next + 1) * rowPx + head > element.scrollTop + element.clientHeight)
      element.scrollTop = (next + 1) * rowPx + head - element.clientHeight
  }

  return (
    <div class="table" role="table" aria-label={label} aria-rowcount={rows.length + 1} ref={box} style={layout}>
      <div class="row head" role="row" aria-rowindex={1}>
        {shown.map(({ head, isExtra, isNumber }) => (
          <span key={head} role="columnheader" class={classOf(isExtra, isNumber)}>
            {head}
          </span>
        ))}
      </div>
      {rows.length === 0 ? (
        <div class="empty">{empty}</div>
      ) : (
        <div role="rowgroup" onKeyDown={step} style={{ paddingTop: `${above}px`, paddingBottom: `${below}px` }}>
          {rows.slice(first, end).map((row, at) => {
            const key = keyOf(row)
            const index = first + at
            const link = linkOf?.(row)
            return (
              <div
                key={key}
                role="row"
                aria-rowindex={index + 2}
                class={key === chosen ? 'row chosen' : 'row'}
                onClick={() => setActive(index)}
              >
                {shown.map(({ head, cell, isExtra, isNumber }, column) => (
                  <span key={head} role="cell" class={classOf(isExtra, isNumber)}>
                    {column === 0 && link !== undefined ? (
                      <a
                        class="rowlink"
                        href={link}
                        tabIndex={index === reachable ? 0 : -1}
                        aria-current={key === chosen ? 'true' : undefined}
                      >
                        {cell(row)}
                      </a>
                    ) : (
                      cell(row)
                    )}
                  </span>
                ))}
              </div>
            )
          })}
        </div>
      )}
    </div>
  )
}

const TO: Readonly<Record<string, (at: number, count: number, page: number) => number>> = {
  ArrowDown: (at) => at + 1,
  ArrowUp: (at) => at - 1,
  PageDown: (at, _count, page) => at + page,
  PageUp: (at, _count, page) => at - page,
  Home: () => 0,
  End: (_at, count) => count - 1,
}

function classOf(isExtra = false, isNumber = false): string {
  return [isExtra ? 'extra' : '', isNumber ? 'number' : ''].filter(Boolean).join(' ')
}
