import { portText } from '../../proxy/admit.ts'
import type { FlowBook, FlowLine } from '../../proxy/flow-book.ts'
import { NODE_CALLER } from '../../proxy/flow.ts'
import type { Problem } from '../../proxy/intercept/interceptor.ts'
import type { OutboundParts } from '../../proxy/outbound.ts'
import type { Balancer } from '../../proxy/policies/index.ts'
import type { FastPath } from '../../proxy/kernel/fast-path.ts'
import { trace, type TraceStep } from '../../proxy/trace.ts'
import type { Peers, Session } from '../../proxy/tunnel/contract.ts'
import type { Resolver } from '../../resolver/server.ts'
import type { AgentConfig } from '../config.ts'
import { MeshError } from '../errors.ts'
import type { Identity } from '../identity/contract.ts'
import type { LocalRoute } from '../local-api.ts'
import { vipToIPv4, vipToIPv6, type VipRange } from '../model/address.ts'
import { choiceKey } from '../model/choice.ts'
import { parseName, printName } from '../model/name.ts'
import type { NodeId } from '../model/ids.ts'
import type { Uplink } from '../orchestrator/worker/uplink.ts'
import type { ProxyAccess } from '../proxies.ts'
import type { CheckReport, FlowReport, PeerReport, ResolveReport, StatusReport, TraceReport } from '../reports.ts'
import type { Interests } from '../table/interests.ts'
import type { Table } from '../table/table.ts'
import type { Target } from '../table/view.ts'
import type { Departure } from './departure.ts'
import { netcheck, type NetcheckParts } from './netcheck.ts'
import type { Elders } from './elders.ts'
import type { Work } from './work.ts'

/** What the commands may look at. */
export interface AgentView {
  self: NodeId
  version: string
  startedAt: number
  config: AgentConfig
  vips: VipRange
  identity: Identity
  table: Table
  interests: Interests
  peers: Peers
  book: FlowBook
  parts: OutboundParts
  /** A balancer of its own, so that looking does not move the round on. */
  peek: Balancer
  uplink: Uplink
  interceptor: { readonly size: number; problems(): Problem[]; touch(target: Target): void }
  work: Work
  resolver: Resolver
  access: ProxyAccess
  proxyPorts: { socksPort: number; httpPort: number }
  ops: string
  tunnelPort: number
  /** What `netcheck` asks. */
  network: Omit<NetcheckParts, 'self' | 'config' | 'tunnelPort' | 'sessions'>
  elders: Elders
  respawn: (() => void) | undefined
  /** `undefined`: not asked for. */
  fastPath: FastPath | undefined
}

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
  departure: Departure,
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
    book,
    peers,
    interceptor,
    elders,
    fastPath,
  } = view
  const { address, port } = resolver.address
  const { host } = { host: config.listen.slice(0, config.listen.lastIndexOf(':')) }
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
    flowsOpen: book.size,
    sessions: [...peers.all()].length,
    listeners: interceptor.size,
  }
}

function peersOf({ peers }: AgentView): PeerReport[] {
  return Array.from(peers.all(), (session) => peerOf(session))
}

function peerOf(session: Session): PeerReport {
  const { peer, path, rttMs, carriers, streams, bytesIn, bytesOut, datagrams } = session
  return {
    node: peer,
    path,
    carrierPaths: session.carrierPaths?.() ?? [],
    ...(rttMs === undefined ? {} : { rttMs }),
    carriers,
    streams,
    bytesIn,
    bytesOut,
    datagrams: datagrams ?? 'frames',
  }
}

function flowsOf({ book }: AgentView, isRecentToo: boolean): FlowReport[] {
  const open = book.flows().map((line) => flowReport(line))
  return isRecentToo
    ? [
        ...open,
        ...book.recent().map((line) => flowReport(line, line.reason === '' ? line.end : `${line.end}: ${line.reason}`)),
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

async function resolveOf(text: string, view: AgentView): Promise<ResolveReport> {
  const { vips, table, peek, self, config, interceptor } = view
  const target = await targetOf(text, view)
  interceptor.touch(target) // who is told an address may call it at once
  const { service, choice, vip } = target
  const entry = table.entry(service.id)
  const ipv6 = vipToIPv6(vips, vip)
  const ordered = entry && peek.order(target, entry, self, entry.instances.length)
  return {
    name: text,
    canonical: canonical(target, config.zones),
    service: service.id,
    choice: choiceKey(choice),
    ipv4: vipToIPv4(vips, vip),
    ...(ipv6 === undefined ? {} : { ipv6 }),
    ports: [...service.ports],
    order: (ordered?.instances ?? []).map(({ id, node, state }) => ({ instance: id, node, state })),
    reason: ordered?.reason ?? 'nothing runs',
  }
}

async function traceOf(text: string, view: AgentView): Promise<TraceReport> {
  const match = /^(.+):(\d{1,5})(?:\/(tcp|udp))?$/.exec(text)
  if (match === null || Number(match[2]) < 1 || Number(match[2]) > 65_535)
    throw new MeshError('USAGE', {
      target: text,
      remedy: 'write NAME:PORT, as shop.acme.cart.prod.any.closest.local:8080 (or :53/udp)',
    })
  const name = match[1] as string
  const target = await targetOf(name, view)
  const port = { port: Number(match[2]), protocol: match[3] === 'udp' ? 'udp' : 'tcp' } as const
  const steps = await trace(target, port, NODE_CALLER, view.parts, AbortSignal.timeout(10_000))
  const last = steps.at(-1)
  return {
    name,
    steps: [
      { step: 'name', what: canonical(target, view.config.zones) },
      ...(view.config.paths === 'any'
        ? []
        : [{ step: 'paths', what: `this node’s operator allows ${view.config.paths}` }]),
      ...steps.flatMap((step) => [
        describeStep(step, view.vips),
        ...(step.step === 'target' && view.fastPath !== undefined ? [fastPathStep(target, port, view.fastPath)] : []),
      ]),
    ],
    ok: last?.step === 'connected',
    ...(last?.step === 'connected'
      ? { instance: last.instance, node: last.node, path: last.path, connectMs: micro(last.ms) }
      : {}),
  }
}

function describeStep(step: TraceStep, vips: VipRange): TraceReport['steps'][number] {
  switch (step.step) {
    case 'target':
      return { step: 'vip', what: `${vipToIPv4(vips, step.vip)}:${step.port}`, ms: micro(step.ms) }
    case 'authorised':
      return {
        step: 'permission',
        what: `${step.caller} ${step.allowed ? 'may' : 'may not'} call: ${step.reason}`,
        ms: micro(step.ms),
      }
    case 'ordered':
      return {
        step: 'order',
        what: `${step.instances.map(({ instance, node }) => `${instance} on ${node}`).join(', ') || 'none'} (${step.reason})`,
        ms: micro(step.ms),
      }
    case 'tried':
      return {
        step: 'try',
        what: `${step.instance} on ${step.node} by ${step.path ?? 'no path'}: ${step.outcome}${step.reason === '' ? '' : `, ${step.reason}`}`,
        ms: micro(step.ms),
      }
    case 'connected':
      return { step: 'connected', what: `${step.instance} on ${step.node}, path ${step.path}`, ms: micro(step.ms) }
    case 'failed':
      return { step: 'failed', what: step.reason, ms: micro(step.ms) }
    default:
      return step satisfies never
  }
}

/** Which path flows of this node's processes take; the rest of a trace is one that the agent makes itself. */
function fastPathStep(
  target: Target,
  port: Parameters<FastPath['explain']>[1],
  fastPath: FastPath,
): TraceReport['steps'][number] {
  const { path, reason } = fastPath.explain(target, port)
  return { step: 'fast path', what: path === 'kernel' ? `kernel: ${reason}` : `user space, because ${reason}` }
}

function fastPathText({ fault, isOn, size }: FastPath): string {
  return fault === undefined ? (isOn ? `on for ${size} VIPs and ports` : 'off') : `off: ${fault.reason}`
}

function fastPathCheck(fastPath: FastPath): CheckReport['checks'][number] {
  const { fault, flaw, isOn } = fastPath
  const check = 'fast path'
  if (fault !== undefined) {
    return { check, ok: false, finding: `off, flows stay in user space: ${fault.reason}`, remedy: fault.remedy }
  }
  return { check, ok: isOn, finding: [fastPathText(fastPath), ...(flaw === undefined ? [] : [flaw])].join('; ') }
}

/** To the microsecond: what comes after is noise. */
function micro(ms: number): number {
  return Math.round(ms * 1_000) / 1_000
}

/** @throws MeshError NAME_INVALID, SERVICE_UNKNOWN, or that the cluster cannot be asked */
async function targetOf(text: string, { table, interests, config }: AgentView): Promise<Target> {
  const parsed = parseName(text, config.zones)
  if (parsed.kind === 'outside')
    throw new MeshError('NAME_INVALID', {
      name: text,
      reason: `it ends in none of the zones ${config.zones.join(', ')}`,
    })
  if (parsed.kind === 'invalid')
    throw new MeshError('NAME_INVALID', { name: text, label: parsed.label, reason: parsed.reason })
  let found = table.find(parsed.name)
  if (found.kind === 'unasked') {
    await interests.want(found.key)
    found = table.find(parsed.name)
  }
  if (found.kind === 'target') return found.target
  throw new MeshError('SERVICE_UNKNOWN', {
    name: text,
    reason: found.kind === 'unknown' ? found.reason : 'the cluster does not know it',
  })
}

function canonical({ service, choice }: Target, [zone = 'local']: readonly string[]): string {
  const { app, appNamespace, name, namespace } = service
  return printName({ app, appNamespace, service: name, serviceNamespace: namespace, choice }, zone)
}

function checksOf({ uplink, interceptor, resolver, identity, config, table, peers, fastPath }: AgentView): CheckReport {
  const hoursLeft = (identity.notAfter.getTime() - Date.now()) / 3_600_000
  const { address, port } = resolver.address
  return {
    checks: [
      {
        check: 'control link',
        ok: uplink.isUp,
        finding: uplink.isUp
          ? 'up'
          : `down; names and flows go on from what is known (${table.counts.services} services)`,
        remedy: 'Is the cluster running and reachable from here?',
      },
      {
        check: 'certificate',
        ok: hoursLeft > 1,
        finding: `good for ${hoursLeft.toFixed(1)} hours, renews itself`,
        remedy: 'It renews over the control link; else join again with a new token.',
      },
      {
        check: 'resolver',
        ok: true,
        finding:
          port === 53
            ? `${address}; programs need "nameserver ${address}" in resolv.conf`
            : `${address}:${port}; port 53 was not to be had, so stub resolvers cannot use it directly (proxies and hedgerow exec work)`,
      },
      {
        check: 'upstream name servers',
        ok: resolver.upstreams.length > 0,
        finding: resolver.upstreams.map(({ address, port }) => `${address}:${port}`).join(', ') || 'none',
        remedy: 'Names outside the mesh are refused: give --upstream, or a nameserver in /etc/resolv.conf.',
      },
      udpCheck([...peers.all()], config.udp),
      {
        check: 'interception',
        ok: interceptor.problems().length === 0,
        finding: `${interceptor.size} listeners in ${config.mode} mode`,
      },
      ...(fastPath === undefined ? [] : [fastPathCheck(fastPath)]),
      ...interceptor.problems().map(({ address, port, reason, remedy }) => ({
        check: `listener ${address}:${port}`,
        ok: false,
        finding: reason,
        remedy,
      })),
    ],
  }
}

/** Whether sealed packets reach the nodes that datagrams are sent to now. */
function udpCheck(sessions: readonly Session[], isOn: boolean): CheckReport['checks'][number] {
  const blocked = sessions.filter(({ datagrams }) => datagrams === 'blocked').map(({ peer }) => peer)
  const sealed = sessions.filter(({ datagrams }) => datagrams === 'sealed').length
  const finding = isOn ? `sealed straight to ${sealed} nodes` : 'off; datagrams go over carriers'
  return {
    check: 'datagrams over UDP',
    ok: blocked.length === 0,
    finding: blocked.length === 0 ? finding : `${finding}; no packet gets through to ${blocked.join(', ')}, frames do`,
    remedy:
      'Let UDP through to the port of --listen, as TCP; until then datagrams share the carriers and come late when those are full.',
  }
}
