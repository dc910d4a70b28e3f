import type { Command } from 'commander'
import { rootClient, type Context } from './context.ts'
import { nodeNamed, nodePath } from './names.ts'
import { isData, printData } from './output.ts'
import { say } from './terminal.ts'

/** As `kubectl` has them. */
export function cordonCommands(program: Command, context: () => Context): void {
  program
    .command('cordon')
    .description(
      'let a node take no new instances: it keeps what it runs, and goes on carrying flows. The cluster remembers it until `uncordon`',
    )
    .argument('<node>', 'cluster/node, or the name of the node where that is unambiguous')
    .option('--reason <text>', 'for others who see it in `hedgerow get nodes`')
    .action((node: string, { reason }: { reason?: string }) =>
      change(node, 'cordon', reason === undefined ? {} : { reason }, context()),
    )
  program
    .command('uncordon')
    .description('let a node take new instances again')
    .argument('<node>', 'cluster/node, or the name of the node where that is unambiguous')
    .action((node: string) => change(node, 'uncordon', {}, context()))
}

async function change(given: string, verb: 'cordon' | 'uncordon', body: object, context: Context): Promise<void> {
  const root = rootClient(context)
  const node = await nodeNamed(root, given)
  const { changed } = await root.ask('POST', `/v1/nodes/{cluster}/{node}/${verb}`, { path: nodePath(node), body })
  if (isData(context)) return printData({ node, cordoned: verb === 'cordon', changed }, context)
  const isNow = verb === 'cordon' ? 'cordoned' : 'open for new instances'
  say(`${node} ${changed ? 'is' : 'was already'} ${isNow}`)
}
