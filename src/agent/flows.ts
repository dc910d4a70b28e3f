import { DATAGRAM_LIMITS, DatagramFlows } from '../../proxy/datagrams/outbound.ts'
import type { DatagramParts } from '../../proxy/datagrams/udp-flow.ts'
import { FlowLedger, type LedgerParts } from '../../proxy/flow/ledger.ts'
import type { FlowSpans } from '../../proxy/flow/spans.ts'
import type { Caller, Flow } from '../../proxy/flow/flow.ts'
import { flowRules } from '../../proxy/decide/flow-rules.ts'
import { INBOUND_LIMITS } from '../../proxy/inbound/inbound.ts'
import { Gateway } from '../../proxy/gateway/gateway.ts'
import type { GatewayPort, GatewayTarget } from '../../proxy/gateway/rules.ts'
import { CallerFinder } from '../../proxy/intercept/caller.ts'
import { HostInterceptor } from '../../proxy/intercept/host.ts'
import { whyNoIPv6 } from '../../proxy/intercept/host-ipv6.ts'
import { HttpInterceptor } from '../../proxy/intercept/http.ts'
import type { InterceptParts, Interceptor } from '../../proxy/intercept/interceptor.ts'
import { LoopbackInterceptor } from '../../proxy/intercept/loopback.ts'
import { systemNft } from '../../proxy/intercept/nft.ts'
import { SocksInterceptor } from '../../proxy/intercept/socks.ts'
import { OUTBOUND_LIMITS } from '../../proxy/outbound/establish.ts'
import { UserLimits } from '../../proxy/flow/user-limits.ts'
import { outbound, type OutboundParts } from '../../proxy/outbound/outbound.ts'
import { createBalancer } from '../../proxy/policies/index.ts'
import { Outliers } from '../../proxy/decide/outliers.ts'
import { PenaltyList } from '../../proxy/decide/penalty-list.ts'
import { KeyedSemaphore } from '../core/kit/keyed-semaphore.ts'
import { hostPort } from '../config/host-port.ts'
import type { GatewayPortConfig } from '../config/schema.ts'
import { isMeshError } from '../core/errors.ts'
import { join } from 'node:path'
import { KeptFile } from '../core/kit/kept-file.ts'
import { LocalSources } from '../core/kit/local-sources.ts'
import { cidrsOf } from '../core/model/address.ts'
import { interestOf, type InstanceId, type NodeId } from '../core/model/ids.ts'
import { ProxyAccess } from './proxy-access.ts'
import { bootId } from '../orchestrator/worker/process-group.ts'
import type { AgentContext } from './context.ts'
import type { TableSync } from './table-sync.ts'
import type { NodeIdentity } from './node-identity.ts'
import type { Connectivity } from './connectivity.ts'
import type { KeptVips } from './kept-vips.ts'
import type { Instances, LocalInstances } from './instances.ts'
import { background } from '../core/kit/background.ts'

/*
 * How flows come in, and where they go: the ledger of flows, the policies, what `outbound` needs, and the listeners:
 * SOCKS and HTTP proxies for flows by name, loopback or host mode for flows by VIP.
 */

export interface Flows {
  readonly ledger: FlowLedger
  readonly parts: OutboundParts
  /** What every interceptor is given. */
  readonly intercept: InterceptParts & { readonly sources: LocalSources }
}

/** UDP flows are at most one in so many of the files that flows may open, since one user may have them all. Smaller: it can leave less. */
const DATAGRAM_SHARE = 8

export async function openFlows(
  context: AgentContext,
  identity: NodeIdentity,
  sync: TableSync,
  {
    connectivity,
    instances,
    spans,
    flowLog,
  }: {
    connectivity: Connectivity
    instances: LocalInstances
    spans: FlowSpans | undefined
    flowLog: LedgerParts['flowLog']
  },
): Promise<Flows> {
  const { life, config, clock, log, metrics } = context
  const { vips, loopback } = identity
  const { table } = sync
  const { descriptors } = connectivity.callers
  const ledger = life.use(await FlowLedger.start({ drainMs: 0 }, { clock, log, metrics, spans, flowLog })) // `Shutdown` has waited
  const parts = outboundParts(context, identity, sync, { connectivity, instances, ledger })
  const onFlow = (flow: Flow) => void background.run('flow', () => outbound(flow, parts))
  const sources = new LocalSources(log, {
    ranges: [...cidrsOf(vips), ...cidrsOf(loopback)],
    interfaces: [...config.interceptInterfaces, ...instances.containers.interfaces],
    clock,
  })
  const isHere = (address: string) => sources.isHere(address)
  const capacity = Math.min(config.maxFlows, descriptors.usable)
  const userLimits = new UserLimits({ capacity, log, isHere })
  const maxFlows = Math.min(DATAGRAM_LIMITS.maxFlows, Math.floor(descriptors.usable / DATAGRAM_SHARE))
  const limits = { ...DATAGRAM_LIMITS, maxFlows, idleMs: config.udpIdleSeconds * 1_000 }
  const datagrams = life.use(await DatagramFlows.start(limits, { ...parts, isHere }))
  const onDatagramClient = datagrams.begin
  const intercept = { table, sources, userLimits, descriptors, clock, log, metrics, onFlow, onDatagramClient }
  return { ledger, parts, intercept }
}

function outboundParts(
  { self, config, clock, log, metrics }: AgentContext,
  { own }: NodeIdentity,
  { table, interests }: TableSync,
  { connectivity, instances, ledger }: { connectivity: Connectivity; instances: LocalInstances; ledger: FlowLedger },
): DatagramParts {
  const { peers, coordinates, endpoint, callers } = connectivity
  const addressOfCaller = (caller: Caller): string | undefined => {
    if (caller.kind === 'node') return undefined
    const address = callers.addressOf(caller.id)
    if (address === undefined) interests.wish([interestOf(caller.service)]) // its VIP, for the next flow
    return address
  }
  return {
    table,
    peers,
    self,
    endpointOf: (instance, port, protocol) => instances.endpointOf(instance, port, protocol),
    clock,
    dial: (request) => ({
      timeoutMs: INBOUND_LIMITS.dialMs,
      forbids: own.forbids,
      from: addressOfCaller(request.caller),
      introduce: (localPort) => callers.introduce(request, { peer: self, localPort }),
    }),
    ruleOf: flowRules(endpoint.rule, table),
    balancer: createBalancer({
      rttMs: (node: NodeId) => peers.rttMs(node) ?? coordinates.estimateMs(node),
      isHere: (node: NodeId) => node === self,
      openFlows: (instance: InstanceId) => ledger.openFlows(instance),
    }),
    ledger,
    openings: new KeyedSemaphore(OUTBOUND_LIMITS.opening),
    outliers: new Outliers(),
    penalties: new PenaltyList(clock),
    descriptors: callers.descriptors,
    memory: callers.memory,
    earlyData: config.earlyData,
    limits: { ...OUTBOUND_LIMITS, maxFlows: config.maxFlows },
    log,
    metrics,
  }
}

/** The ports that lead callers from outside to services. A successor opens them late, when it can serve. */
export interface GatewayPorts {
  /** Absent until it is open. */
  readonly gateway: Gateway | undefined
  readonly open: () => Promise<void>
  readonly close: () => Promise<void>
}

export function prepareGateway(
  { life, config, predecessor }: AgentContext,
  { vips, loopback }: NodeIdentity,
  { interests }: TableSync,
  { intercept }: Flows,
): GatewayPorts {
  const { ports, ...limits } = config.gateway
  const needs = { ...intercept, interests, zones: config.zones, ranges: [vips, loopback] }
  let gateway: Gateway | undefined
  return {
    get gateway() {
      return gateway
    },
    open: async () => {
      const isBeside = predecessor !== undefined
      gateway = life.use(await Gateway.start({ ...limits, ports: ports.map(gatewayPortOf), isBeside }, needs))
    },
    close: async () => gateway?.close(),
  }
}

function gatewayPortOf({ listen, protocol = 'tcp', to, hosts = {}, ...rest }: GatewayPortConfig): GatewayPort {
  const { certificates = [], alpn = [], proxyProtocol = false } = rest
  const targetOf = (text: string): GatewayTarget => {
    const { host: name, port } = hostPort(text)
    return { name, port }
  }
  return {
    listen: hostPort(listen),
    protocol,
    ...(to === undefined ? {} : { to: targetOf(to) }),
    hosts: Object.fromEntries(Object.entries(hosts).map(([host, target]) => [host, targetOf(target)])),
    certificates,
    alpn,
    proxyProtocol,
  }
}

/** The SOCKS and HTTP proxies, on the ports of the last run, which instances that outlived the agent still use. */
export interface ProxyListeners {
  readonly access: ProxyAccess
  readonly ports: ProxyPorts
  /** Starts to listen. A successor calls it late, when it can serve; its ports are those of its predecessor. */
  readonly open: () => Promise<void>
  readonly close: () => Promise<void>
}

export interface ProxyPorts {
  readonly socksPort: number
  readonly httpPort: number
}

export function prepareProxyListeners(
  { life, dir, config, clock, log, predecessor }: AgentContext,
  { vips, loopback, own }: NodeIdentity,
  { interests }: TableSync,
  { flows: { intercept }, instances }: { flows: Flows; instances: LocalInstances & Pick<Instances, 'programGuard'> },
): ProxyListeners {
  const access = ProxyAccess.open(life.use(new KeptFile(join(dir, 'proxies.json'), log, clock)))
  const naming = {
    ...intercept,
    interests,
    zones: config.zones,
    ranges: [vips, loopback],
    forbids: own.forbids,
    closes: (caller: Caller) => caller.kind === 'instance' && instances.programGuard.holds(caller.id),
    credentials: (user: string) => (user === 'node' || instances.has(user) ? access.secretOf(user) : undefined),
  }
  const isBeside = predecessor !== undefined
  const last = predecessor ?? access
  const ports = { socksPort: config.socksPort || last.socksPort, httpPort: config.httpPort || last.httpPort }
  const listeners: Interceptor[] = []
  return {
    access,
    ports,
    open: async () => {
      const socks = await onPort(config.socksPort, ports.socksPort, (port) =>
        SocksInterceptor.start({ port, isBeside }, naming),
      )
      listeners.push(life.use(socks))
      const http = await onPort(config.httpPort, ports.httpPort, (port) =>
        HttpInterceptor.start({ port, isBeside }, naming),
      )
      listeners.push(life.use(http))
      Object.assign(ports, { socksPort: socks.port, httpPort: http.port })
      await access.keep(ports)
    },
    close: async () => {
      await Promise.all(listeners.map((listener) => listener[Symbol.asyncDispose]()))
    },
  }
}

/** Who of this node calls, and who asks for names. */
export function callerFinder(instances: LocalInstances): CallerFinder {
  return new CallerFinder(
    () => instances.processes(),
    (uid) => instances.isInstanceUser(uid),
    instances,
  )
}

/** The listeners on VIPs. */
export type VipInterceptor = HostInterceptor | Awaited<ReturnType<typeof LoopbackInterceptor.start>>

export async function interceptVips(
  { life, dir, config, log, clock, predecessor }: AgentContext,
  { vips }: NodeIdentity,
  {
    flows: { intercept },
    callers,
    instances,
    keptVips,
  }: { flows: Flows; callers: CallerFinder; instances: LocalInstances; keptVips: KeptVips },
): Promise<VipInterceptor> {
  const withoutIPv6 = config.mode === 'host' ? whyNoIPv6() : undefined
  if (withoutIPv6 !== undefined) log.warn('host mode without IPv6', { reason: withoutIPv6 })
  const options = {
    range: vips,
    nft: systemNft,
    interfaces: [...config.interceptInterfaces, ...instances.containers.interfaces],
    hasFastPath: config.fastPath,
    isSuccessor: predecessor !== undefined,
    asked: keptVips.asked,
  }
  if (config.mode !== 'host') return life.use(await LoopbackInterceptor.start(options, callers.identify, intercept))
  const kept = { file: life.use(new KeptFile(join(dir, 'settings.json'), log, clock)), boot: bootId() }
  const inherited = predecessor?.mode === 'host' ? { inherits: predecessor.before } : {}
  return life.use(await HostInterceptor.start({ ...options, kept, ...inherited }, callers.identify, intercept))
}

/** The configured port; else the port of the last run, or any free one if that is taken. */
async function onPort<T>(configured: number, lastTime: number, start: (port: number) => Promise<T>): Promise<T> {
  if (configured !== 0 || lastTime === 0) return start(configured)
  try {
    return await start(lastTime)
  } catch (error) {
    if (!isMeshError(error, 'LISTEN_FAILED')) throw error
    return start(0)
  }
}
