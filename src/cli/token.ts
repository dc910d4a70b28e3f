import type { Command } from 'commander'
import { MeshError } from '../core/errors.ts'
import { rootClient, type Context } from './context.ts'
import { printJson } from './output.ts'

interface Minted {
  token: string
  expiresAt: number
}

export function tokenCommand(program: Command, context: () => Context): void {
  const token = program
    .command('token')
    .description('join tokens: single-use, short-lived, carrying the fingerprint of the mesh')
  token
    .command('create')
    .description('make a token with which one node, relay or cluster may join')
    .option('--role <role>', 'node, relay or cluster', 'node')
    .option(
      '--cluster <name>',
      'the cluster that a node or relay joins (the only one, if there is only one), or the name of a new cluster (edge)',
    )
    .option('--ttl <seconds>', 'how long it is good for', '3600')
    .action(async ({ role, cluster, ttl }: { role: string; cluster?: string; ttl: string }) => {
      if (role !== 'node' && role !== 'cluster' && role !== 'relay')
        throw new MeshError('USAGE', { option: '--role', given: role, remedy: 'write node, relay or cluster' })
      const ttlSeconds = Number(ttl)
      if (!Number.isInteger(ttlSeconds) || ttlSeconds < 1)
        throw new MeshError('USAGE', { option: '--ttl', given: ttl, remedy: 'write whole seconds, from 1' })
      const minted = await rootClient(context()).call<Minted>('POST', '/tokens', {
        role,
        ttlSeconds,
        cluster: cluster ?? (role === 'cluster' ? 'edge' : undefined),
      })
      if (context().format === 'json') return printJson(minted)
      console.log(minted.token)
      console.error(
        `Good once, until ${new Date(minted.expiresAt).toISOString()}. On the new machine: hedgerow ${role === 'node' ? 'agent' : role} --token-file FILE`,
      )
    })
}
