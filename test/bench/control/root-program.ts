import { silentLog } from '../../../src/core/kit/log.ts'
import type { Lifetime } from '../../../src/core/kit/lifetime.ts'
import { openMetrics } from '../../../src/core/metrics.ts'
import { Root } from '../../../src/orchestrator/root/root.ts'
import { LoopWatch } from './loop-watch.ts'

export type RootCalls = ReturnType<typeof rootCalls>

export function rootCalls(life: Lifetime) {
  const blocks = life.use(new LoopWatch())
  let root: Root | undefined
  return {
    async start(options: { dir: string; port: number }): Promise<void> {
      const { dir, port } = options
      root = life.use(await Root.start({ dir, listen: { host: '127.0.0.1', port } }, silentLog, openMetrics('root')))
    },
    clusterToken: (name: string) => root?.clusterToken(name) ?? '',
    linkedClusters: () => root?.linkedClusters.length ?? 0,
    longestBlockMs: () => blocks.take(),
  }
}
