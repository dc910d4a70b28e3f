import { printHostPort } from '../core/kit/host-port.ts'
import { portText } from '../../proxy/flow/flow.ts'
import type { FlowLine } from '../../proxy/flow/flow-line.ts'
import type { FlowLedger } from '../../proxy/flow/ledger.ts'
import type { Session } from '../../proxy/tunnel/contract.ts'
import { isSameSession } from '../../proxy/tunnel/peers/earlier-processes.ts'
import type { TunnelPeers } from '../../proxy/tunnel/peers/peers.ts'
import { MeshError } from '../core/errors.ts'
import type { LocalRoute, LocalUpgrade } from './local-api.ts'
import type { NodeId } from '../core/model/ids.ts'
import { RULED_PATHS } from '../core/model/path-rule.ts'
import { cipherName, cipherPreference } from '../core/identity/ciphers.ts'
import type { FlowReport, GatewayReport, PeerReport, StatusReport } from '../client/reports.ts'
import { checksOf, fastPathText } from './checks.ts'
import type { Shutdown } from './shutdown.ts'
import { netcheck } from './netcheck.ts'
import { resolveOf, traceOf } from './trace.ts'
import type { AgentParts } from './parts.ts'

/** A relay that has not answered by then is listed without a round-trip time. */
const RELAYS_MS = 2_000

export interface RouteOptions {
  /** Where `HTTPS_PROXY` is read. */
  environment: Readonly<Record<string, string | undefined>>
  /** Starts this program again; `undefined` where another program embeds the agent. */
  respawn: (() => void) | undefined
}

/** What the agent answers on its local socket. */
export function agentRoutes(agent: AgentParts, { environment, respawn }: RouteOptions): Record<string, LocalRoute> {
  return {
    '/status': async () => {
      const kernelFlows = await agent.fastPath?.count()
      return { ...statusOf(agent), ...(kernelFlows === undefined ? {} : { kernelFlows }) }
    },
    '/peers': () => Array.from(agent.connectivity.peers.all(), (session) => peerOf(session, agent.connectivity.peers)),
    '/flows': async (query) => {
      const own = flowsOf(agent.flows.ledger, { withRecent: query.has('recent') })
      return query.has('own') ? own : [...own, ...(await agent.predecessors.flows())]
    },
    '/resolve': (query) => resolveOf(query.get('name') ?? '', agent),
    '/trace': (query) => traceOf(query.get('target') ?? '', agent),
    '/check': () => checksOf(agent),
    '/gateway': (): GatewayReport[] => agent.ingress.gateway?.routes() ?? [],
    '/relays': () => agent.connectivity.relays.relays.measureAll(RELAYS_MS),
    '/netcheck': () => netcheck(agent, environment),
    '/proxy-environment': () => agent.proxies.access.environment('node', agent.proxies.ports),
    '/restart': () => {
      if (respawn === undefined)
        throw new MeshError('USAGE', { reason: 'this agent is part of another program, which must do it' })
      respawn()
    },
  }
}

/** What the agents of one state directory ask each other. The paths are part of the protocol between versions. */
export function handOverRoutes(
  shutdown: Shutdown,
  { connectivity: { peers }, keptVips }: AgentParts,
  revoke: (nodes: readonly NodeId[]) => void,
): Record<string, LocalRoute> {
  return {
    '/standing': () => ({ standing: shutdown.state }),
    '/draining': () => shutdown.report(),
    '/held': () => keptVips.asked.snapshot(),
    '/sessions': () => peers.held(),
    '/revoke': (query) => revoke((query.get('nodes') ?? '').split(' ')),
  }
}

/** A connection that has reached our successor and is for a session of this process. */
export function carrierRoute(peers: TunnelPeers): LocalUpgrade {
  return (query) => {
    const [peer = '', id = '', incarnation = '', via = ''] = ['peer', 'id', 'incarnation', 'via'].map(
      (key) => query.get(key) ?? '',
    )
    const path = RULED_PATHS.find((kind) => kind === query.get('path'))
    if (path === undefined || !peers.held().some((held) => isSameSession(held, { peer, id, incarnation })))
      return undefined
    return (stream) => peers.incoming({ path, stream, via, proven: peer })
  }
}

export function statusOf(agent: AgentParts): StatusReport {
  const { context, identity, sync, connectivity, flows, proxies, instances, interceptor, uplink, resolver } = agent
  const { self, version, config, clock, startedAt } = context
  const { endpoint, peers } = connectivity
  const { address, port } = resolver.address
  return {
    node: self,
    version,
    pid: process.pid,
    upSeconds: Math.round((clock.now() - startedAt) / 1_000),
    mode: config.mode,
    ...(agent.fastPath === undefined ? {} : { fastPath: fastPathText(agent.fastPath) }),
    prefix: identity.vips.cidr4,
    draining: agent.predecessors.all(),
    resolver: `${address}:${port}`,
    ...(port === 53 ? { nameserver: address } : {}),
    socks: `127.0.0.1:${proxies.ports.socksPort}`,
    http: `127.0.0.1:${proxies.ports.httpPort}`,
    tunnel: printHostPort(endpoint.host, endpoint.port),
    ops: identity.ops.address,
    controlLink: uplink.isUp ? 'up' : 'down',
    certificateUntil: identity.certificate.notAfter.toISOString(),
    services: sync.table.counts.services,
    instancesHere: instances.reports().length,
    flowsOpen: flows.ledger.size,
    sessions: [...peers.all()].length,
    listeners: interceptor.size,
    ...gatewayPortsOf(agent),
    cipher: cipherPreference(),
  }
}

function gatewayPortsOf({ ingress }: AgentParts): Pick<StatusReport, 'gateway'> {
  const ports = new Set(ingress.gateway?.routes().map(({ protocol, listen }) => `${protocol}://${listen}`))
  return ports.size === 0 ? {} : { gateway: [...ports] }
}

function peerOf(session: Session, peers: TunnelPeers): PeerReport {
  const { peer, path, rttMs, streams } = session
  const { relay, carrierPaths, pinnedPaths, bytesIn, bytesOut, datagrams, cipher, sealedWith } = session.report()
  return {
    node: peer,
    path,
    ...(path === 'relayed' && relay !== undefined ? { relay } : {}),
    carrierPaths,
    asidePaths: pinnedPaths,
    ...(rttMs === undefined ? {} : { rttMs }),
    carriers: carrierPaths.length,
    streams,
    bytesIn,
    bytesOut,
    datagrams,
    ...(cipher === undefined ? {} : { cipher: cipherName(cipher) }),
    ...(sealedWith === undefined ? {} : { datagramCipher: sealedWith }),
    ...(peers.hasDuplicate(peer) ? { isDuplicated: true } : {}),
  }
}

function flowsOf(ledger: FlowLedger, { withRecent }: { withRecent: boolean }): FlowReport[] {
  const open = ledger.flows().map((line) => flowReport(line))
  if (!withRecent) return open
  const ended = ledger
    .recent()
    .map((line) => flowReport(line, line.reason === '' ? line.end : `${line.end}: ${line.reason}`))
  return [...open, ...ended]
}

function flowReport({ sent, received, port, protocol, ageMs, name, ...line }: FlowLine, ended?: string): FlowReport {
  const { id, caller, instance, node, path } = line
  return {
    id,
    caller,
    name: `${name}:${portText(port, protocol)}`,
    protocol,
    ...(instance === undefined ? {} : { instance }),
    ...(node === undefined ? {} : { node }),
    ...(path === undefined ? {} : { path }),
    bytesSent: sent,
    bytesReceived: received,
    ageMs: Math.round(ageMs),
    ...(ended === undefined ? {} : { ended }),
  }
}
