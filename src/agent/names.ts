import { Resolver, type ResolverOptions } from '../../resolver/server.ts'
import type { Balancer } from '../../proxy/policies/index.ts'
import type { AgentConfig } from '../config.ts'
import { isMeshError } from '../core/errors.ts'
import type { Log } from '../core/kit/log.ts'
import type { Metrics } from '../core/metrics.ts'
import { RESOLVER_VIP, vipToIPv4, type VipRange } from '../core/model/address.ts'
import type { TableView, Target } from '../core/table/view.ts'
import type { Flows } from './flows.ts'
import type { AgentContext } from './context.ts'
import type { TableSync } from './table-sync.ts'
import type { NodeIdentity } from './node-identity.ts'

/** Names, last of all: what is answered can be served. `touch` binds the listeners of a name before its answer leaves. */
export async function serveNames(
  { life, self, config, log, metrics, predecessor }: AgentContext,
  { vips }: NodeIdentity,
  { table, interests }: TableSync,
  { peek }: Flows,
  touch: (target: Target) => void,
): Promise<Resolver> {
  const parts = {
    table,
    interests,
    explainChoice: (target: Target) => describeChoice(target, table, peek, self),
    onAnswered: touch,
  }
  return life.use(
    await startResolver(config, predecessor?.resolverPort, vips, parts, log.child({ part: 'resolver' }), metrics),
  )
}

/** Port 53 where it may, else 5353; a configured port or nothing; that of the agent before, beside it. */
async function startResolver(
  { resolver, zones }: AgentConfig,
  elderPort: number | undefined,
  range: VipRange,
  parts: Pick<ResolverOptions, 'table' | 'interests' | 'explainChoice' | 'onAnswered'>,
  log: Log,
  metrics: Metrics,
): Promise<Resolver> {
  const { port, upstreams, ttlSeconds, negativeTtlSeconds } = resolver
  const host = vipToIPv4(range, RESOLVER_VIP)
  const start = (on: number) =>
    Resolver.start(
      {
        ...parts,
        range,
        zones,
        ttlSeconds,
        negativeTtlSeconds,
        listen: { host, port: on, isBeside: elderPort !== undefined },
        ...(upstreams.length === 0 ? {} : { upstreams }),
      },
      log,
      metrics,
    )
  if (port !== 0) return start(port)
  if (elderPort !== undefined) return start(elderPort)
  try {
    return await start(53)
  } catch (error) {
    if (!isMeshError(error, 'LISTEN_FAILED')) throw error
    return start(5353)
  }
}

/** For TXT: the instances in the order they would be tried, then the others and why not. */
function describeChoice(target: Target, table: TableView, peek: Balancer, caller: string): string[] {
  const entry = table.entry(target.service.id)
  if (entry === undefined) return []
  const { instances } = peek.order(target, entry, caller, entry.instances.length)
  const others = entry.instances.filter((instance) => !instances.includes(instance))
  return [...instances, ...others].map(({ ordinal, node, state }) => `${ordinal} ${node} ${state}`)
}
