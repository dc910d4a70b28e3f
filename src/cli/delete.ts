import type { Command } from 'commander'
import { MeshError } from '../core/errors.ts'
import { rootClient, type Context } from './context.ts'
import { kindOf } from './kinds.ts'
import { withMeaning } from './names.ts'
import { isData, printData } from './output.ts'
import { say } from './terminal.ts'

const KINDS = ['app', 'service', 'node', 'relay', 'cluster'] as const

export function deleteCommand(program: Command, context: () => Context): void {
  program
    .command('delete')
    .description(
      'remove an app (app.ns) or a service (app.ns.service.ns); remove a node (cluster/node), a relay (cluster/relay) or a cluster with all its nodes, and revoke its certificates',
    )
    .argument('<kind>', KINDS.join(', '))
    .argument('<name>', 'which one, as `hedgerow get` prints it')
    .action(async (given: string, name: string) => {
      const kind = kindOf(given, KINDS)
      const isEnrolled = kind === 'node' || kind === 'relay'
      if (isEnrolled && !/^[a-z0-9-]+\/[a-z0-9-]+$/.test(name))
        throw new MeshError('USAGE', {
          node: name,
          remedy: `Expected cluster/${kind} (see \`hedgerow get ${kind}s\`).`,
        })
      const path = isEnrolled ? name : encodeURIComponent(name)
      const root = rootClient(context())
      const deleted = await root
        .call('DELETE', `/${kind}s/${path}`)
        .catch(async (error: unknown) => Promise.reject(await withMeaning(error, name, root)))
      if (isData(context())) await printData(deleted, context())
      else say(`${kind} ${name} deleted`)
    })
}
