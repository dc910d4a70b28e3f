import { Command } from 'commander'
import { EXIT_CODES } from '../../src/cli/output.ts'
import { programOf } from '../../src/cli/program.ts'
import { defaults } from '../../src/config/defaults.ts'
import { Config } from '../../src/config/schema.ts'
import { ERRORS, REMEDIES, type ErrorCode } from '../../src/core/errors.ts'
import { logsPage, metricsPage } from './logs.ts'

/** The pages of docs/ that are written from the code: `npm run docs` writes them, test/docs/generated.test.ts compares them. */
export const PAGES: Readonly<Record<string, () => string | Promise<string>>> = {
  'docs/cli.md': cliPage,
  'docs/configuration.md': configurationPage,
  'docs/errors.md': errorsPage,
  'docs/logs.md': () => logsPage(NOTICE('the log calls in the source')),
  'docs/metrics.md': () => metricsPage(NOTICE('src/core/metrics.ts')),
}

const NOTICE = (source: string) => `<!-- Written by \`npm run docs\` from ${source}. Change it there. -->\n`

function cliPage(): string {
  const program = programOf('0.0.0', () => {
    throw new Error('no command runs here')
  })
  const commands = program.commands.flatMap((command) => (command.commands.length > 0 ? command.commands : [command]))
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
    ...commands.map((command) => commandSection(command, inherited)),
    EXIT_STATUS,
    ENVIRONMENT,
  ].join('\n')
}

function commandSection(command: Command, inherited: ReadonlySet<string>): string {
  const options = command.options.filter(({ flags }) => !inherited.has(flags))
  const parent = command.parent?.name() === 'hedgerow' ? '' : `${command.parent?.name() ?? ''} `
  const args = command.registeredArguments.map((argument) => {
    const name = argument.variadic ? `${argument.name()}...` : argument.name()
    return argument.required ? `<${name}>` : `[${name}]`
  })
  const usage = ['hedgerow', `${parent}${command.name()}`, ...(options.length > 0 ? ['[options]'] : []), ...args].join(' ')
  const described = command.registeredArguments.filter(({ description }) => description !== '')
  return [
    `## ${parent}${command.name()}\n`,
    `    ${usage}\n`,
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

const EXIT_STATUS = `## Exit codes

| code | meaning |
|---|---|
| 0 | done |
| 1 | failed: a port is in use, the state is damaged, a check or a trace failed |
| 2 | used wrongly: arguments, configuration, SLA document, name |
| 3 | not found: app, service, instance, node or cluster |
| 4 | refused: token, credential, or a conflict with what is deployed |
| 5 | nothing answers |

\`exec\` and \`lab exec\` exit with the code of their command: 128 + n if signal n ended it, 127 if it does not exist, 126 if it may not be
run. Signals sent to \`exec\` are passed on to the command. [errors.md](errors.md) lists every error.
`

const ENVIRONMENT = `## Environment variables

| variable | stands for |
|---|---|
| \`HEDGEROW_STATE\` | \`--state\` |
| \`HEDGEROW_CREDENTIAL\` | \`--credential\` |
| \`HEDGEROW_TOKEN\` | the content of \`--token-file\` |
| \`HEDGEROW_CIPHERS\` | which ciphers this process offers to other nodes, clusters and relays: \`auto\` (AES-GCM first, ChaCha20-Poly1305 first on machines without AES instructions), \`aes\` or \`chacha20\` (the other is forbidden). Two processes that forbid each other’s cannot connect |
| \`HTTPS_PROXY\`, \`NO_PROXY\` | the HTTP proxy through which agents, clusters and relays reach each other |
| \`XDG_STATE_HOME\` | parent of the state directory for users other than root; \`~/.local/state\` by default |

Secrets are read from files, standard input or the environment, never from the command line, where every user of the machine can read them.
`

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
