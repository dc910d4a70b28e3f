import { readFileSync } from 'node:fs'
import { Command, CommanderError } from 'commander'
import { applyCommand } from './cli/apply.ts'
import { checkCommand } from './cli/check.ts'
import { contextOf, type Context, type GlobalOptions } from './cli/context.ts'
import { deleteCommand } from './cli/delete.ts'
import { execCommand } from './cli/exec.ts'
import { flowsCommand } from './cli/flows.ts'
import { getCommand } from './cli/get.ts'
import { labCommand } from './cli/lab.ts'
import { logsCommand } from './cli/logs.ts'
import { netcheckCommand } from './cli/netcheck.ts'
import { exitCodeOf, printError } from './cli/output.ts'
import { peersCommand } from './cli/peers.ts'
import { resolveCommand } from './cli/resolve.ts'
import { restartCommand } from './cli/restart.ts'
import { runCommands } from './cli/run.ts'
import { scaleCommand } from './cli/scale.ts'
import { statusCommand } from './cli/status.ts'
import { tokenCommand } from './cli/token.ts'
import { MeshError } from './core/errors.ts'
import { traceCommand } from './cli/trace.ts'
import { versionCommand } from './cli/version.ts'

const program = new Command('hedgerow')
  .description('A semantic overlay network and service-mesh sidecar for the edge, with its orchestrator inside.')
  .version(versionOf())
  .option(
    '--state <dir>',
    'state directory (HEDGEROW_STATE; else /var/lib/hedgerow as root, ~/.local/state/hedgerow otherwise)',
  )
  .option('-o, --output <format>', 'table or json')
  .option('--credential <file>', 'admin credential (HEDGEROW_CREDENTIAL; else <state>/root/admin.json)')
  .enablePositionalOptions()
  .showHelpAfterError('Run `hedgerow --help` for the list of commands.')
  .exitOverride()

const HELP = 'Run `hedgerow --help` for the list of commands.'

/** Before the arguments are parsed: a usage error must already know. */
const wantsJson = /(?:^| )(?:-o ?|--output[ =])json(?: |$)/.test(process.argv.slice(2).join(' ').split(' -- ')[0] ?? '')
if (wantsJson) program.configureOutput({ writeErr: () => undefined }) // the error is printed below, as JSON

const context = (): Context => contextOf(program.opts<GlobalOptions>(), process.env, versionOf())

for (const command of [
  runCommands,
  restartCommand,
  tokenCommand,
  applyCommand,
  getCommand,
  scaleCommand,
  deleteCommand,
  resolveCommand,
  traceCommand,
  peersCommand,
  flowsCommand,
  logsCommand,
  statusCommand,
  checkCommand,
  netcheckCommand,
  execCommand,
  labCommand,
  versionCommand,
]) {
  command(program, context)
}
for (const command of program.commands) inheritGlobals(command)

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

/** `hedgerow get nodes -o json` and `hedgerow -o json get nodes` mean the same. */
function inheritGlobals(command: Command): void {
  for (const option of program.options) {
    if (option.attributeName() !== 'version') command.addOption(option)
  }
  command.exitOverride()
  command.hook('preAction', (_this, acting) => {
    for (const [key, value] of Object.entries(acting.opts())) {
      if (program.options.some((option) => option.attributeName() === key)) program.setOptionValue(key, value)
    }
  })
  for (const child of command.commands) inheritGlobals(child)
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
