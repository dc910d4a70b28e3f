import Table from 'cli-table3'
import { styleText } from 'node:util'
import { explain, isMeshError, MeshError, REMEDIES, type ErrorCode } from '../core/errors.ts'
import { toStderr } from '../core/kit/console-output.ts'
import { inQuotes, printable, printableJson } from '../core/kit/printable.ts'
import { clearProgress, shown } from './terminal.ts'

/** `wide` is a table with more columns. */
export const FORMATS = ['table', 'wide', 'json', 'yaml'] as const
export type Format = (typeof FORMATS)[number]

/** Whether the output is for programs. */
export function isData({ format }: { format: Format }): boolean {
  return format === 'json' || format === 'yaml'
}

/** A list is a cell of several lines. */
export type Cell = string | number | readonly string[] | undefined

/** Rows for people: no borders, one line each, columns as wide as they need; no control characters from other nodes. */
export function printTable(head: readonly string[], rows: ReadonlyArray<readonly Cell[]>): void {
  clearProgress()
  process.stdout.write(shown(tableText(head, rows), process.stdout))
}

export function tableText(head: readonly string[], rows: ReadonlyArray<readonly Cell[]>): string {
  const table = new Table({
    head: head.map((word) => styleText('bold', word.toUpperCase())),
    style: { head: [], border: [], 'padding-left': 0, 'padding-right': 2, compact: true },
    chars: NO_BORDERS,
  })
  for (const row of rows) table.push(row.map(textOf))
  return `${table.toString().replaceAll(/ +$/gm, '')}\n`
}

function textOf(cell: Cell): string {
  if (cell === undefined) return '–'
  return typeof cell === 'object' ? cell.map(printable).join('\n') : printable(String(cell))
}

const NO_BORDERS = Object.fromEntries(
  ['top', 'bottom', 'left', 'right', 'mid', 'middle']
    .flatMap((side) => [side, `${side}-mid`, `${side}-left`, `${side}-right`])
    .map((part) => [part, '']),
)

/** For programs, in the format that was asked for. */
export async function printData(value: unknown, { format }: { format: Format }): Promise<void> {
  clearProgress()
  process.stdout.write(await dataText(value, format))
}

/** `stream`: one of several values, as JSON on one line, as YAML a document. */
export async function dataText(value: unknown, format: Format, mode: 'whole' | 'stream' = 'whole'): Promise<string> {
  if (format === 'yaml') return `${mode === 'stream' ? '---\n' : ''}${await yamlText(value)}`
  return mode === 'stream' ? `${printableJson(value)}\n` : jsonText(value)
}

/** What `printable` escapes stands in double quotes, where YAML reads it back. */
async function yamlText(value: unknown): Promise<string> {
  const { Document, visit } = await import('yaml') // large, and only this needs it
  const plain: unknown = value === undefined ? null : JSON.parse(JSON.stringify(value)) // without what is undefined
  const document = new Document(plain, { aliasDuplicateObjects: false })
  visit(document, {
    Scalar: (_key, node) => {
      const { value } = node
      const isUnsafe = typeof value === 'string' && printable(value.replaceAll('\n', '')) !== value.replaceAll('\n', '')
      if (isUnsafe) node.type = 'QUOTE_DOUBLE'
    },
  })
  return inQuotes(document.toString({ lineWidth: 0 }))
}

export function jsonText(value: unknown): string {
  return `${printableJson(value, 2)}\n`
}

/** What scripts can tell apart: 2 = used wrongly, 3 = not found, 4 = refused, 5 = nothing answers, 1 = anything else. */
export const EXIT_CODES: Partial<Record<ErrorCode, number>> = {
  USAGE: 2,
  CONFIG_INVALID: 2,
  SLA_INVALID: 2,
  NAME_INVALID: 2,
  SERVICE_UNKNOWN: 3,
  APP_UNKNOWN: 3,
  REVISION_UNKNOWN: 3,
  INSTANCE_UNKNOWN: 3,
  NODE_UNKNOWN: 3,
  CLUSTER_UNKNOWN: 3,
  RELAY_UNKNOWN: 3,
  SECRET_UNKNOWN: 3,
  VOLUME_UNKNOWN: 3,
  ORGANISATION_UNKNOWN: 3,
  USER_UNKNOWN: 3,
  API_TOKEN_UNKNOWN: 3,
  SLA_CONFLICT: 4,
  DRAIN_INCOMPLETE: 4,
  TOKEN_INVALID: 4,
  TOKEN_REFUSED: 4,
  UNAUTHENTICATED: 4,
  LOGIN_REFUSED: 4,
  OIDC_REFUSED: 4,
  OIDC_OFF: 4,
  QUOTA_EXCEEDED: 4,
  FORBIDDEN: 4,
  ROTATION_REFUSED: 4,
  NOT_RUNNING: 5,
  PROVIDER_FAILED: 5,
  REQUEST_TIMEOUT: 5,
  LINK_CLOSED: 5,
}

export function exitCodeOf(error: unknown): number {
  return isMeshError(error) ? (EXIT_CODES[error.code] ?? 1) : 1
}

/** What went wrong, each fault on its line, and last what to do about it. */
export async function printError(error: unknown, format: Format = 'table'): Promise<void> {
  clearProgress()
  const text = format === 'yaml' ? await dataText(errorFacts(error), format) : errorText(error, format)
  process.stderr.write(toStderr(isData({ format }) ? text : shown(text, process.stderr), 'error'))
}

export function errorText(error: unknown, format: Format): string {
  if (isData({ format })) return jsonText(errorFacts(error)) // which is YAML, too
  const { message, faults, warnings, remedy } = failureOf(error)
  const lines = [
    `${styleText('red', 'error:', { stream: process.stderr })} ${message}`,
    ...(faults ?? []).map((fault) => `  ${lineOf(fault)}`),
    ...(warnings ?? []).map((warning) => `  (${lineOf(warning)})`),
    ...(remedy === undefined ? [] : [printable(remedy)]),
  ]
  return `${lines.join('\n')}\n`
}

function errorFacts(error: unknown): Record<string, unknown> {
  const { code, message, faults, warnings, remedy, details } = failureOf(error)
  return { error: code, message, ...details, faults: faults?.map(plain), warnings: warnings?.map(plain), remedy }
}

type Fault = string | { path: string; problem: string; remedy?: string }

interface Failure {
  code: string
  message: string
  faults?: readonly Fault[]
  warnings?: readonly Fault[]
  remedy?: string | undefined
  details: Readonly<Record<string, unknown>>
}

function failureOf(error: unknown): Failure {
  if (!isMeshError(error)) return { code: 'FAILED', message: printable(explain(error)), details: {} }
  const { faults, conflicts, warnings, remedy, ...details } = error.details
  const listed = [faults, conflicts].find(Array.isArray) as readonly Fault[] | undefined
  const bare = new MeshError(error.code, details, error.cause === undefined ? undefined : { cause: error.cause })
  return {
    code: error.code,
    message: printable(explain(bare)),
    ...(listed === undefined ? {} : { faults: listed }),
    ...(Array.isArray(warnings) ? { warnings: warnings as readonly Fault[] } : {}),
    remedy: typeof remedy === 'string' ? sentence(remedy) : REMEDIES[error.code],
    details,
  }
}

/** What is wrong with a document or a configuration, for the log. */
export function faultLines(error: unknown): string[] {
  return (failureOf(error).faults ?? []).map(lineOf)
}

/** With a capital and a full stop; a command or an option stays as it is typed. */
function sentence(remedy: string): string {
  const isTyped = /^(?:hedgerow |-|`)/.test(remedy)
  const text = isTyped ? remedy : `${remedy.slice(0, 1).toUpperCase()}${remedy.slice(1)}`
  return /[.?!]$/.test(text) || isTyped ? text : `${text}.`
}

/** One fault, or warning, as a line for people. */
export function lineOf(fault: Fault): string {
  if (typeof fault === 'string') return printable(fault)
  const { path, problem, remedy } = fault
  return printable(`${path === '' ? 'the document' : path}: ${problem}${remedy === undefined ? '' : ` – ${remedy}`}`)
}

function plain(fault: Fault): { path: string; problem: string; remedy?: string } {
  if (typeof fault !== 'string') return fault
  const at = fault.indexOf(': ')
  return at === -1 ? { path: '', problem: fault } : { path: fault.slice(0, at), problem: fault.slice(at + 2) }
}
