import type { Command } from 'commander'
import { setTimeout as sleep } from 'node:timers/promises'
import type { RootClient } from '../client/root-client.ts'
import { MeshError } from '../core/errors.ts'
import { rootClient, type Context } from './context.ts'
import { secondsOf } from './duration.ts'
import { nodeNamed, nodePath } from './names.ts'
import { isData, printData } from './output.ts'
import { progress, say, note } from './terminal.ts'

interface DrainStatus {
  isDraining: boolean
  left: { instance: string; state: 'moving' | 'waiting' | 'stays'; to?: string; why?: string }[]
  leaving: number
}

interface DrainOptions {
  timeout: string
  force?: boolean
  reason?: string
}

const POLL_MS = 250

export function drainCommand(program: Command, context: () => Context): void {
  program
    .command('drain')
    .description(
      'cordon a node and move everything that runs there to other nodes, of another cluster where its own has no room: each instance starts elsewhere, takes over when it is ready, and then ends here, so that no call fails. It stays cordoned until `uncordon`',
    )
    .argument('<node>', 'cluster/node, or the name of the node where that is unambiguous')
    .option('--timeout <duration>', 'how long to wait, in seconds, or for example 30m or 1h', '10m')
    .option('--force', 'also move what leaves storage or volumes behind on the node')
    .option('--reason <text>', 'for others who see it in `hedgerow get nodes`')
    .action(async (given: string, { timeout, force, reason }: DrainOptions) => {
      const limitMs = secondsOf(timeout, '--timeout') * 1_000
      const root = rootClient(context())
      const node = await nodeNamed(root, given)
      const body = { ...(force === true ? { force } : {}), ...(reason === undefined ? {} : { reason }) }
      const begun = await root.ask('POST', '/v1/nodes/{cluster}/{node}/drain', { path: nodePath(node), body })
      const moved = await watch(root, { node, begun, limitMs, isQuiet: isData(context()) })
      if (isData(context())) return printData({ node, moved }, context())
      say(`${node} is drained: ${moved.length} moved`)
    })
}

interface Watched {
  node: string
  begun: DrainStatus
  limitMs: number
  /** No progress on standard error. */
  isQuiet: boolean
}

/** Waits until nothing runs there. @throws MeshError DRAIN_INCOMPLETE with what is left, and why */
async function watch(root: RootClient, { node, begun, limitMs, isQuiet }: Watched): Promise<string[]> {
  const told = new Set<string>()
  const print = (line: string) => {
    if (!isQuiet && !told.has(line)) note(line)
    told.add(line)
  }
  let status = begun
  const all = new Set(begun.left.map(({ instance }) => instance))
  const moved = () => [...all].filter((instance) => !status.left.some((each) => each.instance === instance))
  print(`${node} is cordoned: ${all.size} to move`)
  for (const endAt = performance.now() + limitMs; ; await sleep(POLL_MS)) {
    status = await root.ask('GET', '/v1/nodes/{cluster}/{node}/drain', { path: nodePath(node) })
    if (!status.isDraining) throw new MeshError('DRAIN_INCOMPLETE', { node, reason: 'somebody has uncordoned it' })
    for (const { instance, state, to, why } of status.left) {
      all.add(instance)
      if (state === 'moving' && to !== undefined) print(`${instance} moves to ${to}`)
      else if (why !== undefined) print(`${instance} ${state === 'stays' ? 'stays' : 'waits'}: ${why}`)
    }
    for (const instance of moved()) print(`${instance} is away`)
    if (!isQuiet) progress(`${moved().length} of ${all.size} are away, ${status.leaving} finish their flows …`)
    if (status.left.length === 0 && status.leaving === 0) return moved()
    const isStuck = status.leaving === 0 && status.left.every(({ state }) => state === 'stays')
    if (isStuck || performance.now() > endAt) throw incomplete(node, status)
  }
}

function incomplete(node: string, { left, leaving }: DrainStatus): MeshError {
  const faults = left.map(({ instance, state, to, why }) => ({
    path: instance,
    problem: why ?? (state === 'moving' ? `its successor on ${to ?? '?'} is not ready yet` : 'it waits for its turn'),
  }))
  const finishing = leaving === 0 ? [] : [{ path: node, problem: `${leaving} finish their flows` }]
  return new MeshError('DRAIN_INCOMPLETE', {
    node,
    faults: [...faults, ...finishing],
    remedy: 'It stays cordoned, and what can move goes on moving; `hedgerow uncordon` ends that.',
  })
}
