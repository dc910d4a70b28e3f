import type { Command } from 'commander'
import { MeshError } from '../core/errors.ts'
import { rootClient, type Context } from './context.ts'
import { printJson } from './output.ts'

const KINDS = ['app', 'service', 'node']

export function deleteCommand(program: Command, context: () => Context): void {
  program
    .command('delete')
    .description(
      'remove an app (app.ns), a service (app.ns.service.ns) or a node (cluster/node, whose certificate then counts no more)',
    )
    .argument('<kind>', KINDS.join(', '))
    .argument('<name>')
    .action(async (kind: string, name: string) => {
      if (!KINDS.includes(kind)) throw new MeshError('USAGE', { kind, remedy: `write one of ${KINDS.join(', ')}` })
      if (kind === 'node' && !/^[a-z0-9-]+\/[a-z0-9-]+$/.test(name))
        throw new MeshError('USAGE', { node: name, remedy: 'write cluster/node, as `hedgerow get nodes` shows it' })
      const path = kind === 'node' ? name : encodeURIComponent(name)
      const deleted = await rootClient(context()).call('DELETE', `/${kind}s/${path}`)
      if (context().format === 'json') printJson(deleted)
      else console.log(`${kind} ${name} deleted`)
    })
}
