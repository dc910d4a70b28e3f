import { CommanderError } from 'commander'
import { MeshError } from '../core/errors.ts'
import { contextOf, type Context, type GlobalOptions } from './context.ts'
import { exitCodeOf, printError } from './output.ts'
import { HELP, programOf } from './program.ts'

/** What was typed behind `hedgerow`, done. Resolves to the exit code of a failure, which it has printed. */
export async function commandLine(
  args: readonly string[],
  { environment, version }: Pick<Context, 'environment' | 'version'>,
): Promise<number | undefined> {
  // known before the arguments are parsed, for the error that parsing them may end in
  const wantsJson = /(?:^| )(?:-o ?|--output[ =])json(?: |$)/.test(args.join(' ').split(' -- ')[0] ?? '')
  const program = programOf(
    version,
    () => contextOf(program.opts<GlobalOptions>(), environment, version),
    wantsJson ? { writeErr: () => undefined } : {}, // the error is printed below, as JSON
  )
  try {
    if (args.length === 0) program.outputHelp()
    else await program.parseAsync(args, { from: 'user' })
    return undefined
  } catch (error) {
    if (!(error instanceof CommanderError)) {
      printError(error, wantsJson ? 'json' : 'table')
      return exitCodeOf(error)
    }
    if (error.exitCode === 0) return 0
    if (wantsJson) printError(usageError(error), 'json')
    return 2
  }
}

/** What commander found wrong, `error: unknown command 'gett'\n(Did you mean get?)`, as an error of ours. */
function usageError({ code, message }: CommanderError): MeshError {
  if (code === 'commander.help') return new MeshError('USAGE', { reason: 'a command is missing', remedy: HELP })
  const [reason = '', hint] = message.replace(/^error: /, '').split('\n')
  return new MeshError('USAGE', { reason, remedy: hint?.replace(/^\((.*)\)$/, '$1') ?? HELP })
}
