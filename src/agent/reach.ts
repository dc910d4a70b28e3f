import { callerAddress } from '../../proxy/caller-address.ts'
import { Descriptors } from '../../proxy/descriptors.ts'
import { Inbound, INBOUND_LIMITS } from '../../proxy/inbound.ts'
import { introduce } from '../../proxy/introduce.ts'
import { directDialer, DirectListener, type DirectDialer } from '../../proxy/paths/direct.ts'
import type { RawConnection } from '../../proxy/paths/contract.ts'
import { relayedDialer, RelayListener, type RelayCredentials } from '../../proxy/paths/relayed.ts'
import type { FlowRequest } from '../../proxy/request.ts'
import { NodeBudget } from '../../proxy/tunnel/node-budget.ts'
import { openPeers, type PeersOptions, type TunnelPeers } from '../../proxy/tunnel/peers.ts'
import { hostPort } from '../config.ts'
import { memoryBytes } from '../machine.ts'
import { isMeshError, MeshError } from '../errors.ts'
import type { Identity } from '../identity/contract.ts'
import { connectSecure, createAcceptor } from '../identity/peer-tls.ts'
import { nodeUri } from '../identity/principal.ts'
import { clientOptions, verifyServer } from '../identity/tls.ts'
import type { Lifetime } from '../kit/lifetime.ts'
import type { InstanceId, NodeId } from '../model/ids.ts'
import type { Ground } from './ground.ts'
import type { Knowledge } from './knowledge.ts'
import type { Member } from './member.ts'
import { reachableAt } from './own-addresses.ts'
import { openSealed } from './sealed.ts'
import { Whereabouts } from './whereabouts.ts'
import type { InstancesHere } from './work.ts'

/*
 * How we reach other nodes, and they us. Wired here: dialers and listeners of every path, TLS on them, the sessions,
 * and `inbound`, which takes the streams that others open.
 */

export interface Reach {
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
  /** Where we are among the others, by round-trip times. */
  readonly whereabouts: Whereabouts
  /** Their certificates no longer count. */
  readonly revoke: (nodes: readonly NodeId[]) => void
}

/** Of one peer: what no honest one needs, however many its callers are. */
const PEER_LIMITS = { opensPerSecond: 10_000, pendingOpens: 4_096 }
/** Held for readers that do not read, over all peers; a quarter of the memory where that is less. */
const HELD_BYTES = 512 * 2 ** 20

export async function openReach(
  ground: Ground,
  member: Member,
  { table, interests }: Knowledge,
  here: InstancesHere,
): Promise<Reach> {
  const { life, self, config, clock, log, metrics, elder } = ground
  const { identity, own, vips } = member
  const addressOf = callerAddress(table, vips)
  const uriOf = (node: NodeId) => nodeUri(identity.principal.mesh, node)
  const introduced: Reach['introduced'] = (request, from) => introduce(request, from, { addressOf, uriOf })
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
    limits: { ...INBOUND_LIMITS, maxFlows: config.maxFlows, drainMs: 0 }, // departure.ts has waited
    log,
    metrics,
  })
  const revoked = new Set<NodeId>()
  const direct = directDialer({ exclude: own.isVip })
  const wanted = hostPort(config.listen)
  const at = { host: wanted.host, port: wanted.port === 0 ? (elder?.tunnelPort ?? 0) : wanted.port }
  const sealed = await openSealed(ground, member, at)
  const peers = life.use(
    openPeers({
      self,
      dialers: [direct, relayedDialer({ credentials: () => clusterCredentials(member) })],
      secure: secureWith(identity, revoked, direct, life),
      accept: inbound.take,
      limits: { ...PEER_LIMITS, budget: new NodeBudget(Math.min(memoryBytes() / 4, HELD_BYTES)) },
      reach: (node) => table.node(node),
      sealed,
      isBeside: elder !== undefined,
      clock,
      log,
      metrics,
      drainMs: 0,
    }),
  )
  const whereabouts = Whereabouts.start(life, { table, peers, clock })
  let listener: DirectListener | undefined
  const tunnelPort = () => at.port
  return {
    peers,
    inbound,
    descriptors,
    listen: async () => {
      const shared = { ...at, isBeside: elder !== undefined }
      listener = await DirectListener.start(shared, (raw) => peers.incoming(raw), log)
      at.port = listener.port
    },
    unlisten: async () => listener?.[Symbol.asyncDispose](),
    tunnelPort,
    whereabouts,
    addressOf,
    introduced,
    candidates: () => [...config.advertise, ...reachableAt(at.host, tunnelPort(), own)],
    revoke: (nodes) => {
      for (const node of nodes) {
        revoked.add(node)
        peers.cut(node)
      }
    },
  }
}

/** Keeps this node reachable through its cluster's relay. */
export async function listenAtRelay(
  { life, clock, log }: Ground,
  member: Member,
  { peers }: Reach,
): Promise<RelayListener> {
  return life.use(
    await RelayListener.start(
      {
        url: `${member.url.replace(/^http/, 'ws')}/relay`,
        credentials: () => clusterCredentials(member),
        onConnection: (raw) => peers.incoming(raw),
        clock,
      },
      log,
    ),
  )
}

/** How the node proves itself to the relay, which is its cluster's or another's. */
function clusterCredentials({ identity, egress }: Member): ReturnType<RelayCredentials> {
  const isCluster = ({ role, mesh }: Identity['principal']) => role === 'cluster' && mesh === identity.principal.mesh
  return { tls: clientOptions(identity, isCluster), verify: verifyServer(isCluster), egress }
}

/** TLS on every path, and no node whose certificate was revoked. */
function secureWith(
  identity: Identity,
  revoked: ReadonlySet<NodeId>,
  direct: DirectDialer,
  life: Lifetime,
): PeersOptions['secure'] {
  const acceptor = life.use(createAcceptor(identity))
  const demand = (node: NodeId) => {
    if (revoked.has(node)) throw new MeshError('PEER_REFUSED', { node, reason: 'its certificate was revoked' })
  }
  return {
    connect: async ({ stream, path, via }: RawConnection, node, signal) => {
      demand(node)
      try {
        return await connectSecure(stream, identity, node, signal)
      } catch (error) {
        // another site's equal private address: not to be tried first again
        if (path === 'direct' && isMeshError(error, 'PEER_REFUSED')) direct.distrust(node, via)
        throw error
      }
    },
    accept: async ({ stream }) => {
      const accepted = await acceptor.accept(stream)
      try {
        demand(accepted.peer)
      } catch (error) {
        accepted.stream.destroy()
        throw error
      }
      return accepted
    },
  }
}
