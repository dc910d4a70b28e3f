import { FlowBook } from '../../proxy/flow-book.ts'
import type { Caller, Flow } from '../../proxy/flow.ts'
import { INBOUND_LIMITS } from '../../proxy/inbound.ts'
import { CallerFinder } from '../../proxy/intercept/caller.ts'
import { HostInterceptor } from '../../proxy/intercept/host.ts'
import { HttpInterceptor } from '../../proxy/intercept/http.ts'
import type { InterceptParts } from '../../proxy/intercept/interceptor.ts'
import { LoopbackInterceptor } from '../../proxy/intercept/loopback.ts'
import { SocksInterceptor } from '../../proxy/intercept/socks.ts'
import { outbound, OUTBOUND_LIMITS, type OutboundParts } from '../../proxy/outbound.ts'
import { createBalancer, type Balancer } from '../../proxy/policies/index.ts'
import { isMeshError } from '../errors.ts'
import { interestOf, type InstanceId, type NodeId } from '../model/ids.ts'
import { ProxyAccess } from '../proxies.ts'
import type { Ground } from './ground.ts'
import type { Knowledge } from './knowledge.ts'
import type { Member } from './member.ts'
import type { Reach } from './reach.ts'
import type { InstancesHere } from './work.ts'

/*
 * How flows come in, and where they go. Wired here: the book of flows, the policies, what `outbound` needs, and the
 * doors: SOCKS and HTTP by name, loopback or host mode by VIP.
 */

export interface Flows {
  readonly book: FlowBook
  readonly parts: OutboundParts
  /** What every interceptor is given. */
  readonly intercept: InterceptParts
  /** A balancer with turns of its own, so that looking does not move the round on. */
  readonly peek: Balancer
}

export async function openFlows(
  { self, config, clock, log, metrics }: Ground,
  { own }: Member,
  { table, interests }: Knowledge,
  { peers, addressOf, introduced }: Reach,
  here: InstancesHere,
): Promise<Flows> {
  const book = await FlowBook.start({ drainMs: config.drainSeconds * 1_000 }, clock, metrics)
  const measures = {
    rttMs: (node: NodeId) => peers.rttMs(node),
    isHere: (node: NodeId) => node === self,
    openFlows: (instance: InstanceId) => book.openFlows(instance),
  }
  const fromOf = (caller: Caller): string | undefined => {
    if (caller.kind === 'node') return undefined
    const address = addressOf(caller.id)
    if (address === undefined) interests.wish([interestOf(caller.service)]) // its VIP, for the next flow
    return address
  }
  const parts: OutboundParts = {
    table,
    peers,
    self,
    endpointOf: here.endpointOf,
    clock,
    dial: (request) => ({
      timeoutMs: INBOUND_LIMITS.dialMs,
      forbids: own.forbids,
      from: fromOf(request.caller),
      introduce: (localPort) => introduced(request, { peer: self, localPort }),
    }),
    balancer: createBalancer(measures),
    book,
    limits: { ...OUTBOUND_LIMITS, maxFlows: config.maxFlows },
    log,
    metrics,
  }
  const intercept = { table, clock, log, metrics, onFlow: (flow: Flow) => void outbound(flow, parts) }
  return { book, parts, intercept, peek: createBalancer(measures) }
}

/** The SOCKS and HTTP proxies, on the ports of last time: instances that outlived the agent still use those. */
export interface Doors {
  readonly access: ProxyAccess
  readonly ports: { readonly socksPort: number; readonly httpPort: number }
}

export async function openDoors(
  { life, dir, config }: Ground,
  { vips, loopback }: Member,
  { interests }: Knowledge,
  { intercept }: Flows,
  here: InstancesHere,
): Promise<Doors> {
  const access = ProxyAccess.open(dir)
  const naming = {
    ...intercept,
    interests,
    zones: config.zones,
    ranges: [vips, loopback],
    credentials: (user: string) => (user === 'node' || here.has(user) ? access.secretOf(user) : undefined),
  }
  const socks = life.use(
    await onPort(config.socksPort, access.socksPort, (port) => SocksInterceptor.start({ port }, naming)),
  )
  const http = life.use(
    await onPort(config.httpPort, access.httpPort, (port) => HttpInterceptor.start({ port }, naming)),
  )
  const ports = { socksPort: socks.port, httpPort: http.port }
  await access.keep(ports)
  return { access, ports }
}

/** The listeners on VIPs. */
export async function interceptVips(
  { life, config }: Ground,
  { vips }: Member,
  { intercept }: Flows,
  here: InstancesHere,
): Promise<HostInterceptor | Awaited<ReturnType<typeof LoopbackInterceptor.start>>> {
  const callers = new CallerFinder(() => here.processes())
  return life.use(
    config.mode === 'host'
      ? await HostInterceptor.start({ range: vips }, callers.identify, intercept)
      : await LoopbackInterceptor.start({ range: vips }, callers.identify, intercept),
  )
}

/** The configured port, or the one from last time, or any when that is taken. */
async function onPort<T>(configured: number, lastTime: number, start: (port: number) => Promise<T>): Promise<T> {
  if (configured !== 0 || lastTime === 0) return start(configured)
  try {
    return await start(lastTime)
  } catch (error) {
    if (!isMeshError(error, 'LISTEN_FAILED')) throw error
    return start(0)
  }
}
