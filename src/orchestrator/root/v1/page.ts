import Type from 'typebox'
import { Slices } from '../../../core/kit/slices.ts'

/** A cursor is the id behind which the next page begins: things that come and go between two pages move nothing. */

/** As many when the caller does not say; more at once would hold up the event loop. */
export const LIMIT = 100
export const MAX_LIMIT = 1_000

export const paging = {
  limit: Type.Optional(
    Type.Integer({ minimum: 1, maximum: MAX_LIMIT, description: `How many at most; ${LIMIT} by default.` }),
  ),
  cursor: Type.Optional(
    Type.String({
      maxLength: 800,
      pattern: '^[A-Za-z0-9_-]+$',
      description: '`next` of the page before. Without it the first page.',
    }),
  ),
}

export interface Paging {
  limit?: number
  cursor?: string
}

export interface Page<R> {
  items: R[]
  next?: string
}

export interface Listed<T, R> {
  idOf: (item: T) => string
  /** All when absent. */
  fits?: ((item: T) => boolean) | undefined
  rowOf: (item: T) => R
}

/** One page of what is listed in the order of its ids; only its rows are made. */
export async function page<T, R>(
  items: readonly T[],
  { limit = LIMIT, cursor }: Paging,
  { idOf, fits, rowOf }: Listed<T, R>,
): Promise<Page<R>> {
  const after = cursor === undefined ? undefined : idIn(cursor)
  const slices = new Slices()
  const found: T[] = []
  for (let at = after === undefined ? 0 : placeAfter(items, after, idOf); at < items.length; at++) {
    const item = items[at] as T
    if (fits !== undefined && !fits(item)) continue
    if (found.length === limit) return { items: found.map(rowOf), next: cursorOf(idOf(found.at(-1) as T)) }
    found.push(item)
    if (slices.isOver) await slices.next()
  }
  return { items: found.map(rowOf) }
}

function cursorOf(id: string): string {
  return Buffer.from(id).toString('base64url')
}

function idIn(cursor: string): string {
  return Buffer.from(cursor, 'base64url').toString()
}

function placeAfter<T>(items: readonly T[], after: string, idOf: (item: T) => string): number {
  let low = 0
  let high = items.length
  while (low < high) {
    const middle = (low + high) >> 1
    if (idOf(items[middle] as T) <= after) low = middle + 1
    else high = middle
  }
  return low
}
