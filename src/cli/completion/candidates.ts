import type { Command, Option } from 'commander'

/*
 * What may stand where the cursor is, computed from the same commands and options as `--help`. The shells ask with
 * `hedgerow __complete -- WORDS…`, whose last word is the one that is being typed.
 */

export interface Candidate {
  word: string
  about: string
}

/** Names that only the root knows. */
export type NamedKind = 'apps' | 'services' | 'instances' | 'runs' | 'nodes' | 'clusters' | 'relays' | 'volumes'

export interface Completion {
  candidates: Candidate[]
  /** Where files may stand, the shell completes them itself. */
  files: boolean
  /** The names of these as well. */
  names: NamedKind[]
}

const NOTHING: Completion = { candidates: [], files: false, names: [] }

/** `words`: those behind `hedgerow`, up to the cursor. */
export function completionOf(program: Command, words: readonly string[]): Completion {
  const prefix = words.at(-1) ?? ''
  const place = placeOf(program, words.slice(0, -1))
  if (place.kind === 'foreign') return { ...NOTHING, files: true }
  const found = place.kind === 'value' ? valueOf(place.option) : atCursor(place, prefix)
  return { ...found, candidates: found.candidates.filter(({ word }) => word.startsWith(prefix)) }
}

type Position =
  | { kind: 'value'; option: Option }
  | { kind: 'argument'; command: Command; args: readonly string[] }
  /** Words of another program: `exec -- curl …`. */
  | { kind: 'foreign' }

/** Walks over the words before the one that is being typed. */
function placeOf(program: Command, before: readonly string[]): Position {
  let command = program
  const args: string[] = []
  for (let at = 0; at < before.length; at++) {
    const word = before[at] ?? ''
    if (word === '--') return { kind: 'foreign' }
    if (word.startsWith('-')) {
      const option = optionNamed(command, word) ?? optionNamed(program, word)
      if (option?.required !== true || word.includes('=')) continue
      at += 1
      if (at === before.length) return { kind: 'value', option }
      continue
    }
    const child = args.length === 0 ? childNamed(command, word) : undefined
    if (child !== undefined) command = child
    else args.push(word)
    if (isForeign(command, args)) return { kind: 'foreign' }
  }
  return { kind: 'argument', command, args }
}

function childNamed(command: Command, word: string): Command | undefined {
  return command.commands.find((child) => child.name() === word || child.aliases().includes(word))
}

function optionNamed(command: Command, word: string): Option | undefined {
  const [flag] = word.split('=')
  return command.options.find(({ long, short }) => long === flag || short === flag)
}

/** From the command that is to be run on, options are not ours. */
function isForeign(command: Command, args: readonly string[]): boolean {
  const at = command.registeredArguments.findIndex(({ variadic }) => variadic)
  return at !== -1 && args.length > at
}

function atCursor({ command, args }: { command: Command; args: readonly string[] }, prefix: string): Completion {
  if (prefix.startsWith('-')) return { ...NOTHING, candidates: optionsOf(command) }
  if (command.commands.length > 0) return args.length > 0 ? NOTHING : { ...NOTHING, candidates: commandsOf(command) }
  const argument = command.registeredArguments[args.length]
  if (argument === undefined) return NOTHING
  if (argument.variadic) return { ...NOTHING, files: true }
  return argumentOf(command, argument.name(), args)
}

function commandsOf(command: Command): Candidate[] {
  return command
    .createHelp()
    .visibleCommands(command)
    .map((child) => ({ word: child.name(), about: firstClause(child.description()) }))
}

function optionsOf(command: Command): Candidate[] {
  const help = command.createHelp()
  return help
    .visibleOptions(command)
    .flatMap(({ long, description }) => (long ? [{ word: long, about: firstClause(description) }] : []))
}

/** What stands for the value in the usage, `--output <format>`, says what it may be. */
function valueOf({ flags, argChoices }: Option): Completion {
  if (argChoices !== undefined) return words(argChoices)
  const [, value = ''] = /<([^>]+)>/.exec(flags) ?? []
  if (value === 'file' || value === 'dir') return { ...NOTHING, files: true }
  if (value === 'node') return { ...NOTHING, names: ['nodes'] }
  if (value.includes('|')) return words(value.split('|'))
  return words(VALUES[value] ?? [])
}

const VALUES: Readonly<Record<string, readonly string[]>> = {
  format: ['table', 'wide', 'json', 'yaml'],
  level: ['debug', 'info', 'warn', 'error', 'silent'],
  rule: ['any', 'direct-only', 'relay-only', 'prefer-direct', 'prefer-relayed'],
  mode: ['loopback', 'host'],
  role: ['node', 'relay', 'cluster'],
  who: ['separate', 'agent', 'auto'],
}

/** Kinds are listed in the help of the argument; names are those of the mesh. */
function argumentOf(command: Command, name: string, args: readonly string[]): Completion {
  const described = command.registeredArguments.find((one) => one.name() === name)?.description ?? ''
  switch (name) {
    case 'kind':
    case 'shell':
      return words(described.split(', '))
    case 'service':
      return { ...NOTHING, names: ['services'] }
    case 'instance':
      return { ...NOTHING, names: ['instances'] }
    case 'node':
      return { ...NOTHING, names: ['nodes'] }
    case 'target':
      return { ...NOTHING, names: ['services', 'instances'] }
    case 'filter':
      return { ...NOTHING, names: filteredBy(args[0] ?? '') }
    case 'name':
      if (command.name() === 'delete') return { ...NOTHING, names: [pluralOf(args[0] ?? '')].flat() }
      return { ...NOTHING, names: ['services', 'instances'] }
    default:
      return NOTHING
  }
}

const NAMED: readonly NamedKind[] = ['apps', 'services', 'instances', 'runs', 'nodes', 'clusters', 'relays', 'volumes']

/** What begins the filter of a list: links have no names of their own, and are listed by those of the nodes at their ends. */
function filteredBy(kind: string): NamedKind[] {
  return kind === 'links' || kind === 'link' ? ['nodes'] : [pluralOf(kind)].flat()
}

function pluralOf(kind: string): NamedKind | [] {
  return NAMED.find((one) => one === kind || one === `${kind}s`) ?? []
}

function words(all: readonly string[]): Completion {
  return { ...NOTHING, candidates: all.map((word) => ({ word, about: '' })) }
}

/** Short enough for the line of a shell. */
function firstClause(text: string): string {
  const [clause = ''] = text.split(/[:;(]|\. /)
  return clause.trim()
}
