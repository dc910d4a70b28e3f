import { connect, type Socket } from 'node:net'
import type { HeldIdentity } from '../../src/core/identity/held.ts'
import { connectSecure, createAcceptor } from '../../src/core/identity/peer-tls.ts'
import { systemClock, type Clock } from '../../src/core/kit/clock.ts'
import { Lifetime } from '../../src/core/kit/lifetime.ts'
import { openMetrics, type Metrics } from '../../src/core/metrics.ts'
import { vipToIPv4 } from '../../src/core/model/address.ts'
import type { InstanceId, NodeId, ServiceId } from '../../src/core/model/ids.ts'
import type { NodeReach } from '../../src/core/model/node.ts'
import { ANY_PATH } from '../../src/core/model/path-rule.ts'
import { callerAddress } from '../../proxy/inbound/caller.ts'
import type { Endpoint } from '../../proxy/socket/dial.ts'
import { NODE_CALLER, type Caller } from '../../proxy/flow/flow.ts'
import { FlowLedger } from '../../proxy/flow/ledger.ts'
import type { FlowSpans } from '../../proxy/flow/spans.ts'
import { flowRules } from '../../proxy/decide/flow-rules.ts'
import { Inbound, INBOUND_LIMITS, type InboundLimits, type InboundParts } from '../../proxy/inbound/inbound.ts'
import { introduce, type Introductions } from '../../proxy/inbound/caller.ts'
import { LoopbackInterceptor } from '../../proxy/intercept/loopback.ts'
import { OUTBOUND_LIMITS } from '../../proxy/outbound/establish.ts'
import { outbound, type OutboundParts } from '../../proxy/outbound/outbound.ts'
import { directDialer, DirectListener } from '../../proxy/paths/direct-path.ts'
import { createBalancer } from '../../proxy/policies/index.ts'
import { openPeers, type PeersOptions, type TunnelPeers } from '../../proxy/tunnel/peers/peers.ts'
import { Outliers } from '../../proxy/decide/outliers.ts'
import { KeyedSemaphore } from '../../src/core/kit/keyed-semaphore.ts'
import { TestMesh } from '../identity/mesh.ts'
import { nextVip, OWN_RANGE as RANGE } from '../support/own-vips.ts'
import { Client, keptLog, LiteralTable, type ServiceFacts } from './world.ts'

/*
 * The data planes of a few nodes in this process, with real sockets and real TLS between them; the table is a literal.
 *
 *     Client ─▶ VIP listener of `near` ─▶ outbound ═ TLS ═ inbound of `far` ─▶ whatever listens at its endpoints
 */

export interface AgentsOptions {
  services: ServiceFacts[]
  /** Where instances listen, on the node they are on. */
  endpoints: Record<InstanceId, Endpoint>
  /** Names of nodes of cluster `edge`; the first is where callers are. */
  nodes?: readonly string[]
  clock?: Clock
  inbound?: Partial<InboundLimits>
  outbound?: Partial<OutboundParts['limits']>
  peers?: Partial<PeersOptions>
  caller?: Caller
  /** Absent: nothing is traced. */
  spans?: (node: string) => FlowSpans
  /** Of a node; without end when not given. */
  descriptors?: (node: string) => OutboundParts['descriptors']
}

/**
 * For tests about memory and counts: both agents, callers and instances share one event loop, so that on a busy machine an
 * OPEN waits behind hundreds of megabytes of the others.
 */
export const PATIENT = { outbound: { waitMs: 60_000 }, openTimeoutMs: 60_000 } as const

export interface AgentOf {
  self: NodeId
  parts: OutboundParts
  peers: TunnelPeers
  ledger: FlowLedger
  inbound: Inbound
  listener: DirectListener
  log: ReturnType<typeof keptLog>
  metrics: Metrics
  [Symbol.asyncDispose](): Promise<void>
}

/** What the parts of one node share. */
interface Basics
  extends Pick<OutboundParts, 'clock' | 'descriptors' | 'endpointOf'>,
    Pick<InboundParts, 'spans'>,
    Pick<AgentOf, 'self' | 'log' | 'metrics'> {
  identity: Awaited<ReturnType<TestMesh['node']>>
  acceptor: ReturnType<typeof createAcceptor>
  introductions: Introductions
}

export class Agents implements AsyncDisposable {
  readonly table: LiteralTable
  readonly nodes = new Map<string, AgentOf>()
  readonly #life = new Lifetime()
  readonly #mesh: TestMesh
  readonly #options: AgentsOptions
  readonly #cluster: Awaited<ReturnType<TestMesh['cluster']>>
  #interceptor: Awaited<ReturnType<typeof LoopbackInterceptor.start>> | undefined

  private constructor(mesh: TestMesh, cluster: Awaited<ReturnType<TestMesh['cluster']>>, options: AgentsOptions) {
    this.#mesh = mesh
    this.#cluster = cluster
    this.#options = options
    this.table = new LiteralTable()
  }

  static async start(options: AgentsOptions): Promise<Agents> {
    const mesh = await TestMesh.create()
    const agents = new Agents(mesh, await mesh.cluster('edge'), options)
    agents.#life.use(mesh)
    for (const name of options.nodes ?? ['near', 'far']) await agents.start(name)
    for (const service of options.services) agents.know(service)
    const near = agents.near
    agents.#interceptor = agents.#life.use(
      await LoopbackInterceptor.start({ range: RANGE }, () => options.caller ?? NODE_CALLER, {
        table: agents.table,
        clock: near.parts.clock,
        log: near.log,
        metrics: near.metrics,
        onFlow: (flow) => void outbound(flow, near.parts),
      }),
    )
    return agents
  }

  get near(): AgentOf {
    return this.nodes.get(this.#options.nodes?.[0] ?? 'near') as AgentOf
  }

  node(name: string): AgentOf {
    return this.nodes.get(name) as AgentOf
  }

  /** Of a further node, which is not started here. */
  identity(name: string): Promise<HeldIdentity> {
    return this.#mesh.node(this.#cluster, name)
  }

  /** Writes a service into the table, its nodes with their addresses; it serves port 8080. */
  know(facts: ServiceFacts): void {
    const ordinals = (facts.on ?? []).map((_, ordinal) => `${ordinal}.pinned` as const)
    const vips = facts.vips ?? Object.fromEntries(['any.rr', ...ordinals].map((choice) => [choice, nextVip()]))
    const entry = this.table.set({ ports: [8080], ...facts, vips })
    const nodes = entry.nodes.map(({ id }) => this.#reachOf(id))
    this.table.entries.set(facts.id, { ...entry, nodes })
  }

  /** Where callers find a service; its listener is open. */
  vip(service: ServiceId): string {
    const target = this.table.target(service)
    void this.#interceptor?.prepare(target)
    return vipToIPv4(RANGE, target.vip)
  }

  call(service: ServiceId): Promise<Client> {
    return Client.connect(8080, this.vip(service))
  }

  /** The same without waiting: for connections that may be refused. */
  dial(service: ServiceId): Client {
    return new Client(connect({ host: this.vip(service), port: 8080, allowHalfOpen: true }))
  }

  /** Starts a node, or starts it again under its old address. */
  async start(name: string, port = 0): Promise<AgentOf> {
    const life = new Lifetime()
    const node = await this.#basics(name, life)
    const { self, clock, log, metrics, spans } = node
    const inbound = await this.#inboundOf(node)
    const peers = life.use(openPeers(this.#peersOptions(node, inbound)))
    life.use(inbound)
    const ledger = life.use(await FlowLedger.start({ drainMs: 0 }, { clock, log, metrics, spans }))
    const listener = life.use(
      await DirectListener.start({ host: '127.0.0.1', port }, (raw) => peers.incoming(raw), log),
    )
    const parts = this.#outboundParts(node, peers, ledger)
    const close = async () => {
      await life.close()
      metrics.registry.clear()
    }
    const agent: AgentOf = { self, parts, peers, ledger, inbound, listener, log, metrics, [Symbol.asyncDispose]: close }
    this.nodes.set(name, agent)
    return agent
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#life.close()
    for (const agent of this.nodes.values()) await agent[Symbol.asyncDispose]()
  }

  /** What all parts of a node share. */
  async #basics(name: string, life: Lifetime): Promise<Basics> {
    const { clock = systemClock, endpoints, descriptors, spans } = this.#options
    const self: NodeId = `edge/${name}`
    const addressOf = callerAddress(this.table, RANGE)
    const identity = await this.#mesh.node(this.#cluster, name)
    return {
      self,
      identity,
      acceptor: life.use(createAcceptor(identity)),
      spans: spans?.(name),
      clock,
      log: keptLog(),
      metrics: openMetrics('agent'),
      descriptors: descriptors?.(name) ?? { reserve: () => true },
      introductions: { addressOf, uriOf: (node: NodeId) => `spiffe://mesh/${node}` },
      endpointOf: (id) => (this.table.instance(id)?.node === self ? endpoints[id] : undefined),
    }
  }

  #inboundOf({ self, descriptors, introductions, endpointOf, spans, log, metrics }: Basics): Promise<Inbound> {
    return Inbound.start({
      spans,
      descriptors,
      table: this.table,
      interests: { want: async () => undefined, wantVip: async () => undefined },
      self,
      endpointOf,
      isDraining: () => false,
      addressOf: introductions.addressOf,
      introduce: (request, from) => introduce(request, from, introductions),
      limits: { ...INBOUND_LIMITS, drainMs: 0, ...this.#options.inbound },
      log,
      metrics,
    })
  }

  #peersOptions({ self, identity, acceptor, clock, log, metrics }: Basics, inbound: Inbound): PeersOptions {
    return {
      self,
      dialers: [directDialer()],
      secure: {
        connect: ({ stream }, node, signal) => connectSecure(stream, identity, node, signal),
        accept: ({ stream }) => acceptor.accept(stream),
      },
      accept: inbound.take,
      clock,
      log,
      metrics,
      drainMs: 0,
      ...this.#options.peers,
    }
  }

  #outboundParts(node: Basics, peers: TunnelPeers, ledger: FlowLedger): OutboundParts {
    const { self, clock, descriptors, introductions, endpointOf, metrics } = node
    const { addressOf } = introductions
    const limits = { ...OUTBOUND_LIMITS, ...this.#options.outbound }
    return {
      descriptors,
      outliers: new Outliers(),
      earlyData: true,
      openings: new KeyedSemaphore(limits.opening),
      table: this.table,
      peers,
      self,
      endpointOf,
      clock,
      dial: (request) => ({
        timeoutMs: 2_000,
        from: request.caller.kind === 'instance' ? addressOf(request.caller.id) : undefined,
        introduce: (localPort) => introduce(request, { peer: self, localPort }, introductions),
      }),
      ruleOf: flowRules(ANY_PATH, this.table),
      balancer: createBalancer({
        rttMs: (peer) => peers.rttMs(peer),
        isHere: (peer) => peer === self,
        openFlows: (id) => ledger.openFlows(id),
      }),
      ledger,
      limits,
      metrics,
    }
  }

  #reachOf(id: NodeId): NodeReach {
    const port = this.nodes.get(id.slice('edge/'.length))?.listener.port
    return { id, addresses: port === undefined ? [] : [`127.0.0.1:${port}`], relays: [] }
  }
}

/** A socket's end: `ok`, or the error's code. */
export function endOf(socket: Socket): Promise<string> {
  return new Promise((resolve) => {
    let code = 'ok'
    socket.on('error', (error: NodeJS.ErrnoException) => (code = error.code ?? ''))
    socket.on('close', () => resolve(code))
  })
}
