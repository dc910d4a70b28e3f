import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import type { Command, Option } from 'commander'
import { pathOf, programOf, summaryOf } from '../../src/cli/program.ts'
import { ENVIRONMENT, EXIT_STATUS, EXIT_STATUS_OF_OTHERS, SECRETS, shownCommands, usageOf } from './commands.ts'

/*
 * The man pages, from the same source as `--help`: hedgerow(1), and one for each command, as hedgerow-get(1). `npm run build` writes
 * them to dist/man.
 */

const ROOT = resolve(import.meta.dirname, '../..')

/** By file name. */
export function manPages(): Record<string, string> {
  const { version } = JSON.parse(readFileSync(resolve(ROOT, 'package.json'), 'utf8')) as { version: string }
  // a build of the same sources gives the same pages
  const [, date = ''] = /^## (\d{4}-\d\d-\d\d)/m.exec(readFileSync(resolve(ROOT, 'CHANGELOG.md'), 'utf8')) ?? []
  const program = programOf(version, () => {
    throw new Error('no command runs here')
  })
  const heading = (name: string) => `.TH ${name.toUpperCase()} 1 ${date} "hedgerow ${version}" "hedgerow manual"\n`
  const commands = shownCommands(program)
  const pages = commands.map((command) => [`${nameOf(command)}.1`, heading(nameOf(command)) + commandPage(command, program)])
  return { 'hedgerow.1': heading('hedgerow') + mainPage(program, commands), ...Object.fromEntries(pages) }
}

/** `hedgerow-token-create` */
function nameOf(command: Command): string {
  return pathOf(command).replaceAll(' ', '-')
}

function mainPage(program: Command, commands: readonly Command[]): string {
  return [
    section('NAME', `hedgerow \\- ${roff(lowerFirst(program.description().replace(/\.$/, '')))}`),
    section('SYNOPSIS', '.B hedgerow\n.I command\n[options]'),
    section('DESCRIPTION', roff('Runs services on many machines and connects them by name, through NATs and over mutual TLS. `hedgerow up` runs everything on one machine.')),
    section('COMMANDS', commands.map((command) => entry(`\\fB${roff(nameOf(command))}\\fR(1)`, summaryOf(command))).join('\n')),
    section('OPTIONS', program.options.map(optionEntry).join('\n')),
    section('ENVIRONMENT', [...ENVIRONMENT.map(([name, text]) => entry(roff(name), text)), '.PP', roff(SECRETS)].join('\n')),
    section('EXIT STATUS', [...EXIT_STATUS.map(([code, text]) => entry(code, text)), '.PP', roff(EXIT_STATUS_OF_OTHERS.join(' '))].join('\n')),
    section('SEE ALSO', commands.map((command) => `.BR ${roff(nameOf(command))} (1)`).join(' ,\n')),
  ].join('')
}

function commandPage(command: Command, program: Command): string {
  const inherited = new Set(program.options.map(({ flags }) => flags))
  const own = command.options.filter(({ flags, hidden }) => !hidden && !inherited.has(flags))
  const args = command.registeredArguments.filter(({ description }) => description !== '')
  return [
    section('NAME', `${roff(nameOf(command))} \\- ${roff(summaryOf(command))}`),
    section('SYNOPSIS', `\\fB${roff(pathOf(command))}\\fR${roff(usageOf(command, own.length > 0).slice(pathOf(command).length))}`),
    section('DESCRIPTION', roff(`${upperFirst(command.description())}.`)),
    args.length === 0 ? '' : section('ARGUMENTS', args.map((one) => entry(`\\fI${roff(one.name())}\\fR`, one.description)).join('\n')),
    section('OPTIONS', [...own, ...program.options.filter(({ long }) => long !== '--version')].map(optionEntry).join('\n')),
    section('SEE ALSO', '.BR hedgerow (1)'),
  ].join('')
}

function section(title: string, body: string): string {
  return `.SH ${title}\n${body}\n`
}

function entry(term: string, text: string): string {
  return `.TP\n${term}\n${roff(text)}`
}

function optionEntry({ flags, description, defaultValue, argChoices }: Option): string {
  const choices = argChoices === undefined ? '' : `: ${argChoices.join(' or ')}`
  const fallback = typeof defaultValue === 'string' ? ` (default: ${defaultValue})` : ''
  return entry(`\\fB${roff(flags)}\\fR`, `${description}${choices}${fallback}`)
}

function lowerFirst(text: string): string {
  return `${text.slice(0, 1).toLowerCase()}${text.slice(1)}`
}

function upperFirst(text: string): string {
  return `${text.slice(0, 1).toUpperCase()}${text.slice(1)}`
}

/** Text as troff takes it: in ASCII, code in bold, no control line by chance. */
function roff(text: string): string {
  const plain = text
    .replaceAll('\\', '\\e')
    .replaceAll('-', '\\-')
    .replaceAll(/[–—]/g, '\\(en')
    .replaceAll('’', "'")
    .replaceAll('…', '...')
    .replaceAll('→', '\\(->')
    .replaceAll(/`([^`]*)`/g, '\\fB$1\\fR')
  return /^[.']/.test(plain) ? `\\&${plain}` : plain
}
