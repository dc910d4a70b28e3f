import { driven, Slices } from '../../core/kit/slices.ts'
import { scanning, type DuplicateKey } from './duplicate-keys.ts'

/** The lists that make a document long. */
const LONG = 'microservices'

export type SlicedJson = { kind: 'read'; value: unknown } | { kind: 'ambiguous'; duplicates: DuplicateKey[] }

/**
 * Parses the JSON of a document of any size, a slice in each turn of the event loop: each service by itself, and the document with
 * the numbers of its lists in place of their services.
 *
 *     { "applications": [{ …, "microservices": [ {…}, {…}, … ] }] }  ─▶  { "applications": [{ …, "microservices": [0] }] }  and  {…}  {…}  …
 *
 * @throws what `parse` throws, which parses a part; `undefined` when the text must be parsed as a whole, to find out what is wrong
 */
export async function parseJsonInSlices(
  text: string,
  parse: (part: string) => unknown,
): Promise<SlicedJson | undefined> {
  const slices = new Slices()
  const scanned = await driven(scanning(text, LONG), slices)
  if (scanned === undefined) return undefined
  if (scanned.duplicates.length > 0) return { kind: 'ambiguous', duplicates: scanned.duplicates }
  let skeleton = ''
  let copied = 0
  for (const [i, { start, end }] of scanned.lists.entries()) {
    skeleton += `${text.slice(copied, start)}${i}`
    copied = end
  }
  const value = parse(skeleton + text.slice(copied))
  const lists: unknown[][] = []
  for (const { elements } of scanned.lists) {
    const list: unknown[] = []
    for (const [start, end] of elements) {
      if (slices.isOver) await slices.next()
      list.push(parse(text.slice(start, end)))
    }
    lists.push(list)
  }
  putBack(value, lists)
  return { kind: 'read', value }
}

function putBack(value: unknown, lists: readonly unknown[][]): void {
  if (typeof value !== 'object' || value === null) return
  for (const [key, inside] of Object.entries(value)) {
    const [number] = key === LONG && Array.isArray(inside) ? (inside as unknown[]) : []
    const list = typeof number === 'number' ? lists[number] : undefined
    if (list === undefined) putBack(inside, lists)
    else (value as Record<string, unknown>)[key] = list
  }
}
