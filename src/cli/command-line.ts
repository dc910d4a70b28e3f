import { type Command, CommanderError } from 'commander'
import { MeshError } from '../core/errors.ts'
import { contextOf, type Context, type GlobalOptions } from './context.ts'
import { exitCodeOf, type Format, FORMATS, isData, printError } from './output.ts'
import { helpOf, programOf } from './program.ts'
import { setLocale } from './terminal.ts'

/** What was typed behind `hedgerow`, done. Resolves to the exit code of a failure, which it has printed. */
export async function commandLine(
  args: readonly string[],
  { environment, version }: Pick<Context, 'environment' | 'version'>,
): Promise<number | undefined> {
  // known before the arguments are parsed, for the error that parsing them may end in
  const format = formatIn(args)
  setLocale(environment)
  let failed: Command | undefined
  const program = programOf(version, () => contextOf(program.opts<GlobalOptions>(), environment, version), {
    ...(isData({ format }) ? { writeErr: () => undefined } : {}), // the error is printed below
    failed: (command) => (failed ??= command),
  })
  try {
    if (args.length === 0) program.outputHelp()
    else await program.parseAsync(args, { from: 'user' })
    return undefined
  } catch (error) {
    if (!(error instanceof CommanderError)) {
      await printError(error, format)
      return exitCodeOf(error)
    }
    if (error.exitCode === 0) return 0
    if (isData({ format })) await printError(usageError(error, helpOf(failed ?? program)), format)
    return 2
  }
}

function formatIn(args: readonly string[]): Format {
  const [before = ''] = args.join(' ').split(' -- ')
  const [, asked] = /(?:^| )(?:-o ?|--output[ =])([a-z]+)(?: |$)/.exec(before) ?? []
  return FORMATS.find((one) => one === asked) ?? 'table'
}

/** What commander found wrong, `error: unknown command 'gett'\n(Did you mean get?)`, as an error of ours. */
function usageError({ code, message }: CommanderError, help: string): MeshError {
  if (code === 'commander.help') return new MeshError('USAGE', { reason: 'a command is missing', remedy: help })
  const [reason = '', hint] = message.replace(/^error: /, '').split('\n')
  return new MeshError('USAGE', { reason, remedy: hint?.replace(/^\((.*)\)$/, '$1') ?? help })
}
