import { Agent } from '../../../src/agent/agent.ts'
import { defaults } from '../../../src/config/defaults.ts'
import { resolveConfig } from '../../../src/config/resolve.ts'
import { silentLog } from '../../../src/core/kit/log.ts'
import type { Lifetime } from '../../../src/core/kit/lifetime.ts'
import { LoopWatch } from './loop-watch.ts'

export type AgentCalls = ReturnType<typeof agentCalls>

/** An agent as it is. */
export function agentCalls(life: Lifetime) {
  const blocks = life.use(new LoopWatch())
  return {
    async start({ dir, name, token, port }: { dir: string; name: string; token: string; port: number }): Promise<void> {
      const config = resolveConfig(defaults(name), { agent: { listen: `127.0.0.1:${port}` } })
      life.use(await Agent.start({ dir, config: config.agent, version: '0.0.0', token }, silentLog))
    },
    longestBlockMs: () => blocks.take(),
    pauseWatch: () => blocks.pause(),
    resumeWatch: () => blocks.resume(),
  }
}
