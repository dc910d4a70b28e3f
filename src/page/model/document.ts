import { isAlias, isMap, isScalar, isSeq, LineCounter, type Node, parseDocument, type Document } from 'yaml'

/** What was typed, as the API takes it, and where in the text each part of it stands. */
export type Reading =
  | { kind: 'read'; document: unknown; lineOf: (path: string) => number | undefined }
  | { kind: 'faulty'; faults: LineFault[] }

export interface LineFault {
  /** From 1. Absent when it cannot be told. */
  line?: number
  path?: string
  problem: string
  remedy?: string
}

const MOST_FAULTS = 20

/** JSON, or YAML 1.2 with merge keys, as `hedgerow apply` reads it. */
export function readDocument(text: string): Reading {
  if (text.trim() === '') return { kind: 'faulty', faults: [{ problem: 'There is no document yet.' }] }
  const counter = new LineCounter()
  const lineAt = (offset: number) => counter.linePos(offset).line
  const parsed = parseDocument(text, { prettyErrors: false, stringKeys: true, merge: true, lineCounter: counter })
  const faults = parsed.errors.slice(0, MOST_FAULTS).map(({ pos: [offset], code, message }): LineFault => {
    const problem = code === 'MULTIPLE_DOCS' ? 'there are several documents; apply them one by one' : message
    return { line: lineAt(offset), problem }
  })
  if (faults.length > 0) return { kind: 'faulty', faults }
  try {
    const document: unknown = parsed.toJS({ maxAliasCount: 100 })
    JSON.stringify(document) // throws when an alias lies inside its own anchor
    return { kind: 'read', document, lineOf: (path) => offsetOf(parsed, path, lineAt) }
  } catch (error) {
    return { kind: 'faulty', faults: [{ problem: (error as Error).message }] }
  }
}

/** Faults of the API, `applications[0].microservices[1].port`, with the lines they are about. */
export function located(
  faults: readonly { path: string; problem: string; remedy?: string }[],
  lineOf: (path: string) => number | undefined,
): LineFault[] {
  return faults.map((fault) => {
    const line = lineOf(fault.path)
    return line === undefined ? fault : { ...fault, line }
  })
}

/** The line of the deepest part of the path that there is: a key that is missing is missing in what surrounds it. */
function offsetOf(document: Document.Parsed, path: string, lineAt: (offset: number) => number): number | undefined {
  const steps = [...path.matchAll(/\[(\d+)\]|([^.[\]]+)/g)].map(([, index, key]) => index ?? key ?? '')
  let at: unknown = document.contents
  let offset: number | undefined
  for (const step of steps) {
    const found = stepInto(isAlias(at) ? at.resolve(document) : at, step)
    if (found === undefined) break
    offset = found.offset ?? offset
    at = found.value
  }
  return offset === undefined ? undefined : lineAt(offset)
}

function stepInto(node: unknown, step: string): { value: unknown; offset?: number | undefined } | undefined {
  if (isSeq(node)) {
    const value = node.items[Number(step)] as Node | undefined
    return value === undefined ? undefined : { value, offset: value.range?.[0] }
  }
  if (!isMap(node)) return undefined
  const pair = node.items.find(({ key }) => isScalar(key) && String(key.value) === step)
  if (pair === undefined) return undefined
  return { value: pair.value, offset: isScalar(pair.key) ? pair.key.range?.[0] : undefined }
}
