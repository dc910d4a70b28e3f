import type { Command } from 'commander'
import { pathOf } from '../../src/cli/program.ts'

/* What docs/cli.md and the man pages say of the commands, besides what the commands say themselves. */

/** Each command that does something; groups such as `token` only hold others. */
export function shownCommands(program: Command): Command[] {
  return program.commands
    .filter((command) => !command.name().startsWith('__'))
    .flatMap((command) => (command.commands.length > 0 ? [...command.commands] : [command]))
}

export function usageOf(command: Command, hasOptions: boolean): string {
  const args = command.registeredArguments.map((argument) => {
    const name = argument.variadic ? `${argument.name()}...` : argument.name()
    return argument.required ? `<${name}>` : `[${name}]`
  })
  return [pathOf(command), ...(hasOptions ? ['[options]'] : []), ...args].join(' ')
}

export const EXIT_STATUS: ReadonlyArray<readonly [string, string]> = [
  ['0', 'done'],
  ['1', 'failed: a port is in use, the state is damaged, a check or a trace failed'],
  ['2', 'used wrongly: arguments, configuration, SLA document, name'],
  ['3', 'not found: app, service, instance, node or cluster'],
  ['4', 'refused: token, credential, or a conflict with what is deployed'],
  ['5', 'nothing answers'],
]

export const EXIT_STATUS_OF_OTHERS = [
  '`exec` and `lab exec` exit with the code of their command: 128 + n if signal n ended it, 127 if it does not exist, 126 if it may not be',
  'run. Signals sent to `exec` are passed on to the command.',
]

export const ENVIRONMENT: ReadonlyArray<readonly [string, string]> = [
  ['`HEDGEROW_STATE`', '`--state`'],
  ['`HEDGEROW_CREDENTIAL`', '`--credential`'],
  ['`HEDGEROW_TOKEN`', 'the content of `--token-file`'],
  [
    '`HEDGEROW_CIPHERS`',
    'which ciphers this process offers to other nodes, clusters and relays: `auto` (AES-GCM first, ChaCha20-Poly1305 first on machines without AES instructions), `aes` or `chacha20` (the other is forbidden). Two processes that forbid each other’s cannot connect',
  ],
  ['`HTTPS_PROXY`, `NO_PROXY`', 'the HTTP proxy through which agents, clusters and relays reach each other'],
  ['`XDG_STATE_HOME`', 'parent of the state directory for users other than root; `~/.local/state` by default'],
  ['`NO_COLOR`, `FORCE_COLOR`', 'no colours, or colours also where the output is no terminal'],
  ['`LC_ALL`, `LC_CTYPE`, `LANG`', 'whether commands print characters beyond ASCII: where the locale is UTF-8'],
]

export const SECRETS =
  'Secrets are read from files, standard input or the environment, never from the command line, where every user of the machine can read them.'
