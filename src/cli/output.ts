import Table from 'cli-table3'
import { styleText } from 'node:util'
import { explain, isMeshError, MeshError, type ErrorCode } from '../core/errors.ts'

export type Format = 'table' | 'json'

/** Rows for people: no borders, one line each, columns as wide as they need. */
export function printTable(
  head: readonly string[],
  rows: ReadonlyArray<ReadonlyArray<string | number | undefined>>,
): void {
  const table = new Table({
    head: head.map((word) => styleText('bold', word.toUpperCase())),
    style: { head: [], border: [], 'padding-left': 0, 'padding-right': 2, compact: true },
    chars: Object.fromEntries(
      [
        'top',
        'top-mid',
        'top-left',
        'top-right',
        'bottom',
        'bottom-mid',
        'bottom-left',
        'bottom-right',
        'left',
        'left-mid',
        'mid',
        'mid-mid',
        'right',
        'right-mid',
        'middle',
      ].map((part) => [part, '']),
    ),
  })
  for (const row of rows) table.push(row.map((cell) => (cell === undefined ? '–' : String(cell))))
  console.log(table.toString().replaceAll(/ +$/gm, ''))
}

export function printJson(value: unknown): void {
  console.log(JSON.stringify(value, null, 2))
}

/** What scripts can tell apart: 2 = used wrongly, 3 = not there, 4 = refused, 5 = nothing answers, 1 = anything else. */
export function exitCodeOf(error: unknown): number {
  if (!isMeshError(error)) return 1
  const codes: Partial<Record<ErrorCode, number>> = {
    USAGE: 2,
    CONFIG_INVALID: 2,
    SLA_INVALID: 2,
    NAME_INVALID: 2,
    SERVICE_UNKNOWN: 3,
    APP_UNKNOWN: 3,
    INSTANCE_UNKNOWN: 3,
    NODE_UNKNOWN: 3,
    CLUSTER_UNKNOWN: 3,
    SLA_CONFLICT: 4,
    TOKEN_INVALID: 4,
    TOKEN_REFUSED: 4,
    UNAUTHENTICATED: 4,
    FORBIDDEN: 4,
    NOT_RUNNING: 5,
    REQUEST_TIMEOUT: 5,
    LINK_CLOSED: 5,
  }
  return codes[error.code] ?? 1
}

const REMEDIES: Partial<Record<ErrorCode, string>> = {
  NOT_RUNNING: 'Is it started with the same --state directory? `hedgerow status` shows what runs.',
  LISTEN_FAILED: 'Another program holds the port, or the address is not on this machine: choose another with --listen.',
  STATE_UNREADABLE: 'Check that the directory exists, is writable for you, and is not on a read-only file system.',
  STATE_CORRUPT: 'Nothing was overwritten. Restore the file from a backup, or move the directory away to start anew.',
  TOKEN_REFUSED: 'Make a new one: hedgerow token create (tokens are single-use and expire).',
  UNAUTHENTICATED:
    'The admin credential is <state>/root/admin.json of the root; copy it, or name it with --credential.',
  INTERCEPT_FAILED: 'Host mode needs root or CAP_NET_ADMIN; loopback mode (the default) needs neither.',
}

/** What went wrong, the facts, each fault on its line, and last what to do about it. */
export function printError(error: unknown, format: Format = 'table'): void {
  const { code, message, faults, warnings, remedy, details } = failureOf(error)
  if (format === 'json') {
    const told = {
      error: code,
      message,
      ...details,
      faults: faults?.map(plain),
      warnings: warnings?.map(plain),
      remedy,
    }
    return console.error(JSON.stringify(told, null, 2))
  }
  console.error(`${styleText('red', 'error:', { stream: process.stderr })} ${message}`)
  for (const fault of faults ?? []) console.error(`  ${lineOf(fault)}`)
  for (const warning of warnings ?? []) console.error(`  (${lineOf(warning)})`)
  if (remedy !== undefined) console.error(remedy)
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
  if (!isMeshError(error)) return { code: 'FAILED', message: explain(error), details: {} }
  const { faults, conflicts, warnings, remedy, ...details } = error.details
  const listed = [faults, conflicts].find(Array.isArray) as readonly Fault[] | undefined
  const told = new MeshError(error.code, details, error.cause === undefined ? undefined : { cause: error.cause })
  return {
    code: error.code,
    message: explain(told),
    ...(listed === undefined ? {} : { faults: listed }),
    ...(Array.isArray(warnings) ? { warnings: warnings as readonly Fault[] } : {}),
    remedy: typeof remedy === 'string' ? sentence(remedy) : REMEDIES[error.code],
    details,
  }
}

/** One fault, or warning, as a line for people. */
export function lineOf(fault: Fault): string {
  if (typeof fault === 'string') return fault
  const { path, problem, remedy } = fault
  return `${path === '' ? 'the document' : path}: ${problem}${remedy === undefined ? '' : ` – ${remedy}`}`
}

function plain(fault: Fault): { path: string; problem: string; remedy?: string } {
  if (typeof fault !== 'string') return fault
  const at = fault.indexOf(': ')
  return at === -1 ? { path: '', problem: fault } : { path: fault.slice(0, at), problem: fault.slice(at + 2) }
}

function sentence(remedy: string): string {
  return `${remedy.slice(0, 1).toUpperCase()}${remedy.slice(1)}`
}
