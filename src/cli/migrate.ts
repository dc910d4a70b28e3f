import type { Command } from 'commander'
import { setTimeout as sleep } from 'node:timers/promises'
import type { RootClient } from '../client/root-client.ts'
import { MeshError } from '../core/errors.ts'
import { rootClient, type Context } from './context.ts'
import { secondsOf } from './duration.ts'
import { instanceNamed, nodeNamed } from './names.ts'
import { printJson } from './output.ts'

interface Migrated {
  instance: string
  from?: string
  node: string
  epoch: number
  /** What does not move with it. */
  keeps?: string
}

interface Row {
  id: string
  state: string
  node?: string
  epoch?: number
  detail?: string
  successor?: { state: string; detail?: string }
}

const POLL_MS = 100

export function migrateCommand(program: Command, context: () => Context): void {
  program
    .command('migrate')
    .description(
      'move an instance to another node: it starts there, takes over when it is ready, and then ends where it was, so that no call fails. Its number and names stay',
    )
    .argument('<instance>', 'app.app-ns.service.service-ns.number, or a service that has one instance')
    .option('--to <node>', 'cluster/node of its cluster (else the one that the scheduler chooses)')
    .option('--timeout <duration>', 'how long to wait, in seconds, or for example 30m or 1h', '10m')
    .action(async (given: string, { to, timeout }: { to?: string; timeout: string }) => {
      const limitMs = secondsOf(timeout, '--timeout') * 1_000
      const root = rootClient(context())
      const instance = await instanceNamed(root, given)
      const target = to === undefined ? {} : { to: await nodeNamed(root, to) }
      const path = `/instances/${encodeURIComponent(instance)}/migrate`
      const begun = await root.call<Migrated>('POST', path, target)
      if (context().format !== 'json') {
        console.error(`${instance} starts on ${begun.node}`)
        if (begun.keeps !== undefined) console.error(begun.keeps)
      }
      await arrived(root, begun, limitMs)
      if (context().format === 'json') return printJson(begun)
      console.log(`${instance} is on ${begun.node}`)
    })
}

/** @throws MeshError UNPLACEABLE when it has stayed where it was, REQUEST_TIMEOUT */
async function arrived(root: RootClient, { instance, node, epoch }: Migrated, limitMs: number): Promise<void> {
  let last: string | undefined
  for (const endAt = performance.now() + limitMs; performance.now() < endAt; await sleep(POLL_MS)) {
    const rows = await root.call<Row[]>('GET', '/instances')
    const row = rows.find(({ id }) => id === instance)
    if (row === undefined) throw new MeshError('INSTANCE_UNKNOWN', { instance, reason: 'it was removed meanwhile' })
    if (row.node === node && (row.epoch ?? 0) >= epoch && row.successor === undefined) return
    if (row.successor !== undefined) last = row.successor.detail ?? `it was ${row.successor.state} there`
    else if (last !== undefined)
      throw new MeshError('UNPLACEABLE', {
        instance,
        node,
        reason: `it did not get ready on ${node}, and stays on ${row.node ?? '?'} (${last})`,
      })
  }
  throw new MeshError('REQUEST_TIMEOUT', { peer: node, ms: limitMs, reason: last ?? 'it has not started there' })
}
