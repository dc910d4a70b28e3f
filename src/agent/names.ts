import { Resolver, type ResolverOptions } from '../../resolver/server.ts'
import { type Caller, NODE_CALLER } from '../../proxy/flow/flow.ts'
import { maySee } from '../../proxy/decide/may-see.ts'
import { previewChoice } from '../../proxy/decide/plan.ts'
import type { OutboundParts } from '../../proxy/outbound/outbound.ts'
import type { CallerFinder } from '../../proxy/intercept/caller.ts'
import type { CallerEnd } from '../../proxy/intercept/interceptor.ts'
import type { BeforeForwarded, MaySee, Prepare } from '../../resolver/responder.ts'
import type { Client } from '../../resolver/tcp-listener.ts'
import { join } from 'node:path'
import { unmapped } from '../core/kit/host-port.ts'
import { localUsers } from '../core/kit/local-users.ts'
import { KeptFile } from '../core/kit/kept-file.ts'
import { isMeshError } from '../core/errors.ts'
import { RESOLVER_VIP, vipToIPv4 } from '../core/model/address.ts'
import type { TableView, Target } from '../core/table/view.ts'
import type { Flows } from './flows.ts'
import type { Instances } from './instances.ts'
import type { AgentContext } from './context.ts'
import type { TableSync } from './table-sync.ts'
import type { NodeIdentity } from './node-identity.ts'
import { rememberedServers } from './remembered-servers.ts'

/** Opens the resolver, after everything that its answers lead to. `prepare` opens the listeners of a name before its answer leaves. */
export async function serveNames(
  { life, dir, clock, config, log, metrics, predecessor }: AgentContext,
  { vips }: NodeIdentity,
  { table, interests }: TableSync,
  {
    parts: flowParts,
    intercept,
    prepare,
    maySee,
    beforeForwarded,
  }: Pick<Flows, 'parts' | 'intercept'> & { prepare: Prepare; maySee: MaySee; beforeForwarded: BeforeForwarded },
): Promise<Resolver> {
  const { resolver, zones } = config
  const { upstreams, ttlSeconds, negativeTtlSeconds } = resolver
  const options: Omit<ResolverOptions, 'listen'> = {
    table,
    interests,
    range: vips,
    zones,
    ttlSeconds,
    negativeTtlSeconds,
    remembered: rememberedServers(life.use(new KeptFile(join(dir, 'upstreams.json'), log, clock))),
    sources: intercept.sources,
    explainChoice: (target: Target) => describeChoice(target, flowParts),
    prepare,
    maySee,
    beforeForwarded,
    ...(upstreams.length === 0 ? {} : { upstreams }),
  }
  const listen = { host: vipToIPv4(vips, RESOLVER_VIP), isBeside: predecessor !== undefined }
  const start = (port: number) =>
    Resolver.start({ ...options, listen: { ...listen, port } }, log.child({ part: 'resolver' }), metrics)
  const wanted = resolver.port || predecessor?.resolverPort
  return life.use(await (wanted === undefined ? onStandardPort(start) : start(wanted)))
}

/** As callers are: by address, user or process. A stub of the machine that asks for others is a program of the node. */
export function maySeeWith(callers: Pick<CallerFinder, 'maySee'>, table: Pick<TableView, 'entry'>): MaySee {
  return (from, services) => {
    const sees = (caller: Caller) => services.some((service) => maySee(caller, service, table))
    return callers.maySee(endOf(from), sees)
  }
}

/** As the program that asks sees it. */
function endOf({ address, port, connection }: Client): CallerEnd {
  if (connection === undefined) return { protocol: 'udp', address: unmapped(address), port }
  const { localAddress = '', localPort = 0, remoteAddress = '', remotePort = 0 } = connection
  return {
    protocol: 'tcp',
    local: { address: unmapped(remoteAddress), port: remotePort },
    remote: { address: unmapped(localAddress), port: localPort },
  }
}

/** Closed instances may call the host names of their documents: by the addresses of the answers to their own questions. */
export function beforeForwardedTo({ containers: { guard }, programGuard }: Instances): BeforeForwarded {
  return ({ address, port, connection }, name) => {
    const opens = guard?.namedBy(unmapped(address), name)
    if (opens !== undefined || !programGuard.isNamed(name)) return opens
    const ends = connection ?? { protocol: 'udp', remoteAddress: address, remotePort: port }
    return async (found) => {
      const uid = await localUsers.userOf(ends)
      if (uid !== undefined) await programGuard.answered(uid, name, found)
    }
  }
}

/** Port 53 where that is permitted and free, else 5353. */
async function onStandardPort(start: (port: number) => Promise<Resolver>): Promise<Resolver> {
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
