import { globSync, readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { METRICS_ROLES, openMetrics } from '../../src/core/metrics.ts'

/*
 * The pages of docs/ that list every log sentence and every metric. Log calls are found in the source: a method named after
 * a level, of something named `log`, whose first argument is text.
 */

const ROOT = resolve(import.meta.dirname, '../..')
const LEVELS = ['error', 'warn', 'info', 'debug'] as const
type Level = (typeof LEVELS)[number]

interface LogLine {
  level: Level
  sentence: string
  fields: readonly string[]
}

export function logsPage(notice: string): string {
  const lines = globSync('{src,proxy,resolver}/**/*.ts', { cwd: ROOT })
    .filter((path) => !path.startsWith('src/lab/'))
    .flatMap((path) => linesOf(path))
  return [
    notice,
    '# Logs\n',
    'Every role writes its log to standard error, one JSON object a line: `level`, `time`, the fields, and `msg`, which is one of the',
    'constant sentences below. `--log-level` sets the lowest level that is written; `SIGHUP` reads the configuration again and changes',
    'the level of a running role. Lines that cannot be written, since the reader stalls or the disk is full, wait in 1 MiB and are then',
    'dropped and counted (`hedgerow_log_lines_lost_total`); a line says later how many.\n',
    'Most lines also carry `node`, `cluster` or `relay`, and `part`, the part of the program that writes them.\n',
    ...LEVELS.flatMap((level) => [`## ${level}: ${MEANING[level]}\n`, tableOf(lines.filter((line) => line.level === level))]),
  ].join('\n')
}

const MEANING: Readonly<Record<Level, string>> = {
  error: 'someone must act',
  warn: 'a flow or a peer suffered',
  info: 'a state changed',
  debug: 'each flow',
}

function tableOf(lines: readonly LogLine[]): string {
  const bySentence = Map.groupBy(lines, ({ sentence }) => sentence)
  const rows = [...bySentence]
    .toSorted(([a], [b]) => (a < b ? -1 : 1))
    .map(([sentence, same]) => {
      const fields = [...new Set(same.flatMap((line) => line.fields))].map((field) => `\`${field}\``)
      return `| ${sentence.replaceAll('|', '\\|')} | ${fields.join(' ')} |`
    })
  return ['| sentence | fields |', '|---|---|', ...rows, ''].join('\n')
}

function linesOf(path: string): LogLine[] {
  const source = readFileSync(resolve(ROOT, path), 'utf8')
  return [...source.matchAll(/\b(?:parent)?[lL]og\.(error|warn|info|debug)\(/g)].flatMap((call) => {
    const [first = '', second = ''] = argumentsAt(source, call.index + call[0].length)
    const fields = second.startsWith('{') ? fieldsOf(second) : []
    // a sentence, or the two of a condition
    const sentences = [...first.matchAll(/'((?:[^'\\]|\\.)*)'/g)].map(([, sentence = '']) => sentence)
    return sentences.map((sentence) => ({ level: call[1] as Level, sentence, fields }))
  })
}

/** The source text of each argument of a call, whose opening bracket is right before `start`. */
function argumentsAt(source: string, start: number): string[] {
  const found: string[] = []
  let depth = 0
  let from = start
  let quote = ''
  for (let at = start; at < source.length; at++) {
    const character = source.charAt(at)
    if (quote !== '') {
      if (character === '\\') at++
      else if (character === quote) quote = ''
    } else if (`'"\``.includes(character)) quote = character
    else if ('([{'.includes(character)) depth++
    else if (')]}'.includes(character) && depth-- === 0) {
      found.push(source.slice(from, at).trim())
      return found
    } else if (character === ',' && depth === 0) {
      found.push(source.slice(from, at).trim())
      from = at + 1
    }
  }
  return found
}

/** Names of the fields of an object literal; those of objects that are spread into it are not known here. */
function fieldsOf(object: string): string[] {
  return argumentsAt(`${object.slice(1, -1)})`, 0).flatMap((property) => /^(\w+)/.exec(property)?.[1] ?? [])
}

export async function metricsPage(notice: string): Promise<string> {
  const shown = new Map<string, { type: string; help: string; roles: string[] }>()
  for (const role of METRICS_ROLES)
    for (const { name, type, help } of await openMetrics(role).registry.getMetricsAsJSON())
      if (name.startsWith('hedgerow_'))
        shown.set(name, { type: String(type), help, roles: [...(shown.get(name)?.roles ?? []), role] })
  return [
    notice,
    '# Metrics\n',
    'Every role answers `GET /metrics` at its `opsListen` address, in the Prometheus text format or in OpenMetrics, with the label `role`;',
    'the address is printed at the start as `health`. Each shows only what it can have. The usual metrics of a Node.js process',
    '(`process_…`, `nodejs_…`) are there too, among them the delay of the event loop (`nodejs_eventloop_lag_p99_seconds`).\n',
    'Of services the root shows the first 1,000 by name; the rest is added up as `(others)`.\n',
    'How to scrape, alert rules and Grafana boards: [monitoring.md](monitoring.md).\n',
    '| metric | type | roles | meaning |',
    '|---|---|---|---|',
    ...[...shown]
      .toSorted(([a], [b]) => (a < b ? -1 : 1))
      .map(([name, { type, help, roles }]) => {
        const where = roles.length === METRICS_ROLES.length ? 'all' : roles.join(', ')
        return `| \`${name}\` | ${type} | ${where} | ${help.replaceAll('|', '\\|')} |`
      }),
    '',
  ].join('\n')
}
