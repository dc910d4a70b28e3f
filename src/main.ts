import { readFileSync } from 'node:fs'
import { CommanderError } from 'commander'
import { contextOf, type GlobalOptions } from './cli/context.ts'
import { exitCodeOf, printError } from './cli/output.ts'
import { HELP, programOf } from './cli/program.ts'
import { MeshError } from './core/errors.ts'

/** Known before the arguments are parsed, for the error that parsing them may end in. */
const wantsJson = /(?:^| )(?:-o ?|--output[ =])json(?: |$)/.test(process.argv.slice(2).join(' ').split(' -- ')[0] ?? '')
const program = programOf(
  versionOf(),
  () => contextOf(program.opts<GlobalOptions>(), process.env, versionOf()),
  wantsJson ? { writeErr: () => undefined } : {}, // the error is printed below, as JSON
)

process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error // `| head -1`: the reader has seen enough
})

try {
  if (process.argv.length <= 2) program.outputHelp()
  else await program.parseAsync(process.argv)
} catch (error) {
  if (error instanceof CommanderError) {
    if (error.exitCode !== 0 && wantsJson) printError(usageError(error), 'json')
    process.exitCode = error.exitCode === 0 ? 0 : 2
  } else {
    printError(error, wantsJson ? 'json' : 'table')
    process.exitCode = exitCodeOf(error)
  }
}

/** What commander found wrong, `error: unknown command 'gett'\n(Did you mean get?)`, as an error of ours. */
function usageError({ code, message }: CommanderError): MeshError {
  if (code === 'commander.help') return new MeshError('USAGE', { reason: 'a command is missing', remedy: HELP })
  const [reason = '', hint] = message.replace(/^error: /, '').split('\n')
  return new MeshError('USAGE', { reason, remedy: hint?.replace(/^\((.*)\)$/, '$1') ?? HELP })
}

/** The package's version: `package.json` lies one folder up in a clone and two in the published package. */
function versionOf(): string {
  for (const up of ['../package.json', '../../package.json']) {
    try {
      const { name, version } = JSON.parse(readFileSync(new URL(up, import.meta.url), 'utf8')) as {
        name?: string
        version: string
      }
      if (name === 'hedgerow') return version
    } catch {
      // the other place, then
    }
  }
  throw new Error('package.json is missing beside the program')
}
