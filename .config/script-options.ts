import { parseArgs } from 'node:util'

/**
 * The command line of a script of package.json: `--help` prints the usage and ends with 0; an option that is not there, or
 * a value that is no number, is told in one sentence, and the script ends with 2, as `hedgerow` does.
 */
export interface ScriptOption {
  kind: 'flag' | 'number' | 'text' | 'pattern'
  meaning: string
  default?: number | string
}

type Value<O extends ScriptOption> = O['kind'] extends 'flag'
  ? boolean
  : (O['kind'] extends 'number' ? number : O['kind'] extends 'pattern' ? RegExp : string) | Absent<O>
type Absent<O extends ScriptOption> = O extends { default: number | string } ? never : undefined

export interface Script<S extends Readonly<Record<string, ScriptOption>>> {
  /** As it is typed: `npm run bench`. */
  name: string
  /** One sentence. */
  about: string
  options: S
  /** Arguments that are no options, for scripts that take some. */
  positionals?: { name: string; meaning: string }
}

export type Values<S extends Readonly<Record<string, ScriptOption>>> = { [K in keyof S]: Value<S[K]> } & {
  positionals: string[]
}

const PLACE = { flag: '', number: ' N', text: ' TEXT', pattern: ' REGEX' } as const

export function scriptOptions<const S extends Readonly<Record<string, ScriptOption>>>(
  script: Script<S>,
  args: readonly string[] = process.argv.slice(2),
): Values<S> {
  try {
    const { help, ...values } = read(script, args)
    if (help !== true) return values as Values<S>
  } catch (error) {
    process.stderr.write(`${script.name}: ${(error as Error).message}\n`)
    process.exit(2)
  }
  process.stdout.write(usageOf(script))
  process.exit(0)
}

function read(script: Script<Readonly<Record<string, ScriptOption>>>, args: readonly string[]): Record<string, unknown> {
  const entries = Object.entries(script.options)
  const known = entries.map(([name, { kind }]) => [name, { type: kind === 'flag' ? 'boolean' : 'string' }] as const)
  const { values, positionals } = parse(Object.fromEntries([...known, ['help', { type: 'boolean' }]]), args)
  if (positionals.length > 0 && script.positionals === undefined)
    throw new Error(`${positionals[0]} is no option; --help lists them`)
  const read = entries.map(([name, option]) => [name, valueOf(name, option, values[name])] as const)
  return { ...Object.fromEntries(read), positionals, help: values['help'] }
}

function parse(options: Record<string, { type: 'boolean' | 'string' }>, args: readonly string[]) {
  try {
    return parseArgs({ options, args: [...args], allowPositionals: true })
  } catch (error) {
    const { message } = error as Error
    const unknown = /^Unknown option '([^']+)'/.exec(message)?.[1]
    const sentence = unknown === undefined ? message.split('\n')[0] : `no option ${unknown}; --help lists them`
    throw new Error(sentence, { cause: error })
  }
}

function valueOf(name: string, { kind, default: otherwise }: ScriptOption, given: string | boolean | undefined): unknown {
  const value = given ?? otherwise
  switch (kind) {
    case 'flag':
      return value === true
    case 'number':
      if (value === undefined) return undefined
      if (value === '' || !(Number(value) >= 0)) throw new Error(`--${name} takes a number, not ${JSON.stringify(value)}`)
      return Number(value)
    case 'pattern':
      return value === undefined ? undefined : patternOf(name, String(value))
    case 'text':
      return value
    default:
      return kind satisfies never
  }
}

function patternOf(name: string, text: string): RegExp {
  try {
    return new RegExp(text, 'i')
  } catch (error) {
    throw new Error(`--${name} takes a regular expression: ${(error as Error).message}`, { cause: error })
  }
}

function usageOf({ name, about, options, positionals }: Script<Readonly<Record<string, ScriptOption>>>): string {
  const rows = [
    ...(positionals === undefined ? [] : [[positionals.name, positionals.meaning]]),
    ...Object.entries(options).map(([option, { kind, meaning, default: otherwise }]) => [
      `--${option}${PLACE[kind]}`,
      otherwise === undefined ? meaning : `${meaning} (default: ${otherwise})`,
    ]),
    ['--help', 'prints this'],
  ]
  const width = Math.max(...rows.map(([left = '']) => left.length)) + 2
  const lines = rows.map(([left = '', right = '']) => `  ${left.padEnd(width)}${right}`)
  const rest = positionals === undefined ? '' : ` [${positionals.name}]`
  return `Usage: ${name} -- [options]${rest}\n\n${about}\n\n${lines.join('\n')}\n`
}
