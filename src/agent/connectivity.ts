import { callerAddress } from '../../proxy/inbound/caller.ts'
import { Descriptors } from '../../proxy/flow/descriptors.ts'
import { Inbound, INBOUND_LIMITS } from '../../proxy/inbound/inbound.ts'
import { introduce } from '../../proxy/inbound/caller.ts'
import { presentNonce } from '../../proxy/paths/expected-connections.ts'
import { directDialer, DirectListener, type DirectDialer } from '../../proxy/paths/direct-path.ts'
import type { RawConnection } from '../../proxy/paths/contract.ts'
import { readInterfaces } from '../../proxy/paths/reachability.ts'
import { PeerRelays } from '../../proxy/paths/relays/peer-relays.ts'
import { relayedDialer } from '../../proxy/paths/relays/relayed-dialer.ts'
import type { Relays } from '../../proxy/paths/relays/relays.ts'
import type { FlowRequest } from '../../proxy/flow/request.ts'
import { NodeBudget } from '../../proxy/tunnel/session/node-budget.ts'
import { openPeers, type TunnelPeers } from '../../proxy/tunnel/peers/peers.ts'
import { PortMapper } from '../../proxy/paths/port-mapping/port-mapper.ts'
import { hostPort } from '../config.ts'
import { memoryBytes } from './machine.ts'
import { isMeshError, MeshError } from '../core/errors.ts'
import type { Identity } from '../core/identity/contract.ts'
import { CALLED_ALPN, connectSecure, createAcceptor, isPrompt } from '../core/identity/peer-tls.ts'
import { nodeUri } from '../core/identity/principal.ts'
import type { Lifetime } from '../core/kit/lifetime.ts'
import { readNetwork } from '../core/kit/network.ts'
import type { InstanceId, NodeId } from '../core/model/ids.ts'
import { allows, ANY_PATH, likes, readPathRule } from '../core/model/path-rule.ts'
import type { AgentContext } from './context.ts'
import type { TableSync } from './table-sync.ts'
import type { NodeIdentity } from './node-identity.ts'
import { isListenedAt, reachableAt } from './own-addresses.ts'
import { openRelays, relayCredentials } from './relays.ts'
import { openRendezvous, type NodeSecure, type Rendezvous } from './rendezvous.ts'
import { openSealed } from './sealed.ts'
import { NetworkCoordinates } from './coordinates.ts'
import type { InstancesHere } from './instances.ts'

/*
 * How we reach other nodes, and they us. Wired here: dialers and listeners of every path, TLS on them, the sessions,
 * and `inbound`, which takes the streams that others open.
 */

export interface Connectivity {
  readonly peers: TunnelPeers
  readonly inbound: Inbound
  /** Takes connections that others dial. A successor calls it late, when it can serve them. */
  readonly listen: () => Promise<void>
  /** Takes no more. */
  readonly unlisten: () => Promise<void>
  readonly tunnelPort: () => number
  /** What an instance sees its caller under. */
  readonly addressOf: (caller: InstanceId) => string | undefined
  /** The PROXY header of a flow, for an instance that asks for it. */
  readonly introduced: (request: FlowRequest, from: { peer: NodeId; localPort: number }) => Buffer
  /** Shared by all that opens files for flows. */
  readonly descriptors: Descriptors
  /** Where others may dial us, now. */
  readonly candidates: () => string[]
  /** Ports on the router that lead here, when they were asked for. */
  readonly portMapping: PortMapper | undefined
  /** Signals, and what others see of us. */
  readonly rendezvous: Rendezvous
  /** Where others can reach us when they cannot dial us. */
  readonly relays: Relays
  readonly knowRelays: (urls: readonly string[]) => void
  /** Where we are among the others, by round-trip times. */
  readonly whereabouts: NetworkCoordinates
  /** Called again and again while streams of some session wait for a path. */
  readonly onRisk: (listener: () => void) => void
  /** Their certificates no longer count. */
  readonly revoke: (nodes: readonly NodeId[]) => void
}

/** Of one peer: what no honest one needs, however many its callers are. */
const PEER_LIMITS = { opensPerSecond: 10_000, pendingOpens: 4_096 }
/** Held for readers that do not read, over all peers; a quarter of the memory where that is less. */
const HELD_BYTES = 512 * 2 ** 20

export async function openConnectivity(
  ground: AgentContext,
  member: NodeIdentity,
  { table, interests }: TableSync,
  here: InstancesHere,
): Promise<Connectivity> {
  const { life, self, config, clock, log, metrics, predecessor } = ground
  const { identity, own, vips } = member
  const addressOf = callerAddress(table, vips)
  const uriOf = (node: NodeId) => nodeUri(identity.principal.mesh, node)
  const introduced: Connectivity['introduced'] = (request, from) => introduce(request, from, { addressOf, uriOf })
  const descriptors = new Descriptors({ log, metrics })
  const inbound = await Inbound.start({
    descriptors,
    table,
    interests,
    self,
    endpointOf: here.endpointOf,
    isDraining: here.isDraining,
    forbids: own.forbids,
    addressOf,
    introduce: introduced,
    paths: readPathRule(config.paths) ?? ANY_PATH,
    limits: { ...INBOUND_LIMITS, maxFlows: config.maxFlows, drainMs: 0 }, // departure.ts has waited
    log,
    metrics,
  })
  const wanted = hostPort(config.listen)
  const at = { host: wanted.host, port: wanted.port === 0 ? (predecessor?.tunnelPort ?? 0) : wanted.port }
  const direct = directDialer({
    exclude: own.isVip,
    isOwn: (host, port) => isListenedAt(at, host, port),
    ownNetwork: () => ({
      interfaces: readInterfaces(),
      isEnclosed: rendezvous.isEnclosed(),
      hairpins: (host) => rendezvous.discovery.hairpins(host),
    }),
  })
  const rule = readPathRule(config.paths) ?? ANY_PATH
  const isStraight = allows(rule, 'direct') || allows(rule, 'punched')
  let portMapping: PortMapper | undefined
  let listener: DirectListener | undefined
  const outside = (protocol: 'tcp' | 'udp') => portMapping?.addresses(protocol) ?? []
  const sealed = isStraight
    ? await openSealed(ground, member, at, {
        outside: () => [...outside('udp'), ...rendezvous.udpAddresses()],
        receive: (packet) => rendezvous.receive(packet),
      })
    : undefined
  const posts = await openRelays(ground, member, {
    onConnection: (raw) => peers.incoming(raw),
    onSignal: (signal) => rendezvous.signals.fromRelay(signal),
    onWelcome: (welcome, relay) => rendezvous.addRelay(relay, welcome),
    onChange: () => peers.pathBack(),
  })
  const secure = secureWith(identity, direct, life)
  const rendezvous: Rendezvous = await openRendezvous(ground, member, {
    reach: (node) => table.node(node),
    peers: () => peers,
    relays: posts.relays,
    secure,
    udp: sealed,
    at,
    listensAt: () => (listener === undefined ? 0 : at.port),
    candidates: () => [...config.advertise, ...outside('tcp'), ...reachableAt(at.host, tunnelPort(), own)],
    allows: (path) => allows(rule, path),
  })
  let doubted = (): void => undefined
  const peerRelays = PeerRelays.start(life, {
    relays: posts.relays,
    signals: rendezvous.signals,
    peers: () => peers,
    reach: (node) => table.node(node),
  })
  const peers: TunnelPeers = life.use(
    openPeers({
      self,
      dialers: [
        direct,
        ...rendezvous.dialers,
        relayedDialer({
          credentials: () => relayCredentials(member),
          rttMs: posts.relays.rttMs,
          throughMs: (node, relay) => peerRelays.throughMs(node, relay),
          requestLeg: posts.relays.requestLeg,
          clock,
        }),
      ],
      secure: { ...secure, accept: (raw) => rendezvous.claim(raw) },
      accept: inbound.take,
      signalled: (from, payload) => rendezvous.signals.fromSession(from, payload),
      allows: (path) => allows(rule, path),
      prefers: (path) => likes(rule, path),
      limits: { ...PEER_LIMITS, budget: new NodeBudget(Math.min(memoryBytes() / 4, HELD_BYTES)) },
      reach: (node) => peerRelays.reach(node),
      nearer: (node, relay) => peerRelays.nearer(node, relay),
      atRisk: () => {
        posts.relays.expedite()
        doubted()
      },
      sealed: sealed?.endpoint,
      isBeside: predecessor !== undefined,
      clock,
      log,
      metrics,
      drainMs: 0,
    }),
  )
  const whereabouts = NetworkCoordinates.start(life, { table, peers, clock })
  const tunnelPort = () => at.port
  const mapPorts = () =>
    PortMapper.start(
      {
        gateway: () => readNetwork().defaults.find(({ family }) => family === 'ipv4')?.gateway,
        ports: () => [
          { protocol: 'tcp', port: tunnelPort() },
          ...(sealed === undefined ? [] : [{ protocol: 'udp' as const, port: sealed.port }]),
        ],
        onChange: () => undefined, // the cluster hears of other candidates with the next look at them
        clock,
        secret: identity.key,
      },
      log,
    )
  return {
    peers,
    inbound,
    descriptors,
    listen: async () => {
      const shared = { ...at, isBeside: predecessor !== undefined }
      listener = await DirectListener.start(shared, (raw) => peers.incoming(raw), log)
      at.port = listener.port
      if (config.portMapping === 'auto' && isStraight) portMapping = life.use(mapPorts())
    },
    unlisten: async () => {
      const last = listener
      listener = undefined
      await last?.[Symbol.asyncDispose]()
    },
    tunnelPort,
    whereabouts,
    rendezvous,
    relays: posts.relays,
    knowRelays: posts.update,
    addressOf,
    introduced,
    candidates: () =>
      allows(rule, 'direct')
        ? [...config.advertise, ...outside('tcp'), ...reachableAt(at.host, tunnelPort(), own)]
        : [],
    get portMapping() {
      return portMapping
    },
    onRisk: (listener) => {
      doubted = listener
    },
    revoke: (nodes) => {
      for (const node of nodes) peers.cut(node)
    },
  }
}

/** TLS on every path; it refuses certificates that were revoked. */
function secureWith(identity: Identity, direct: DirectDialer, life: Lifetime): NodeSecure {
  const acceptor = life.use(createAcceptor(identity))
  return {
    connect: async ({ stream, path, via, proven }: RawConnection, node, signal) => {
      if (proven === node) return stream
      if (proven !== undefined) throw new MeshError('PEER_REFUSED', { node, answered: proven })
      try {
        return await connectSecure(stream, identity, node, signal)
      } catch (error) {
        // another site's equal private address: not to be tried first again
        if (path === 'direct' && isMeshError(error, 'PEER_REFUSED')) direct.distrust(node, via)
        throw error
      }
    },
    present: async ({ stream }, node, nonce, signal) => {
      const secured = await connectSecure(stream, identity, node, signal, CALLED_ALPN)
      presentNonce(secured, nonce)
      return secured
    },
    isPrompt,
    accept: async ({ stream, proven }) => {
      if (proven !== undefined) {
        return { peer: proven, stream, isCalled: false }
      }
      return acceptor.accept(stream)
    },
  }
}
