/** Of a long list only the rows that can be seen are in the document, and a few beyond. */
export interface Window {
  first: number
  /** Not included. */
  end: number
  /** Room for the rows above and below, in pixels. */
  above: number
  below: number
}

/** Rows beyond what is seen, on each side. Smaller: white while scrolling; larger: more to draw for each step. */
const BEYOND = 8

export function windowOf(count: number, rowPx: number, { top, height }: { top: number; height: number }): Window {
  const first = Math.min(count, Math.max(0, Math.floor(top / rowPx) - BEYOND))
  const end = Math.min(count, Math.max(first, Math.ceil((top + height) / rowPx) + BEYOND))
  return { first, end, above: first * rowPx, below: (count - end) * rowPx }
}
