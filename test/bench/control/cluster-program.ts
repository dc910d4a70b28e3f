import { setImmediate as nextTurn } from 'node:timers/promises'
import { defaults } from '../../../src/config/defaults.ts'
import { silentLog } from '../../../src/core/kit/log.ts'
import type { Lifetime } from '../../../src/core/kit/lifetime.ts'
import { openMetrics } from '../../../src/core/metrics.ts'
import { Cluster } from '../../../src/orchestrator/cluster/cluster.ts'
import type { AcceptRelayed } from '../../../src/orchestrator/cluster/routes.ts'
import { Relay } from '../../../proxy/relay/server.ts'
import { relayLimits } from '../../../src/roles/relay-limits.ts'
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
      const metrics = openMetrics('cluster')
      // else the agents would dial it again and again
      const relay = life.use(Relay.create(relayLimits(defaults(name).cluster.relayLimits), silentLog, metrics))
      const onRelay: AcceptRelayed = (request, socket, head, principal) =>
        relay.upgrade(request, socket, head, principal)
      cluster = life.use(await Cluster.start({ dir, name, token, listen, onRelay }, silentLog, metrics))
      return { port: Number(new URL(cluster.url).port) }
    },
    /** One in a turn, as people ask for them. */
    async tokens(count: number): Promise<string[]> {
      const tokens: string[] = []
      while (tokens.length < count) {
        tokens.push(cluster?.nodeToken() ?? '')
        await nextTurn()
      }
      return tokens
    },
    nodes: () => cluster?.aliveNodes.length ?? 0,
    isLinked: () => cluster?.isLinked === true,
    longestBlockMs: () => blocks.take(),
  }
}
