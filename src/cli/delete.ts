import type { Command } from 'commander'
import type { RootClient } from '../client/root-client.ts'
import { MeshError } from '../core/errors.ts'
import { rootClient, type Context } from './context.ts'
import { kindOf } from './kinds.ts'
import { meantMember, nodePath, withMeaning } from './names.ts'
import { isData, printData } from './output.ts'
import { hasCredential } from './roles-here.ts'
import { say } from './terminal.ts'

const KINDS = ['app', 'service', 'node', 'relay', 'cluster', 'volume'] as const

const VOLUME = /^[a-z0-9-]+(\.[a-z0-9-]+){2}\/[a-z0-9-]+\/[a-z0-9-]+\/(docker|process)$/

export function deleteCommand(program: Command, context: () => Context): void {
  program
    .command('delete')
    .description(
      'remove an app (app.ns) or a service (app.ns.service.ns); remove a node (cluster/node), a relay (cluster/relay) or a cluster with all its nodes, and revoke its certificates; remove a volume that no instance uses, with all that is in it',
    )
    .summary('remove an app, a service, a node, a relay, a cluster or a volume')
    .argument('<kind>', KINDS.join(', '))
    .argument('<name>', 'which one, as `hedgerow get` prints it')
    .action(async (given: string, name: string) => {
      const kind = kindOf(given, KINDS)
      const isEnrolled = kind === 'node' || kind === 'relay'
      if (isEnrolled && !/^[a-z0-9-]+\/[a-z0-9-]+$/.test(name)) throw await incomplete(kind, name, context())
      if (kind === 'volume' && !VOLUME.test(name))
        throw new MeshError('USAGE', {
          volume: name,
          remedy: 'Expected app.namespace.volume/cluster/node/runtime, as `hedgerow get volumes` prints it.',
        })
      const root = rootClient(context())
      const deleted = await deletedBy(root, kind, name).catch(async (error: unknown) =>
        Promise.reject(await withMeaning(error, name, root)),
      )
      if (isData(context())) await printData(deleted, context())
      else say(`${kind} ${name} deleted`)
    })
}

/** What is deleted is named in full; which one was meant is said, where the root may be asked. */
async function incomplete(kind: 'node' | 'relay', name: string, context: Context): Promise<MeshError> {
  const meant = hasCredential(context) ? await meantMember(name, `${kind}s`, rootClient(context)) : undefined
  const expected = `Expected cluster/${kind} (see \`hedgerow get ${kind}s\`).`
  return new MeshError('USAGE', { [kind]: name, remedy: meant === undefined ? expected : `${expected} ${meant}` })
}

function deletedBy(root: RootClient, kind: (typeof KINDS)[number], name: string): Promise<{ deleted: string[] }> {
  switch (kind) {
    case 'app':
      return root.ask('DELETE', '/v1/apps/{name}', { path: { name } })
    case 'service':
      return root.ask('DELETE', '/v1/services/{name}', { path: { name } })
    case 'cluster':
      return root.ask('DELETE', '/v1/clusters/{name}', { path: { name } })
    case 'node':
      return root.ask('DELETE', '/v1/nodes/{cluster}/{node}', { path: nodePath(name) })
    case 'relay': {
      const { cluster, node: relay } = nodePath(name)
      return root.ask('DELETE', '/v1/relays/{cluster}/{relay}', { path: { cluster, relay } })
    }
    case 'volume': {
      const [volume = '', cluster = '', node = '', runtime = ''] = name.split('/')
      return root.ask('DELETE', '/v1/volumes/{name}/{cluster}/{node}/{runtime}', {
        path: { name: volume, cluster, node, runtime: runtime as 'docker' | 'process' },
      })
    }
    default:
      throw kind satisfies never
  }
}
