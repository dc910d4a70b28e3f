import { finished } from '../../core/kit/slices.ts'

/** A key that occurs a second time in one object. */
export interface DuplicateKey {
  key: string
  /** Of the second occurrence, in characters from the start of the text. */
  offset: number
}

/** A list under one of the keys that were asked for: where its inside begins and ends, and where each element does. */
export interface FoundList {
  start: number
  end: number
  elements: [start: number, end: number][]
}

export interface Scanned {
  duplicates: DuplicateKey[]
  lists: FoundList[]
}

/** Deeper nesting is refused before this is called (read.ts); the scan itself does not recurse. */
type Scope = { kind: 'object'; keys: Set<string>; last: string } | { kind: 'list' }

const SPACE = /[ \t\r\n]*/y
const STRING = /"(?:[^"\\]|\\.)*"/y
/** Characters and strings between two steps. */
const STEP = 2_000

/**
 * The keys that occur twice in an object of a JSON text, which `JSON.parse` drops silently (RFC 8259 §4 calls the result
 * unpredictable). The text must have been accepted by `JSON.parse`.
 */
export function duplicateKeys(json: string): DuplicateKey[] {
  return finished(scanning(json))?.duplicates ?? []
}

/**
 * Step by step: the keys that occur twice, and the outermost lists under the key `cutAt`. `undefined` for a text that cannot be JSON;
 * what it says of another text that is none does not matter, since its parts are parsed.
 */
export function* scanning(json: string, cutAt?: string): Generator<undefined, Scanned | undefined> {
  const found: Scanned = { duplicates: [], lists: [] }
  const scopes: Scope[] = []
  /** The list that is being cut, how deep it is, and where its element begins. */
  let list: (FoundList & { depth: number; from: number }) | undefined
  const endElement = (at: number) => {
    if (list === undefined) return
    const isEmptyList = json[at] === ']' && list.elements.length === 0 && json.slice(list.from, at).trim() === ''
    if (!isEmptyList) list.elements.push([list.from, at])
    list.from = at + 1
  }
  let steps = 0
  for (let at = 0; at < json.length; ) {
    if (++steps % STEP === 0) yield
    const c = json[at]
    const inside = scopes.at(-1)
    if (c === '{') scopes.push({ kind: 'object', keys: new Set(), last: '' })
    else if (c === '[') {
      const isCut = cutAt !== undefined && list === undefined && inside?.kind === 'object' && inside.last === cutAt
      scopes.push({ kind: 'list' })
      if (isCut) list = { start: at + 1, end: at + 1, elements: [], depth: scopes.length, from: at + 1 }
    } else if (c === ',' && list?.depth === scopes.length) endElement(at)
    else if (c === '}' || c === ']') {
      if (list?.depth === scopes.length) {
        endElement(at)
        found.lists.push({ start: list.start, end: at, elements: list.elements })
        list = undefined
      }
      scopes.pop()
    }
    if (c !== '"') {
      at += 1
      continue
    }
    const end = endOf(STRING, json, at)
    if (end === at) return undefined // it does not end
    // in an object, a string before a colon is a key
    if (inside?.kind === 'object' && json[endOf(SPACE, json, end)] === ':') {
      const key = keyIn(json.slice(at, end))
      if (key === undefined) return undefined
      if (inside.keys.has(key)) found.duplicates.push({ key, offset: at })
      inside.keys.add(key)
      inside.last = key
    }
    at = end
  }
  return list === undefined ? found : undefined
}

function keyIn(text: string): string | undefined {
  try {
    return JSON.parse(text) as string
  } catch {
    return undefined
  }
}

function endOf(pattern: RegExp, text: string, start: number): number {
  pattern.lastIndex = start
  pattern.exec(text)
  return Math.max(pattern.lastIndex, start)
}
