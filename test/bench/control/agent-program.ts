import { join } from 'node:path'
import { Agent } from '../../../src/agent/agent.ts'
import { askAgent } from '../../../src/agent/local-api.ts'
import type { ResolveReport } from '../../../src/client/reports.ts'
import { defaults } from '../../../src/config/defaults.ts'
import { resolveConfig } from '../../../src/config/resolve.ts'
import { silentLog } from '../../../src/core/kit/log.ts'
import type { Lifetime } from '../../../src/core/kit/lifetime.ts'
import { LoopWatch } from './loop-watch.ts'

export interface AgentSettings {
  dir: string
  name: string
  token: string
  listen: string
  memoryMb?: number
}

export type AgentCalls = ReturnType<typeof agentCalls>

/** An agent as it is. */
export function agentCalls(life: Lifetime) {
  const blocks = life.use(new LoopWatch())
  let state = ''
  return {
    async start({ dir, name, token, ...settings }: AgentSettings): Promise<void> {
      const config = resolveConfig(defaults(name), { agent: settings })
      life.use(await Agent.start({ dir, config: config.agent, version: '0.0.0', token }, silentLog))
      state = dir
    },
    /** The address of a name, on this node. */
    async resolve(name: string): Promise<string> {
      return ((await askAgent(join(state, 'agent.sock'), '/resolve', { name })) as ResolveReport).ipv4
    },
    longestBlockMs: () => blocks.take(),
    pauseWatch: () => blocks.pause(),
    resumeWatch: () => blocks.resume(),
  }
}
