import { isScalar, LineCounter, parseDocument, visit, type Document, type YAMLParseError } from 'yaml'
import { explain, MeshError } from '../../core/errors.ts'
import { duplicateKeys } from './duplicate-keys.ts'
import { quoted, type Fault } from './findings.ts'

/** Larger texts are something other than an SLA. */
const MAX_TEXT_BYTES = 32 * 1024 * 1024
/** Deeper nesting is not an SLA; parsers of nested text are recursive and could overflow the stack. */
const MAX_DEPTH = 64
const MAX_FAULTS = 20

type Reading =
  | { kind: 'read'; document: unknown }
  /** It can be parsed, and an object in it has a key twice. */
  | { kind: 'ambiguous'; faults: Fault[] }
  | { kind: 'faulty'; faults: Fault[] }

/**
 * Reads the text of a document: JSON, or YAML 1.2 with merge keys (`<<`). The text alone decides which; `fileName` only names it
 * in faults.
 * @throws MeshError SLA_INVALID with `faults`, whose paths are `file:line:column`
 */
export function readSlaText(text: string, fileName: string): unknown {
  const withoutMark = text.charCodeAt(0) === 0xfeff ? text.slice(1) : text // a byte order mark
  const reading = read(withoutMark, fileName)
  if (reading.kind !== 'read') throw new MeshError('SLA_INVALID', { faults: reading.faults })
  if (hasPrototypeKey(reading.document))
    throw new MeshError('SLA_INVALID', {
      faults: [{ path: fileName, problem: 'has the key "__proto__", which is none' }],
    })
  return reading.document
}

/** The API refuses such a document without saying where (prototype pollution). */
function hasPrototypeKey(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false
  return Object.hasOwn(value, '__proto__') || Object.values(value).some(hasPrototypeKey)
}

/** Faults for the keys that occur twice in one object of a JSON text. */
export function duplicateKeyFaults(json: string, fileName: string): Fault[] {
  const lines = json.split('\n')
  return duplicateKeys(json)
    .slice(0, MAX_FAULTS)
    .map(({ key, offset }) => {
      const before = json.slice(0, offset).split('\n')
      const [line, column] = [before.length, (before.at(-1)?.length ?? 0) + 1]
      return located({ fileName, line, column, problem: occursTwice(key) }, lines)
    })
}

function read(text: string, fileName: string): Reading {
  const faulty = (problem: string): Reading => ({ kind: 'faulty', faults: [{ path: fileName, problem }] })
  if (Buffer.byteLength(text) > MAX_TEXT_BYTES) return faulty(`is larger than ${MAX_TEXT_BYTES} bytes`)
  if (text.trim() === '') return faulty('is empty')
  if (isTooDeep(text)) return faulty(`is nested more than ${MAX_DEPTH} levels deep`)
  if (!/^\s*[[{]/.test(text)) return readYaml(text, fileName)
  const json = readJson(text, fileName)
  if (json.kind === 'read') {
    const faults = duplicateKeyFaults(text, fileName)
    return faults.length === 0 ? json : { kind: 'ambiguous', faults }
  }
  const yaml = readYaml(text, fileName) // a YAML text may begin with a bracket too
  return yaml.kind === 'faulty' ? json : yaml
}

function readJson(text: string, fileName: string): Reading {
  try {
    return { kind: 'read', document: JSON.parse(text) as unknown }
  } catch (error) {
    return { kind: 'faulty', faults: [jsonFault(text, fileName, explain(error))] }
  }
}

/** V8 writes "… in JSON at position 12 (line 3 column 5)"; for a text that ends too early, only that it ended. */
function jsonFault(text: string, fileName: string, message: string): Fault {
  const at = /^(.*?)(?: in JSON)? at position \d+ \(line (\d+) column (\d+)\)/s.exec(message)
  const lines = text.split('\n')
  const [line, column] = at === null ? [lines.length, (lines.at(-1)?.length ?? 0) + 1] : [Number(at[2]), Number(at[3])]
  const problem = (at?.[1] ?? message.replace(/^(Unexpected end of JSON input).*$/s, '$1')).replace(
    /, (?:\.\.\.)?"(?:.|\n)*$/,
    '',
  )
  return located({ fileName, line, column, problem: `is not JSON: ${lowerFirst(problem)}` }, lines)
}

const YAML_OPTIONS = {
  prettyErrors: false,
  stringKeys: true,
  uniqueKeys: false,
  merge: true,
  logLevel: 'error',
} as const

function readYaml(text: string, fileName: string): Reading {
  const lineCounter = new LineCounter()
  try {
    const document = parseDocument(text, { ...YAML_OPTIONS, lineCounter })
    const problems = document.errors.length > 0 ? document.errors.map(yamlProblem) : yamlDuplicates(document)
    if (problems.length === 0) {
      const value = document.toJS({ maxAliasCount: 100 }) as unknown
      if (text.includes('*')) JSON.stringify(value) // throws when an alias lies inside its own anchor
      return { kind: 'read', document: value }
    }
    const lines = text.split('\n')
    const faults = problems.slice(0, MAX_FAULTS).map(({ offset, problem }) => {
      const { line, col: column } = lineCounter.linePos(offset)
      return located({ fileName, line, column, problem }, lines)
    })
    return { kind: document.errors.length > 0 ? 'faulty' : 'ambiguous', faults }
  } catch (error) {
    const problem = aliasProblem(explain(error)) // a document that would not end, or be very large
    return { kind: 'faulty', faults: [{ path: fileName, problem }] }
  }
}

interface Problem {
  offset: number
  problem: string
}

function yamlProblem({ code, pos: [offset], message }: YAMLParseError): Problem {
  const isSeveral = code === 'MULTIPLE_DOCS'
  const problem = isSeveral
    ? 'contains several documents; put each in a file of its own'
    : `is not YAML: ${lowerFirst(message)}`
  return { offset, problem }
}

function yamlDuplicates(document: Document.Parsed): Problem[] {
  const found: Problem[] = []
  visit(document, {
    Map: (_, { items }) => {
      const seen = new Set<string>()
      for (const { key } of items) {
        if (!isScalar(key)) continue
        const name = key.source ?? String(key.value)
        if (seen.has(name)) found.push({ offset: key.range?.[0] ?? 0, problem: occursTwice(name) })
        seen.add(name)
      }
    },
  })
  return found
}

function aliasProblem(message: string): string {
  return /circular/i.test(message)
    ? 'contains an alias (*) of an object that it is part of'
    : `is not YAML: ${lowerFirst(message)}`
}

function occursTwice(key: string): string {
  return `the key ${quoted(key)} occurs twice in one object`
}

interface Located {
  fileName: string
  line: number
  column: number
  problem: string
}

/** The remedy shows the line itself. */
function located({ fileName, line, column, problem }: Located, lines: readonly string[]): Fault {
  const path = `${fileName}:${line}:${column}`
  const text = lines[line - 1]?.trimEnd() ?? ''
  const start = Math.max(0, Math.min(column - 1, text.length) - 60)
  const shown = text.slice(start, start + 100).trim()
  return shown === '' ? { path, problem } : { path, problem, remedy: `look at: ${shown}` }
}

function lowerFirst(text: string): string {
  return text.slice(0, 1).toLowerCase() + text.slice(1)
}

/** Counts brackets and the indicators of a line (`- - - x` nests too) without parsing, so it is safe on any text. */
function isTooDeep(text: string): boolean {
  let depth = 0
  let indicators = 0
  let isQuoted = false
  for (let i = 0; i < text.length; i++) {
    const c = text[i]
    if (c === '\n') {
      indicators = 0
      isQuoted = false
    } else if (c === '"') isQuoted = !isQuoted
    else if (isQuoted) i += c === '\\' ? 1 : 0
    else if (c === '[' || c === '{') depth += 1
    else if (c === ']' || c === '}') depth = Math.max(0, depth - 1)
    else if ((c === '-' || c === '?') && text[i + 1] === ' ') indicators += 1
    if (depth > MAX_DEPTH || indicators > MAX_DEPTH * 8) return true
  }
  return false
}
