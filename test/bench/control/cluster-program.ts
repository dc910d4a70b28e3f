import { silentLog } from '../../../src/core/kit/log.ts'
import type { Lifetime } from '../../../src/core/kit/lifetime.ts'
import { openMetrics } from '../../../src/core/metrics.ts'
import { Cluster } from '../../../src/orchestrator/cluster/cluster.ts'
import { LoopWatch } from './loop-watch.ts'

export type ClusterCalls = ReturnType<typeof clusterCalls>

export function clusterCalls(life: Lifetime) {
  const blocks = life.use(new LoopWatch())
  let cluster: Cluster | undefined
  return {
    async start(options: { dir: string; name: string; token: string; isWatched: boolean }): Promise<{ port: number }> {
      const { dir, name, token, isWatched } = options
      if (!isWatched) blocks.pause()
      const listen = { host: '127.0.0.1', port: 0 }
      const refuse = (_request: unknown, socket: { destroy(): void }) => socket.destroy()
      const parts = { dir, name, token, listen, onRelay: refuse }
      cluster = life.use(await Cluster.start(parts, silentLog, openMetrics('cluster')))
      return { port: Number(new URL(cluster.url).port) }
    },
    tokens: (count: number) => Array.from({ length: count }, () => cluster?.nodeToken() ?? ''),
    nodes: () => cluster?.aliveNodes.length ?? 0,
    isLinked: () => cluster?.isLinked === true,
    longestBlockMs: () => blocks.take(),
  }
}
