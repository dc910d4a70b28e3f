import { setTimeout as sleep } from 'node:timers/promises'
import { isMeshError } from '../../../src/core/errors.ts'
import type { Lifetime } from '../../../src/core/kit/lifetime.ts'
import { monotonicMs, SimulatedNode } from './simulated-node.ts'

export type CrowdCalls = ReturnType<typeof crowdCalls>

export interface Newcomer {
  name: string
  token: string
}

/** Nodes that join at the same time, of up to four such processes: more would only wait for each other, and beyond ten seconds in vain. */
const JOIN_AT_ONCE = 8
/** Whoever does not get through tries again, as a supervisor has agents do. */
const JOIN_TRIES = 20

/** Many simulated nodes in one process. */
export function crowdCalls(life: Lifetime) {
  const nodes: SimulatedNode[] = []
  const arrivals: number[] = []
  return {
    /** Resolves when all of them are linked. */
    async join(newcomers: readonly Newcomer[], capacity: { memoryMb: number }): Promise<void> {
      const waiting = [...newcomers]
      const joinOne = async () => {
        for (let next = waiting.shift(); next !== undefined; next = waiting.shift())
          nodes.push(life.use(await joined({ ...next, ...capacity })))
      }
      await Promise.all(Array.from({ length: JOIN_AT_ONCE }, joinOne))
      for (const node of nodes) await node.linked()
    },
    running: () => nodes.reduce((sum, { running }) => sum + running, 0),
    assigned: () => nodes.reduce((sum, { assigned }) => sum + assigned, 0),
    /** Every node follows the services under this key; when each change arrived is kept. */
    async follow(key: string): Promise<void> {
      await Promise.all(nodes.map((node) => node.follow(key, () => arrivals.push(monotonicMs()))))
    },
    takeArrivals: () => arrivals.splice(0),
    /** An instance of this process is not ready, or ready again. When it was said; `undefined`: it is not here. */
    say(instance: string, isReady: boolean): number | undefined {
      const node = nodes.find((each) => each.has(instance))
      node?.say(instance, isReady ? 'running' : 'starting')
      return node === undefined ? undefined : monotonicMs()
    },
    isUp: () => true,
  }
}

async function joined(options: Parameters<typeof SimulatedNode.join>[0], tries = JOIN_TRIES): Promise<SimulatedNode> {
  try {
    return await SimulatedNode.join(options)
  } catch (error) {
    if (tries <= 1 || !isMeshError(error, 'NOT_RUNNING')) throw error
    await sleep(500 + Math.random() * 500)
    return joined(options, tries - 1)
  }
}
