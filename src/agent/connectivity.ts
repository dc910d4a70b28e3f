import { callerAddress, introduce } from '../../proxy/inbound/caller.ts'
import { Descriptors } from '../../proxy/flow/descriptors.ts'
import { Memory } from '../../proxy/flow/memory.ts'
import type { FlowRequest } from '../../proxy/flow/request.ts'
import type { FlowSpans } from '../../proxy/flow/spans.ts'
import { Inbound, INBOUND_LIMITS } from '../../proxy/inbound/inbound.ts'
import { directDialer, type DirectDialer } from '../../proxy/paths/direct-path.ts'
import { readInterfaces } from '../../proxy/paths/reachability.ts'
import { PeerRelays } from '../../proxy/paths/relays/peer-relays.ts'
import { relayedDialer } from '../../proxy/paths/relays/relayed-dialer.ts'
import { NodeBudget } from '../../proxy/tunnel/node-budget.ts'
import { openPeers, type TunnelPeers } from '../../proxy/tunnel/peers/peers.ts'
import { nodeUri } from '../core/identity/principal.ts'
import { Later } from '../core/kit/later.ts'
import { memoryBytes } from '../core/kit/memory.ts'
import type { InstanceId, NodeId } from '../core/model/ids.ts'
import { allows, likes } from '../core/model/path-rule.ts'
import type { AgentContext } from './context.ts'
import { NetworkCoordinates } from './coordinates.ts'
import type { LocalInstances } from './instances.ts'
import type { NodeIdentity } from './node-identity.ts'
import { NodeTls } from './node-tls.ts'
import type { Predecessors } from './predecessors.ts'
import { openRelays, relayCredentials, type RelayConnections } from './relays.ts'
import { openRendezvous, type Rendezvous } from './rendezvous.ts'
import { RevocationSpread } from './revocation-spread.ts'
import { openSealed, type Sealed } from './sealed.ts'
import type { TableSync } from './table-sync.ts'
import { isStraight, TunnelEndpoint } from './tunnel-endpoint.ts'

/*
 * How this node reaches other nodes, and they reach it.
 *
 *     callers  ─▶ inbound (streams that other nodes open)
 *     endpoint ─▶ sealed UDP, direct dialer ─▶ TLS ─▶ relays ─▶ rendezvous (reverse, punched) ─▶ sessions ─▶ coordinates
 *
 * Two parts need each other twice: sessions use the dialers of the rendezvous, which signals over sessions; the direct dialer
 * asks the rendezvous about this network. Both wait for it as a `Later`.
 */

export interface Connectivity {
  readonly peers: TunnelPeers
  readonly inbound: Inbound
  readonly endpoint: TunnelEndpoint
  readonly tls: NodeTls
  /** Datagrams straight over UDP; `undefined` where they go over carriers. */
  readonly sealed: Sealed | undefined
  /** Signals, and what others see of this node. */
  readonly rendezvous: Rendezvous
  /** Where others reach this node when they cannot connect to it. */
  readonly relays: RelayConnections
  /** Where this node is among the others, by round-trip times. */
  readonly coordinates: NetworkCoordinates
  readonly callers: Callers
  /** Called again and again while streams of some session wait for a path. */
  readonly riskListeners: Set<() => void>
}

/** How an instance is told who calls it. */
export interface Callers {
  /** The address an instance sees its caller at. */
  readonly addressOf: (caller: InstanceId) => string | undefined
  /** The PROXY header of a flow, for an instance that asks for it. */
  readonly introduce: (request: FlowRequest, from: { peer: NodeId; localPort: number }) => Buffer
  /** Shared by everything that takes flows. */
  readonly descriptors: Descriptors
  readonly memory: Memory
}

/** For one peer: more than an honest one needs, however many callers it has. */
export const PEER_LIMITS = { opensPerSecond: 10_000, pendingOpens: 4_096 }
/** Bytes kept for readers that do not read, over all peers; a quarter of the memory where that is less. */
const UNREAD_BYTES = 512 * 2 ** 20

export async function openConnectivity(
  context: AgentContext,
  identity: NodeIdentity,
  sync: TableSync,
  {
    instances,
    predecessors,
    spans,
  }: { instances: LocalInstances; predecessors: Predecessors; spans: FlowSpans | undefined },
): Promise<Connectivity> {
  const { life, clock, log } = context
  const callers = openCallers(context, identity, sync)
  const endpoint = new TunnelEndpoint(context, identity)
  const inbound = life.use(await openInbound(context, identity, sync, { callers, instances, endpoint, spans }))
  const sessions = new Later<TunnelPeers>('the sessions')
  const laterRendezvous = new Later<Rendezvous>('the rendezvous')
  const sealed = isStraight(endpoint.rule) ? await openSealed(context, identity, endpoint, laterRendezvous) : undefined
  const direct = openDirect(identity, endpoint, laterRendezvous)
  const tls = new NodeTls(identity.certificate, direct, life)
  const relays = await openRelays(context, identity, {
    onConnection: (raw) => sessions.value.incoming(raw),
    onSignal: (signal) => laterRendezvous.value.signals.fromRelay(signal),
    onWelcome: (welcome, relay) => laterRendezvous.value.addRelay(relay, welcome),
    onChange: () => sessions.value.pathBack(),
  })
  const { table } = sync
  const reach = (node: NodeId) => table.node(node)
  const rendezvous = laterRendezvous.set(
    await openRendezvous(context, identity, {
      reach,
      sessions,
      relays: relays.relays,
      secure: tls,
      udp: sealed,
      endpoint,
    }),
  )
  const riskListeners = new Set<() => void>()
  const dialing = { sessions, inbound, endpoint, tls, sealed, rendezvous, relays, direct, riskListeners, predecessors }
  const peers = sessions.set(openSessions(context, identity, sync, dialing))
  const { revocations } = identity.certificate
  RevocationSpread.start(life, { revocations, signals: rendezvous.signals, peers, clock, log })
  const coordinates = NetworkCoordinates.start(life, { table, peers, clock })
  return { peers, inbound, endpoint, tls, sealed, rendezvous, relays, coordinates, callers, riskListeners }
}

/** Takes connections. A successor calls it late, when it can serve them. @throws MeshError LISTEN_FAILED */
export async function listen({ endpoint, peers, sealed }: Connectivity): Promise<void> {
  await endpoint.listen((raw) => peers.incoming(raw), sealed?.port)
}

/** The certificates of these nodes were revoked: their sessions end. `NodeTls` makes no new ones. */
export function cutNodes({ peers }: Connectivity, nodes: readonly NodeId[]): void {
  for (const node of nodes) peers.cut(node)
}

function openCallers(
  { life, log, metrics }: AgentContext,
  { certificate, vips }: NodeIdentity,
  { table }: TableSync,
): Callers {
  const addressOf = callerAddress(table, vips)
  const uriOf = (node: NodeId) => nodeUri(certificate.principal.mesh, node)
  return {
    addressOf,
    introduce: (request, from) => introduce(request, from, { addressOf, uriOf }),
    descriptors: new Descriptors({ log, metrics }),
    memory: new Memory({ log, metrics }).follow(life),
  }
}

function openInbound(
  { self, config, log, metrics }: AgentContext,
  { own }: NodeIdentity,
  { table, interests }: TableSync,
  {
    callers,
    instances,
    endpoint,
    spans,
  }: { callers: Callers; instances: LocalInstances; endpoint: TunnelEndpoint; spans: FlowSpans | undefined },
): Promise<Inbound> {
  return Inbound.start({
    spans,
    ...callers,
    table,
    interests,
    self,
    endpointOf: (instance, port, protocol) => instances.endpointOf(instance, port, protocol),
    isDraining: (instance) => instances.isDraining(instance),
    forbids: own.forbids,
    paths: endpoint.rule,
    limits: { ...INBOUND_LIMITS, maxFlows: config.maxFlows, drainMs: 0 }, // `Shutdown` has waited
    log,
    metrics,
  })
}

function openDirect({ own }: NodeIdentity, endpoint: TunnelEndpoint, rendezvous: Later<Rendezvous>): DirectDialer {
  return directDialer({
    exclude: own.isVip,
    isOwn: (host, port) => endpoint.isListenedAt(host, port),
    ownNetwork: () => ({
      interfaces: readInterfaces(),
      isEnclosed: rendezvous.value.isEnclosed(),
      hairpins: (host) => rendezvous.value.discovery.hairpins(host),
    }),
  })
}

interface Dialing
  extends Pick<Connectivity, 'inbound' | 'endpoint' | 'tls' | 'sealed' | 'rendezvous' | 'relays' | 'riskListeners'> {
  sessions: Later<TunnelPeers>
  direct: DirectDialer
  predecessors: Predecessors
}

function openSessions(
  { life, self, clock, log, metrics, predecessor }: AgentContext,
  identity: NodeIdentity,
  { table }: TableSync,
  {
    sessions,
    inbound,
    endpoint,
    tls,
    sealed,
    rendezvous,
    relays: { relays },
    direct,
    riskListeners,
    predecessors,
  }: Dialing,
): TunnelPeers {
  const { signals } = rendezvous
  const reach = (node: NodeId) => table.node(node)
  const peerRelays = PeerRelays.start(life, { relays, signals, peers: () => sessions.value, reach })
  const relayed = relayedDialer({
    credentials: () => relayCredentials(identity),
    rttMs: relays.rttMs,
    throughMs: (node, relay) => peerRelays.throughMs(node, relay),
    requestLeg: relays.requestLeg,
    clock,
  })
  return life.use(
    openPeers({
      self,
      dialers: [direct, ...rendezvous.dialers, relayed],
      secure: { connect: tls.connect, isPrompt: tls.isPrompt, accept: (raw) => rendezvous.claim(raw) },
      accept: inbound.take,
      signalled: (from, payload) => signals.fromSession(from, payload),
      allows: (path) => allows(endpoint.rule, path),
      prefers: (path) => likes(endpoint.rule, path),
      limits: { ...PEER_LIMITS, budget: new NodeBudget(Math.min(memoryBytes() / 4, UNREAD_BYTES)) },
      reach: (node) => peerRelays.reach(node),
      nearer: (node, relay) => peerRelays.nearer(node, relay),
      atRisk: () => {
        relays.expedite()
        for (const listener of riskListeners) listener()
      },
      sealed: sealed?.endpoint,
      isBeside: predecessor !== undefined,
      earlier: predecessors,
      clock,
      log,
      metrics,
      drainMs: 0, // `Shutdown` has waited
    }),
  )
}
