/** A key that occurs a second time in one object. */
export interface DuplicateKey {
  key: string
  /** Of the second occurrence, in characters from the start of the text. */
  offset: number
}

/** Deeper nesting is refused before this is called (read.ts); the scan itself does not recurse. */
type Scope = { kind: 'object'; keys: Set<string> } | { kind: 'list' }

const SPACE = /[ \t\r\n]*/y
const STRING = /"(?:[^"\\]|\\.)*"/y

/**
 * The keys that occur twice in an object of a JSON text, which `JSON.parse` drops silently (RFC 8259 §4 calls the result
 * unpredictable). The text must have been accepted by `JSON.parse`.
 */
export function duplicateKeys(json: string): DuplicateKey[] {
  const found: DuplicateKey[] = []
  const scopes: Scope[] = []
  for (let at = 0; at < json.length; ) {
    const c = json[at]
    if (c === '{') scopes.push({ kind: 'object', keys: new Set() })
    else if (c === '[') scopes.push({ kind: 'list' })
    else if (c === '}' || c === ']') scopes.pop()
    if (c !== '"') {
      at += 1
      continue
    }
    const end = endOf(STRING, json, at)
    const scope = scopes.at(-1)
    // in an object, a string before a colon is a key
    if (scope?.kind === 'object' && json[endOf(SPACE, json, end)] === ':') {
      const key = JSON.parse(json.slice(at, end)) as string
      if (scope.keys.has(key)) found.push({ key, offset: at })
      scope.keys.add(key)
    }
    at = end
  }
  return found
}

function endOf(pattern: RegExp, text: string, start: number): number {
  pattern.lastIndex = start
  pattern.exec(text)
  return Math.max(pattern.lastIndex, start)
}
