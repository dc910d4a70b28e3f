import { Command } from 'commander'
import { EXIT_CODES } from '../../src/cli/output.ts'
import { pathOf, programOf } from '../../src/cli/program.ts'
import { defaults } from '../../src/config/defaults.ts'
import { Config } from '../../src/config/schema.ts'
import { ERRORS, REMEDIES, type ErrorCode } from '../../src/core/errors.ts'
import { apiPage } from './api.ts'
import { tenantsPage } from './tenants.ts'
import { logsPage, metricsPage } from './logs.ts'
import { ENVIRONMENT, EXIT_STATUS, EXIT_STATUS_OF_OTHERS, SECRETS, shownCommands, usageOf } from './commands.ts'

/** The pages of docs/ that are written from the code: `npm run docs` writes them, test/docs/generated.test.ts compares them. */
export const PAGES: Readonly<Record<string, () => string | Promise<string>>> = {
  'docs/api.md': () => apiPage(NOTICE('src/orchestrator/root/v1')),
  'docs/cli.md': cliPage,
  'docs/configuration.md': configurationPage,
  'docs/errors.md': errorsPage,
  'docs/logs.md': () => logsPage(NOTICE('the log calls in the source')),
  'docs/metrics.md': () => metricsPage(NOTICE('src/core/metrics.ts')),
  'docs/tenants.md': tenantsPage,
}

const NOTICE = (source: string) => `<!-- Written by \`npm run docs\` from ${source}. Change it there. -->\n`

function cliPage(): string {
  const program = programOf('0.0.0', () => {
    throw new Error('no command runs here')
  })
  const inherited = new Set(program.options.map(({ flags }) => flags))
  return [
    NOTICE('src/cli'),
    '# Commands\n',
    '`hedgerow COMMAND --help` prints the same. These options may stand before or after any command:\n',
    optionTable(program.options.filter(({ long }) => long !== '--version')),
    'With `-o json` (or `yaml`) results are JSON on standard output, and errors are JSON on standard error, usage errors too.',
    '`hedgerow logs -o json` prints one object a line, and so does `--watch -o json`, one for each change.\n',
    'Colours appear on terminals that have them (`NO_COLOR=1` turns them off), dashes and quotation marks beyond ASCII where the locale',
    '(`LC_ALL`, `LC_CTYPE`, `LANG`) is UTF-8. Kinds may be in singular or plural: `get node`, `delete services NAME`. A name that is nearly',
    'right is answered with the one that was probably meant.\n',
    ...shownCommands(program).map((command) => commandSection(command, inherited)),
    exitStatus(),
    environment(),
  ].join('\n')
}

function commandSection(command: Command, inherited: ReadonlySet<string>): string {
  const options = command.options.filter(({ flags, hidden }) => !hidden && !inherited.has(flags))
  const described = command.registeredArguments.filter(({ description }) => description !== '')
  return [
    `## ${pathOf(command).replace('hedgerow ', '')}\n`,
    `    ${usageOf(command, options.length > 0)}\n`,
    `${capital(command.description())}.\n`,
    ...(described.length === 0
      ? []
      : [table(['argument', 'meaning'], described.map((one) => [code(one.name()), one.description]))]),
    ...(options.length === 0 ? [] : [optionTable(options)]),
  ].join('\n')
}

function optionTable(options: Command['options']): string {
  return table(
    ['option', 'meaning'],
    options.map(({ flags, description, defaultValue, argChoices }) => [
      code(flags),
      `${description}${argChoices === undefined ? '' : `: ${argChoices.join(' or ')}`}${typeof defaultValue === 'string' ? ` (default: ${code(defaultValue)})` : ''}`,
    ]),
  )
}

function exitStatus(): string {
  const others = EXIT_STATUS_OF_OTHERS.map((line) => `${line}\n`).join('')
  return ['## Exit codes\n', table(['code', 'meaning'], EXIT_STATUS), `${others}[errors.md](errors.md) lists every error.\n`].join('\n')
}

function environment(): string {
  return ['## Environment variables\n', table(['variable', 'stands for'], ENVIRONMENT), `${SECRETS}\n`].join('\n')
}

function configurationPage(): string {
  const rows = keysOf(Config as Schema, defaults('HOST') as unknown as Record<string, unknown>)
  return [
    NOTICE('src/config/schema.ts and src/config/defaults.ts'),
    '# Configuration\n',
    'Every role runs without a configuration file. `--config FILE` names one; it is YAML, and one file may hold the sections of several',
    'roles. Flags override the file, and the file overrides the defaults below. An unknown key is an error that names the key that was',
    'probably meant, and every fault is reported at once.\n',
    '```yaml',
    EXAMPLE,
    '```\n',
    '`hedgerow up` changes three defaults: the root, the cluster and the tunnel listen on 127.0.0.1, ports 7470, 7471 and 7472.\n',
    table(['key', 'default', 'meaning'], rows),
  ].join('\n')
}

/** A test reads it as a configuration file. */
export const EXAMPLE = `log: info
agent:
  name: gateway
  listen: 0.0.0.0:7472
  advertise: [203.0.113.7:7472]
  labels: { gpu: none }
  resolver: { ttlSeconds: 10 }`

interface Schema {
  properties?: Record<string, Schema>
  description?: string
}

function keysOf(schema: Schema, values: Record<string, unknown>, above = ''): string[][] {
  return Object.entries(schema.properties ?? {}).flatMap(([name, part]) => {
    const key = `${above}${name}`
    if (part.properties !== undefined && part.description === undefined)
      return keysOf(part, values[name] as Record<string, unknown>, `${key}.`)
    return [[code(key), defaultOf(key, values[name]), part.description ?? '']]
  })
}

/** Defaults that depend on the machine are in words. */
const IN_WORDS: Readonly<Record<string, string>> = {
  'agent.name': 'the host name',
  'relay.name': 'the host name',
  'agent.memoryMb': 'all of the machine',
  'agent.vcpus': 'all of the machine',
}

function defaultOf(key: string, value: unknown): string {
  const words = IN_WORDS[key]
  if (words !== undefined) return words
  if (value === undefined) return key.endsWith('publicUrl') ? 'the listen address' : 'none'
  if (Array.isArray(value)) return code(`[${value.join(', ')}]`)
  return code(typeof value === 'object' ? '{}' : String(value as string | number))
}

function errorsPage(): string {
  const codes = Object.keys(ERRORS) as ErrorCode[]
  return [
    NOTICE('src/core/errors.ts'),
    '# Errors\n',
    'An error is printed as one sentence, what is wrong and where, followed by the reason and the cause; the next line says what to do.',
    'With `-o json` it is an object with `error` (the code below), `message`, the details, and `remedy`. `{…}` stands for a detail.\n',
    table(
      ['code', 'exit code', 'sentences', 'what to do'],
      codes.map((code) => [
        `\`${code}\``,
        String(EXIT_CODES[code] ?? 1),
        ERRORS[code].map((sentence) => plainSentence(sentence)).join('<br>'),
        REMEDIES[code] ?? '',
      ]),
    ),
  ].join('\n')
}

/** As people read it: `{peer|path}` becomes `{peer}`, and what may be left out loses its brackets. */
function plainSentence(sentence: string): string {
  return sentence.replaceAll(/\{([a-zA-Z]+)[^}]*\}/g, '{$1}').replaceAll(/[[\]]/g, '')
}

/** In a table of GitHub a `|` ends the cell, inside code too, unless it is escaped. */
function table(head: readonly string[], rows: ReadonlyArray<readonly string[]>): string {
  const line = (cells: readonly string[]) => `| ${cells.map(escaped).join(' | ')} |`
  return [line(head), `|${head.map(() => '---|').join('')}`, ...rows.map(line), ''].join('\n')
}

/** Outside code a `<` begins an HTML tag. */
function escaped(cell: string): string {
  const parts = cell.replaceAll('|', '\\|').split('`')
  return parts.map((part, at) => (at % 2 === 0 ? part.replaceAll(/<(?!br>)/g, '&lt;') : part)).join('`')
}

function code(text: string): string {
  return `\`${text}\``
}

function capital(text: string): string {
  return `${text.slice(0, 1).toUpperCase()}${text.slice(1)}`
}
