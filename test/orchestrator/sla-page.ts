import { readFileSync, writeFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { FIELDS, type Effect } from '../../src/orchestrator/sla/changes.ts'
import { KEYS, type Key, type Level } from '../../src/orchestrator/sla/keys.ts'

/**
 * The generated part of docs/sla.md. To bring the page up to date after a change of keys.ts:
 *
 *     node_modules/.bin/node test/orchestrator/sla-page.ts
 */
export const PAGE = resolve(import.meta.dirname, '../../docs/sla.md')
const BEGIN = '<!-- generated from src/orchestrator/sla/keys.ts: begin -->'
const END = '<!-- generated from src/orchestrator/sla/keys.ts: end -->'

const HEADINGS: Readonly<Record<Level, string>> = {
  document: 'The document',
  application: 'An entry of `applications`',
  microservice: 'An entry of `microservices`: a service',
  port: 'An entry of `ports`',
  file: 'An entry of `files`',
  volume: 'An entry of `volumes`',
  check: '`check`',
  livenessProbe: '`livenessProbe`',
  probeTarget: '`livenessProbe.httpGet` and `livenessProbe.tcpSocket`',
  constraint: 'An entry of `constraints`',
  connectivity: 'An entry of `connectivity`, when it is an object',
  connection: 'An entry of `con_constraints`',
  addresses: '`addresses`',
  instances: 'An entry of `addresses.instances`',
  update: '`update`',
  job: '`job`',
  schedule: '`schedule`',
}

const EFFECTS: Readonly<Record<Effect, string>> = {
  restart:
    'are replaced, one after the other: a new one starts beside each, takes its flows when it is ready, and the old one drains',
  place:
    'take it over without a restart where their node still meets the document; the others move, one after the other, and what fits nowhere runs on as before, with the reason in `get instances`',
  live: 'take it over at once, without a restart',
  none: 'are not concerned: callers are, or their number',
}

function changeTable(): string {
  const rows = (Object.keys(EFFECTS) as Effect[]).map((effect) => {
    const fields = Object.values(FIELDS).filter((field) => field.effect === effect)
    const keys = new Set(fields.flatMap((field) => [...field.keys, ...field.shorthands]))
    return `| ${[...keys].map((key) => `\`${key}\``).join(', ')} | ${EFFECTS[effect]} |`
  })
  return `### What a change does to instances that run

| changed | instances |
|---|---|
${rows.join('\n')}

The limits of programs that run (\`process\`) are changed with \`memory\` and \`vcpus\`: one that uses more than its new \`memory\` is killed. Another
runtime may have set a limit when it started the instance, so it is replaced.
`
}

/** The page with its generated part as keys.ts has it now. */
export function regenerated(page: string): string {
  const [before, rest = ''] = page.split(BEGIN)
  const [, after = ''] = rest.split(END)
  return `${before}${BEGIN}\n\n${keyTables()}\n${END}${after}`
}

function keyTables(): string {
  const levels = Object.entries(KEYS) as [Level, readonly Key[]][]
  const tables = levels.map(([level, keys]) => {
    const rows = keys.filter(({ unused }) => unused === undefined).map(row)
    return `### ${HEADINGS[level]}\n\n| key | value | | meaning |\n|---|---|---|---|\n${rows.join('\n')}\n`
  })
  const unused = levels.flatMap(([, keys]) => keys.filter((key) => key.unused !== undefined))
  const names = [...new Set(unused.map(({ name }) => `\`${name}\``))].join(', ')
  return `${tables.join('\n')}
${changeTable()}
### Accepted without effect

Documents written for Oakestra may contain these keys. Nothing acts on them, and a warning says so when they have a value: ${names}.
`
}

function row({ name, kind, origin, meaning }: Key): string {
  return `| \`${name}\` | ${valueOf(kind)} | ${origin === 'hedgerow' ? '+' : ''} | ${meaning.replaceAll('|', '\\|')} |`
}

function valueOf(kind: Key['kind']): string {
  switch (kind.type) {
    case 'text':
      return kind.orNumber === true ? 'string or number' : 'string'
    case 'number':
      return `${kind.whole === true ? 'integer' : 'number'}, ${kind.min} to ${kind.max}${kind.percent === undefined ? '' : `; or \`0%\` to \`${kind.percent}%\``}`
    case 'flag':
      return '`true` or `false`'
    case 'choice':
      return kind.words.map((word) => `\`${word}\``).join(', ')
    case 'list':
      return kind.of === 'any' ? 'list' : kind.of === 'text' ? 'list of strings' : 'list of objects'
    case 'object':
      return 'object'
    case 'any':
      return 'string or number'
    default:
      return kind satisfies never
  }
}

if (import.meta.main) writeFileSync(PAGE, regenerated(readFileSync(PAGE, 'utf8')))
