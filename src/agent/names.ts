import { Resolver, type ResolverOptions } from '../../resolver/server.ts'
import { NODE_CALLER } from '../../proxy/flow/flow.ts'
import { previewChoice } from '../../proxy/decide/plan.ts'
import type { OutboundParts } from '../../proxy/outbound/outbound.ts'
import type { Prepare } from '../../resolver/responder.ts'
import type { AgentConfig } from '../config.ts'
import { isMeshError } from '../core/errors.ts'
import type { Log } from '../core/kit/log.ts'
import type { Metrics } from '../core/metrics.ts'
import { RESOLVER_VIP, vipToIPv4, type VipRange } from '../core/model/address.ts'
import type { Target } from '../core/table/view.ts'
import type { Flows } from './flows.ts'
import type { AgentContext } from './context.ts'
import type { TableSync } from './table-sync.ts'
import type { NodeIdentity } from './node-identity.ts'

/** Names, last of all: what is answered can be served. `prepare` opens the listeners of a name before its answer leaves. */
export async function serveNames(
  { life, config, log, metrics, predecessor }: AgentContext,
  { vips }: NodeIdentity,
  { table, interests }: TableSync,
  { parts: flowParts, intercept }: Flows,
  prepare: Prepare,
): Promise<Resolver> {
  const parts = {
    table,
    interests,
    explainChoice: (target: Target) => describeChoice(target, flowParts),
    prepare,
    sources: intercept.sources,
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
  parts: Pick<ResolverOptions, 'table' | 'interests' | 'explainChoice' | 'prepare' | 'sources'>,
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

/** For TXT: the instances in the order in which the next flow would try them, then those it would not try. */
function describeChoice(target: Target, parts: OutboundParts): string[] {
  const { instances } = previewChoice(target, NODE_CALLER, parts)
  const all = parts.table.entry(target.service.id)?.instances ?? []
  const others = all.filter((instance) => !instances.includes(instance))
  return [...instances, ...others].map(({ ordinal, node, state }) => `${ordinal} ${node} ${state}`)
}
