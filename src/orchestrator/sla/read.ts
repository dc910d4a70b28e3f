import { LineCounter, parseDocument } from 'yaml'
import { explain } from '../../errors.ts'
import type { Fault } from './findings.ts'

export type ReadText = { kind: 'read'; document: unknown } | { kind: 'refused'; faults: Fault[]; warnings: Fault[] }

/** Larger documents hold something else than an SLA. */
const MAX_TEXT_BYTES = 1024 * 1024
/** Deeper nesting than this is no SLA; readers of nested text are recursive. */
const MAX_DEPTH = 64

/** Text to document: JSON where it looks like JSON, else YAML 1.2. Faults carry `file:line:column` and the line. */
export function readSlaText(text: string, fileName: string): ReadText {
  if (Buffer.byteLength(text) > MAX_TEXT_BYTES) {
    return refused([{ path: fileName, problem: `is larger than ${MAX_TEXT_BYTES} bytes` }])
  }
  const plain = text.charCodeAt(0) === 0xfeff ? text.slice(1) : text // a byte order mark
  if (plain.trim() === '') return refused([{ path: fileName, problem: 'is empty' }])
  if (isTooDeep(plain)) return refused([{ path: fileName, problem: `is nested deeper than ${MAX_DEPTH} levels` }])
  return /\.json$/i.test(fileName) || /^\s*[[{]/.test(plain) ? readJson(plain, fileName) : readYaml(plain, fileName)
}

function readJson(text: string, fileName: string): ReadText {
  try {
    return { kind: 'read', document: JSON.parse(text) as unknown }
  } catch (error) {
    // A `.yaml` file may begin with a brace too: flow style with comments, or unquoted keys.
    if (!/\.json$/i.test(fileName)) {
      const yaml = readYaml(text, fileName)
      if (yaml.kind === 'read') return yaml
    }
    return refused([jsonFault(text, fileName, explain(error))])
  }
}

/** V8 says "… in JSON at position 12 (line 3 column 5)", or for a text that ends too early, nothing of the kind. */
function jsonFault(text: string, fileName: string, message: string): Fault {
  const at = /^(.*?)(?: in JSON)? at position \d+ \(line (\d+) column (\d+)\)/s.exec(message)
  const lines = text.split('\n')
  const [line, column] = at === null ? [lines.length, (lines.at(-1)?.length ?? 0) + 1] : [Number(at[2]), Number(at[3])]
  const problem = (at?.[1] ?? message.replace(/ in JSON$/, '')).replace(/, "(?:.|\n)*$/, '')
  return {
    path: `${fileName}:${line}:${column}`,
    problem: `is not JSON: ${lowerFirst(problem)}`,
    ...near(lines, line, column),
  }
}

function readYaml(text: string, fileName: string): ReadText {
  const lineCounter = new LineCounter()
  try {
    const document = parseDocument(text, { lineCounter, prettyErrors: false, stringKeys: true, logLevel: 'silent' })
    const lines = text.split('\n')
    const faults = document.errors.slice(0, 20).map((error): Fault => {
      const { line, col } = lineCounter.linePos(error.pos[0])
      const problem =
        error.code === 'MULTIPLE_DOCS'
          ? 'holds several documents; one file is one document'
          : `is not YAML: ${lowerFirst(error.message)}`
      return { path: `${fileName}:${line}:${col}`, problem, ...near(lines, line, col) }
    })
    return faults.length > 0
      ? refused(faults)
      : { kind: 'read', document: document.toJS({ maxAliasCount: 100 }) as unknown }
  } catch (error) {
    return refused([{ path: fileName, problem: `is not YAML: ${explain(error)}` }]) // an alias bomb
  }
}

/** The line itself, as the remedy: looking at it is what helps. */
function near(lines: readonly string[], line: number, column: number): { remedy?: string } {
  const text = lines[line - 1]?.trimEnd()
  if (text === undefined || text.trim() === '') return {}
  const start = Math.max(0, Math.min(column - 1, text.length) - 60)
  return { remedy: `look at: ${text.slice(start, start + 100).trim()}` }
}

function lowerFirst(text: string): string {
  return text.slice(0, 1).toLowerCase() + text.slice(1)
}

/** Counts brackets, and indentation of at least one blank a level, without reading: cheap, and safe on any text. */
function isTooDeep(text: string): boolean {
  let depth = 0
  let indicators = 0
  let isQuoted = false
  for (let i = 0; i < text.length; i++) {
    const c = text[i]
    if (c === '"' && text[i - 1] !== '\\') isQuoted = !isQuoted
    else if (c === '\n') {
      indicators = 0
      isQuoted = false
    } else if (isQuoted) continue
    else if (c === '[' || c === '{') depth += 1
    else if (c === ']' || c === '}') depth = Math.max(0, depth - 1)
    else if (c === '-' || c === '?' || c === ':') indicators += 1 // `- - - x` nests without brackets
    if (depth > MAX_DEPTH || indicators > 4_000) return true
  }
  return false
}

function refused(faults: Fault[]): ReadText {
  return { kind: 'refused', faults, warnings: [] }
}
