import { LineCounter, parseDocument } from 'yaml'
import { explain, MeshError } from '../../core/errors.ts'
import type { Fault } from './findings.ts'

/** Larger documents hold something else than an SLA. */
const MAX_TEXT_BYTES = 1024 * 1024
/** Deeper nesting than this is no SLA; readers of nested text are recursive. */
const MAX_DEPTH = 64
const MAX_FAULTS = 20

type Reading = { kind: 'read'; document: unknown } | { kind: 'faulty'; faults: Fault[] }

/**
 * Text to document: JSON where it looks like JSON, else YAML 1.2.
 * @throws MeshError SLA_INVALID with `faults`, whose paths are `file:line:column`
 */
export function readSlaText(text: string, fileName: string): unknown {
  const reading = read(text.charCodeAt(0) === 0xfeff ? text.slice(1) : text, fileName) // a byte order mark
  if (reading.kind === 'faulty') throw new MeshError('SLA_INVALID', { faults: reading.faults })
  return reading.document
}

function read(text: string, fileName: string): Reading {
  const faulty = (problem: string): Reading => ({ kind: 'faulty', faults: [{ path: fileName, problem }] })
  if (Buffer.byteLength(text) > MAX_TEXT_BYTES) return faulty(`is larger than ${MAX_TEXT_BYTES} bytes`)
  if (text.trim() === '') return faulty('is empty')
  if (isTooDeep(text)) return faulty(`is nested deeper than ${MAX_DEPTH} levels`)
  const isJson = /\.json$/i.test(fileName)
  if (!isJson && !/^\s*[[{]/.test(text)) return readYaml(text, fileName)
  const json = readJson(text, fileName)
  if (isJson || json.kind === 'read') return json
  const yaml = readYaml(text, fileName) // YAML may begin with a bracket too
  return yaml.kind === 'read' ? yaml : json
}

function readJson(text: string, fileName: string): Reading {
  try {
    return { kind: 'read', document: JSON.parse(text) as unknown }
  } catch (error) {
    return { kind: 'faulty', faults: [jsonFault(text, fileName, explain(error))] }
  }
}

/** V8 says "… in JSON at position 12 (line 3 column 5)"; of a text that ends too early, only that it ended. */
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

function readYaml(text: string, fileName: string): Reading {
  const lineCounter = new LineCounter()
  try {
    const document = parseDocument(text, { lineCounter, prettyErrors: false, stringKeys: true, logLevel: 'error' })
    if (document.errors.length === 0)
      return { kind: 'read', document: document.toJS({ maxAliasCount: 100 }) as unknown }
    const lines = text.split('\n')
    const faults = document.errors.slice(0, MAX_FAULTS).map(({ code, pos, message }) => {
      const { line, col } = lineCounter.linePos(pos[0])
      const isSeveral = code === 'MULTIPLE_DOCS'
      const problem = isSeveral ? 'holds several documents; write one a file' : `is not YAML: ${lowerFirst(message)}`
      return located({ fileName, line, column: col, problem }, lines)
    })
    return { kind: 'faulty', faults }
  } catch (error) {
    return { kind: 'faulty', faults: [{ path: fileName, problem: `is not YAML: ${explain(error)}` }] } // an alias bomb
  }
}

interface Located {
  fileName: string
  line: number
  column: number
  problem: string
}

/** The line itself is the remedy: looking at it is what helps. */
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

/** Counts brackets, and the indicators of one line (`- - - x` nests too), without reading: safe on any text. */
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
