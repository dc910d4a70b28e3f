import type { Command } from 'commander'
import { setTimeout as sleep } from 'node:timers/promises'
import type { components } from '../client/api-types.ts'
import type { RootClient } from '../client/root-client.ts'
import { MeshError } from '../core/errors.ts'
import { rootClient, type Context } from './context.ts'
import { secondsOf } from './duration.ts'
import { instanceNamed, instanceStill, nodeNamed } from './names.ts'
import { isData, printData } from './output.ts'
import { progress, say, note } from './terminal.ts'

type Moved = components['schemas']['Moved']

const POLL_MS = 100

export function migrateCommand(program: Command, context: () => Context): void {
  program
    .command('migrate')
    .description(
      'move an instance to another node, also of another cluster: it starts there, takes over when it is ready, and then ends where it was, so that no call fails. Its number and names stay. What has lease_seconds is stopped first',
    )
    .argument('<instance>', 'app.app-ns.service.service-ns.number, or a service that has one instance')
    .option(
      '--to <node>',
      'cluster/node, also of another cluster (else the one that the scheduler chooses: of its cluster, or of another one if no node of its own takes it)',
    )
    .option('--timeout <duration>', 'how long to wait, in seconds, or for example 30m or 1h', '10m')
    .action(async (given: string, { to, timeout }: { to?: string; timeout: string }) => {
      const limitMs = secondsOf(timeout, '--timeout') * 1_000
      const root = rootClient(context())
      const instance = await instanceNamed(root, given)
      const target = to === undefined ? {} : { to: await nodeNamed(root, to) }
      const begun = await root.ask('POST', '/v1/instances/{name}/migrate', { path: { name: instance }, body: target })
      if (!isData(context())) {
        const how = begun.gap === undefined ? 'starts' : 'ends where it is, and then starts'
        note(`${instance} ${how} on ${placeOf(begun)}`)
        if (begun.gap !== undefined) note(begun.gap)
        if (begun.keeps !== undefined) note(begun.keeps)
      }
      const node = await arrived(root, begun, limitMs)
      if (isData(context())) return printData({ ...begun, node }, context())
      say(`${instance} is on ${node}`)
    })
}

function placeOf({ node = 'a node of another cluster' }: Moved): string {
  return node
}

/** Where it is then. @throws MeshError UNPLACEABLE when it has stayed where it was, REQUEST_TIMEOUT */
async function arrived(root: RootClient, begun: Moved, limitMs: number): Promise<string> {
  const { instance, from, node, epoch, gap } = begun
  const place = placeOf(begun)
  let last: string | undefined
  for (const endAt = performance.now() + limitMs; performance.now() < endAt; await sleep(POLL_MS)) {
    const row = await instanceStill(root, instance)
    progress(`${instance} is not ready on ${place} yet …`)
    const isThere = node === undefined ? row.node !== from : row.node === node && (row.epoch ?? 0) >= epoch
    // that node, or one that had room then
    if (gap !== undefined && row.state === 'running' && row.node !== undefined && row.node !== from) return row.node
    if (isThere && row.node !== undefined && row.successor === undefined) return row.node
    if (row.successor !== undefined) last = row.successor.detail ?? `it was ${row.successor.state} there`
    else if (last !== undefined)
      throw new MeshError('UNPLACEABLE', {
        instance,
        node: place,
        reason: `it did not get ready on ${place}, and stays on ${row.node ?? '?'} (${last})`,
      })
  }
  throw new MeshError('REQUEST_TIMEOUT', { peer: place, ms: limitMs, reason: last ?? 'it has not started there' })
}
