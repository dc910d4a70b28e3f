import { printableLines } from '../core/kit/printable.ts'
import { Command } from 'commander'
import { apiTokenCommand } from './api-token.ts'
import { applyCommand } from './apply.ts'
import { auditCommand } from './audit.ts'
import { backupCommands } from './backup/command.ts'
import { bugReportCommand } from './bug-report/command.ts'
import { caCommand } from './ca.ts'
import { checkCommand } from './check.ts'
import { completionCommand } from './completion/command.ts'
import { cordonCommands } from './cordon.ts'
import { dashboardCommand } from './dashboard.ts'
import { deleteCommand } from './delete.ts'
import { eventsCommand } from './events.ts'
import { drainCommand } from './drain.ts'
import { execCommand } from './exec.ts'
import { explainCommand } from './explain.ts'
import { flowsCommand } from './flows.ts'
import { gatewayCommand } from './gateway.ts'
import { getCommand } from './get.ts'
import { labCommand } from './lab.ts'
import { loginCommands } from './login.ts'
import { logsCommand } from './logs.ts'
import { migrateCommand } from './migrate.ts'
import { netcheckCommand } from './netcheck.ts'
import { orgCommand } from './org.ts'
import { peersCommand } from './peers.ts'
import { resolveCommand } from './resolve.ts'
import { restartCommand } from './restart.ts'
import { runCommands } from './run.ts'
import { historyCommand, rollbackCommand } from './rollback.ts'
import { secretCommand } from './secret.ts'
import { scaleCommand } from './scale.ts'
import { statusCommand } from './status.ts'
import { tokenCommand } from './token.ts'
import { topCommand } from './top.ts'
import { traceCommand } from './trace.ts'
import { userCommand } from './user.ts'
import { upgradeCommand } from './upgrade.ts'
import { versionCommand } from './version.ts'
import { withProxyCommand } from './with-proxy.ts'
import type { Context } from './context.ts'
import { shown } from './terminal.ts'

/** After what was typed wrongly: how the command at hand is used, or which commands there are. */
export function helpOf(command: Command): string {
  const path = pathOf(command)
  if (command.commands.length > 0) return `Run \`${path} --help\` for the list of commands.`
  return `Usage: ${path} ${command.usage()}\nRun \`${path} --help\` for what they mean.`
}

/** As it is typed: `hedgerow token create`. */
export function pathOf(command: Command): string {
  return command.parent === null ? command.name() : `${pathOf(command.parent)} ${command.name()}`
}

/** In a list of commands: with what it needs; what else it takes, its own help says. */
function termOf(command: Command): string {
  const needed = command.registeredArguments.filter(({ required }) => required).map((one) => ` <${one.name()}>`)
  return `${command.name()}${needed.join('')}`
}

/** In a list of commands, a line or two for each: the first clause, where there is nothing shorter. */
export function summaryOf(command: Command): string {
  return command.summary() || (command.description().split(/: |; |\. /)[0] ?? '')
}

interface Writer {
  /** Takes the usage errors that commander prints; standard error by default. */
  writeErr?: (text: string) => void
  /** Is told which command was used wrongly. */
  failed?: (command: Command) => void
}

/** Every command, with its options. The documents are generated from it (.config/docs). */
export function programOf(version: string, context: () => Context, writer: Writer = {}): Command {
  const { writeErr = (text) => void process.stderr.write(shown(text, process.stderr)), failed = () => undefined } =
    writer
  const program = new Command('hedgerow')
    .description('A semantic overlay network and service-mesh sidecar for the edge, with its orchestrator inside.')
    .version(version)
    .option(
      '--state <dir>',
      'state directory (HEDGEROW_STATE; else /var/lib/hedgerow as root, ~/.local/state/hedgerow otherwise)',
    )
    .option('-o, --output <format>', 'table, wide (a table with more columns), json or yaml')
    .option(
      '--credential <file>',
      'credential (HEDGEROW_CREDENTIAL; else that of `hedgerow login`, else <state>/root/admin.json)',
    )
    .enablePositionalOptions()
  // before the commands, which copy both
  program.configureHelp({
    subcommandTerm: termOf,
    subcommandDescription: summaryOf,
  })
  program.configureOutput({
    writeOut: (text) => void process.stdout.write(shown(text, process.stdout)),
    writeErr: (text) => writeErr(printableLines(text)),
  })
  for (const add of COMMANDS) add(program, context)
  told(program, failed)
  for (const command of program.commands) inheritGlobals(program, command, failed)
  return program
}

const COMMANDS = [
  runCommands,
  restartCommand,
  tokenCommand,
  secretCommand,
  caCommand,
  loginCommands,
  userCommand,
  apiTokenCommand,
  orgCommand,
  auditCommand,
  applyCommand,
  getCommand,
  scaleCommand,
  historyCommand,
  rollbackCommand,
  migrateCommand,
  cordonCommands,
  drainCommand,
  deleteCommand,
  resolveCommand,
  traceCommand,
  peersCommand,
  flowsCommand,
  gatewayCommand,
  logsCommand,
  eventsCommand,
  explainCommand,
  statusCommand,
  topCommand,
  dashboardCommand,
  checkCommand,
  netcheckCommand,
  backupCommands,
  bugReportCommand,
  execCommand,
  withProxyCommand,
  labCommand,
  completionCommand,
  upgradeCommand,
  versionCommand,
]

/** A usage error is thrown, with the help of the command at hand behind it. */
function told(command: Command, failed: (command: Command) => void): void {
  command.showHelpAfterError(helpOf(command)).exitOverride((error) => {
    failed(command)
    throw error
  })
}

/** `hedgerow get nodes -o json` and `hedgerow -o json get nodes` mean the same. */
function inheritGlobals(program: Command, command: Command, failed: (command: Command) => void): void {
  for (const option of program.options) {
    if (option.attributeName() !== 'version') command.addOption(option)
  }
  told(command, failed)
  command.hook('preAction', (_this, acting) => {
    for (const [key, value] of Object.entries(acting.opts())) {
      if (program.options.some((option) => option.attributeName() === key)) program.setOptionValue(key, value)
    }
  })
  for (const child of command.commands) inheritGlobals(program, child, failed)
}
