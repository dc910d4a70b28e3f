import type { Command } from 'commander'
import { MeshError } from '../core/errors.ts'
import { rootClient, type Context } from './context.ts'
import { secondsOf } from './duration.ts'
import { isData, printData } from './output.ts'
import { say, note } from './terminal.ts'

interface TokenOptions {
  role: string
  cluster?: string
  ttl: string
}

export function tokenCommand(program: Command, context: () => Context): void {
  const token = program.command('token').description('manage single-use join tokens')
  token
    .command('create')
    .description('create a token with which one node, relay or cluster may join the mesh')
    .option('--role <role>', 'node, relay or cluster', 'node')
    .option(
      '--cluster <name>',
      'the cluster that the node or relay joins (may be left out where there is only one), or the name of the new cluster (edge)',
    )
    .option('--ttl <duration>', 'lifetime in seconds, or for example 30m, 1h or 7d', '1h')
    .action(async ({ role, cluster, ttl }: TokenOptions) => {
      if (role !== 'node' && role !== 'cluster' && role !== 'relay')
        throw new MeshError('USAGE', { option: '--role', given: role, remedy: 'Use one of: node, relay, cluster.' })
      const wanted = { role, ttlSeconds: secondsOf(ttl, '--ttl'), ...clusterOf(role, cluster) } as const
      const minted = await rootClient(context()).ask('POST', '/v1/join-tokens', { body: wanted })
      if (isData(context())) return printData(minted, context())
      say(minted.token)
      note(
        `Works once, until ${new Date(minted.expiresAt).toISOString()}. On the new machine: hedgerow ${role === 'node' ? 'agent' : role} --token-file FILE`,
      )
    })
}

/** A new cluster is called `edge` unless it is named; a node or relay joins the only cluster there is. */
function clusterOf(role: string, cluster: string | undefined): { cluster?: string } {
  if (cluster !== undefined) return { cluster }
  return role === 'cluster' ? { cluster: 'edge' } : {}
}
