import { hostPort } from '../config.ts'
import { portText } from '../../proxy/flow/flow.ts'
import type { FlowLine } from '../../proxy/flow/ledger.ts'
import type { Session } from '../../proxy/tunnel/contract.ts'
import { MeshError } from '../core/errors.ts'
import type { LocalRoute } from './local-api.ts'
import type { NodeId } from '../core/model/ids.ts'
import type { FlowReport, PeerReport, StatusReport } from '../client/reports.ts'
import { checksOf, fastPathText } from './checks.ts'
import type { Shutdown } from './shutdown.ts'
import { netcheck } from './netcheck.ts'
import { resolveOf, traceOf } from './trace.ts'
import type { AgentView } from './view.ts'

/** A relay that has not answered by then gets no figure. */
const RELAYS_MS = 2_000

/** What the agent answers on its local socket. */
export function agentRoutes(view: AgentView): Record<string, LocalRoute> {
  return {
    '/status': async () => {
      const kernelFlows = await view.fastPath?.count()
      return { ...statusOf(view), ...(kernelFlows === undefined ? {} : { kernelFlows }) }
    },
    '/peers': () => peersOf(view),
    '/flows': async (query) => {
      const own = flowsOf(view, query.has('recent'))
      return query.has('own') ? own : [...own, ...(await view.elders.flows())]
    },
    '/resolve': (query) => resolveOf(query.get('name') ?? '', view),
    '/trace': (query) => traceOf(query.get('target') ?? '', view),
    '/check': () => checksOf(view),
    '/relays': () => view.network.relays.measureAll(RELAYS_MS),
    '/netcheck': () => netcheck({ ...view, ...view.network, sessions: () => view.peers.all() }),
    '/proxy-environment': () => view.access.environment('node', view.proxyPorts),
    '/restart': () => {
      if (view.respawn === undefined)
        throw new MeshError('USAGE', { reason: 'this agent is part of another program, which must do it' })
      view.respawn()
    },
  }
}

/** What agents of one directory ask each other. */
export function departureRoutes(
  departure: Shutdown,
  revoke: (nodes: readonly NodeId[]) => void,
): Record<string, LocalRoute> {
  return {
    '/standing': () => ({ standing: departure.standing }),
    '/draining': () => departure.report(),
    '/revoke': (query) => revoke((query.get('nodes') ?? '').split(' ')),
  }
}

export function statusOf(view: AgentView): StatusReport {
  const {
    self,
    version,
    startedAt,
    config,
    vips,
    resolver,
    proxyPorts,
    tunnelPort,
    ops,
    uplink,
    identity,
    table,
    work,
    ledger,
    peers,
    interceptor,
    elders,
    fastPath,
  } = view
  const { address, port } = resolver.address
  const { host } = hostPort(config.listen)
  return {
    node: self,
    version,
    pid: process.pid,
    upSeconds: Math.round((Date.now() - startedAt) / 1_000),
    mode: config.mode,
    ...(fastPath === undefined ? {} : { fastPath: fastPathText(fastPath) }),
    prefix: vips.cidr4,
    draining: elders.all(),
    resolver: `${address}:${port}`,
    ...(port === 53 ? { nameserver: address } : {}),
    socks: `127.0.0.1:${proxyPorts.socksPort}`,
    http: `127.0.0.1:${proxyPorts.httpPort}`,
    tunnel: `${host}:${tunnelPort}`,
    ops,
    controlLink: uplink.isUp ? 'up' : 'down',
    certificateUntil: identity.notAfter.toISOString(),
    services: table.counts.services,
    instancesHere: work.worker.reports().length,
    flowsOpen: ledger.size,
    sessions: [...peers.all()].length,
    listeners: interceptor.size,
  }
}

function peersOf({ peers }: AgentView): PeerReport[] {
  return Array.from(peers.all(), (session) => peerOf(session))
}

function peerOf(session: Session): PeerReport {
  const { peer, path, rttMs, streams } = session
  const { carrierPaths, pinnedPaths, bytesIn, bytesOut, datagrams } = session.report()
  return {
    node: peer,
    path,
    carrierPaths,
    asidePaths: pinnedPaths,
    ...(rttMs === undefined ? {} : { rttMs }),
    carriers: carrierPaths.length,
    streams,
    bytesIn,
    bytesOut,
    datagrams,
  }
}

function flowsOf({ ledger }: AgentView, isRecentToo: boolean): FlowReport[] {
  const open = ledger.flows().map((line) => flowReport(line))
  return isRecentToo
    ? [
        ...open,
        ...ledger
          .recent()
          .map((line) => flowReport(line, line.reason === '' ? line.end : `${line.end}: ${line.reason}`)),
      ]
    : open
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
