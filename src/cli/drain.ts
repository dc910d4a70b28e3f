import type { Command } from 'commander'
import { setTimeout as sleep } from 'node:timers/promises'
import type { RootClient } from '../client/root-client.ts'
import { isMeshError, MeshError } from '../core/errors.ts'
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
/** The root hears from clusters a moment later: so many times it is asked where the last ones went, once the node is empty. */
const MOST_LOOKS = 20

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
      const isQuiet = isData(context())
      const moved = await watchDrain(root, {
        node,
        begun,
        limitMs,
        print: isQuiet ? () => undefined : note,
        progress: isQuiet ? () => undefined : progress,
      })
      if (isQuiet) return printData({ node, moved }, context())
      say(`${node} is drained: ${moved.length} moved`)
    })
}

interface Watched {
  node: string
  begun: DrainStatus
  limitMs: number
  /** A line of what has happened. */
  print: (line: string) => void
  /** How far it is. */
  progress: (line: string) => void
  pollMs?: number
}

/**
 * Waits until nothing runs there. Each instance that has left is told with where it is then, also if it moved between two looks.
 * @throws MeshError DRAIN_INCOMPLETE with what is left, and why
 */
export async function watchDrain(
  root: Pick<RootClient, 'ask'>,
  { node, begun, limitMs, print, progress, pollMs = POLL_MS }: Watched,
): Promise<string[]> {
  const once = onceEach(print)
  const all = new Set(begun.left.map(({ instance }) => instance))
  const placed = new Set<string>()
  once(`${node} is cordoned: ${all.size} to move`)
  let looksWhenEmpty = 0
  for (const endAt = performance.now() + limitMs; ; await sleep(pollMs)) {
    const status = await root.ask('GET', '/v1/nodes/{cluster}/{node}/drain', { path: nodePath(node) })
    if (!status.isDraining) throw new MeshError('DRAIN_INCOMPLETE', { node, reason: 'somebody has uncordoned it' })
    for (const { instance, state, to, why } of status.left) {
      all.add(instance)
      placed.delete(instance) // it is back: what it moved to did not last
      if (state === 'moving' && to !== undefined) once(`${instance} moves to ${to}`)
      else if (why !== undefined) once(`${instance} ${state === 'stays' ? 'stays' : 'waits'}: ${why}`)
    }
    const here = new Set(status.left.map(({ instance }) => instance))
    const moved = [...all].filter((instance) => !here.has(instance))
    const unknown = moved.filter((instance) => !placed.has(instance))
    for (const [instance, line] of await Promise.all(unknown.map((instance) => whereNow(root, { instance, node })))) {
      if (line === undefined) continue
      placed.add(instance)
      once(line)
    }
    progress(`${moved.length} of ${all.size} have left, ${status.leaving} finish their flows …`)
    const isEmpty = status.left.length === 0 && status.leaving === 0
    looksWhenEmpty = isEmpty ? looksWhenEmpty + 1 : 0
    if (isEmpty && (moved.every((instance) => placed.has(instance)) || looksWhenEmpty > MOST_LOOKS)) return moved
    const isStuck =
      status.leaving === 0 && status.left.length > 0 && status.left.every(({ state }) => state === 'stays')
    if (isStuck || (!isEmpty && performance.now() > endAt)) throw incomplete(node, status)
  }
}

function onceEach(print: (line: string) => void): (line: string) => void {
  const told = new Set<string>()
  return (line) => {
    if (!told.has(line)) print(line)
    told.add(line)
  }
}

/** One that has left; without a line as long as the root has not heard where it went. */
async function whereNow(
  root: Pick<RootClient, 'ask'>,
  { instance, node }: { instance: string; node: string },
): Promise<[instance: string, line: string | undefined]> {
  try {
    const { node: place, state } = await root.ask('GET', '/v1/instances/{name}', { path: { name: instance } })
    if (place !== undefined && place !== node) return [instance, `${instance} is on ${place}`]
    return [instance, state === 'stopped' || state === 'failed' ? `${instance} has ended` : undefined]
  } catch (error) {
    if (!isMeshError(error, 'INSTANCE_UNKNOWN')) throw error
    return [instance, `${instance} was removed meanwhile`]
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
