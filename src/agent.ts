import { join } from 'node:path'
import { callerAddress } from '../proxy/caller-address.ts'
import { FlowBook } from '../proxy/flow-book.ts'
import type { Flow } from '../proxy/flow.ts'
import { Inbound, INBOUND_LIMITS } from '../proxy/inbound.ts'
import { CallerFinder } from '../proxy/intercept/caller.ts'
import { HostInterceptor } from '../proxy/intercept/host.ts'
import { HttpInterceptor } from '../proxy/intercept/http.ts'
import { LoopbackInterceptor } from '../proxy/intercept/loopback.ts'
import { SocksInterceptor } from '../proxy/intercept/socks.ts'
import { outbound, OUTBOUND_LIMITS, type OutboundParts } from '../proxy/outbound.ts'
import { directDialer, DirectListener } from '../proxy/paths/direct.ts'
import { relayedDialer, RelayListener } from '../proxy/paths/relayed.ts'
import { createBalancer } from '../proxy/policies/index.ts'
import { Prober } from '../proxy/prober.ts'
import { openPeers } from '../proxy/tunnel/peers.ts'
import {
  clusterCredentials,
  describeChoice,
  hostRange,
  nodeOf,
  onPort,
  OwnAddresses,
  reachableAt,
  secureWith,
  startResolver,
  wishing,
} from './agent-parts.ts'
import { agentRoutes, statusOf, type AgentView } from './agent-routes.ts'
import { hostPort, type AgentConfig } from './config.ts'
import { systemClock } from './kit/clock.ts'
import { MeshError } from './errors.ts'
import { Lifetime } from './kit/lifetime.ts'
import type { Log } from './kit/log.ts'
import { LocalApi, type LocalRoute } from './local-api.ts'
import { openPrivateDirectory } from './identity/files.ts'
import { machineFacts } from './machine.ts'
import { openMetrics } from './metrics.ts'
import type { InstanceId, NodeId } from './model/ids.ts'
import { ExternalRuntime } from './orchestrator/worker/external-runtime.ts'
import { ProcessRuntime } from './orchestrator/worker/process-runtime.ts'
import { enrolNode } from './orchestrator/worker/join.ts'
import { Uplink } from './orchestrator/worker/uplink.ts'
import { Worker } from './orchestrator/worker/worker.ts'
import { claimPrefix } from './prefix.ts'
import { ProxyAccess } from './proxies.ts'
import { Feed, type FeedSource } from './table/feed.ts'
import { Interests } from './table/interests.ts'
import { SavedTable } from './table/saved.ts'
import { Table } from './table/table.ts'

export interface AgentOptions {
  /** The agent's own state directory; made when absent. */
  dir: string
  config: AgentConfig
  version: string
  /** The join token; needed at the first start only. */
  token?: string
  /** Of which instances get what every program needs: PATH, HOME, language, time zone. */
  environment?: Readonly<Record<string, string | undefined>>
}

/** How soon the cluster hears that the machine has other addresses. */
const ADDRESSES_MS = 5_000

/**
 * One node: everything that runs on it, wired. Read downwards: who we are, what we know, what we run, how we reach
 * others, how flows come in, and last the resolver, so that names are answered once all else can serve.
 */
export class Agent implements AsyncDisposable {
  readonly node: NodeId
  /** Never settles by itself: every part of an agent mends itself or says so in `check`. */
  readonly done: Promise<void>
  readonly #life: Lifetime
  readonly #summary: Record<string, string>

  private constructor(node: NodeId, life: Lifetime, done: Promise<void>, summary: Record<string, string>) {
    this.node = node
    this.#life = life
    this.done = done
    this.#summary = summary
  }

  static start({ dir, config, version, token, environment = {} }: AgentOptions, parentLog: Log): Promise<Agent> {
    return Lifetime.open(async (life) => {
      const clock = systemClock
      const metrics = openMetrics('agent')
      const startedAt = clock.wall()
      await openPrivateDirectory(dir)
      const routes: Record<string, LocalRoute> = {}
      life.use(await LocalApi.start(join(dir, 'agent.sock'), routes)) // first: one agent per state directory

      const { identity, url } = await enrolNode(
        { dir: join(dir, 'identity'), name: config.name, clock, ...(token === undefined ? {} : { token }) },
        life.signal,
      )
      const self = nodeOf(identity)
      const log = parentLog.child({ node: self })
      const claims = { uplink: false, resolver: false }
      const { loopback, ops } = await claimPrefix(config.mode === 'host' ? 'auto' : config.prefix, dir, {
        metrics,
        ready: () => claims,
      })
      life.use(ops)
      const vips = config.mode === 'host' ? hostRange(config.prefix, identity) : loopback

      // what we know
      const table = new Table({ clock })
      life.use(await SavedTable.start({ table, path: join(dir, 'table.json'), clock }, log))
      let link: Uplink | undefined // starts last, and tells everything that was reported before
      const linked = (): Uplink => {
        if (link === undefined) throw new MeshError('LINK_CLOSED', { reason: 'the agent is starting' })
        return link
      }
      const source: FeedSource = {
        ask: async (key, signal) => linked().ask(key, signal),
        askVip: async (vip, signal) => linked().askVip(vip, signal),
        forget: (keys) => link?.forget(keys),
        messages: (point, signal) => linked().messages(point, signal),
      }
      const interests = life.use(await Interests.start({ table, source, clock }, log))

      // how we reach others, and they us
      let worker: Worker | undefined // needs the proxies' ports, which need all before it
      const endpointOf = (instance: InstanceId, port: number) => worker?.endpointOf(instance, port)
      const own = new OwnAddresses(loopback, vips)
      const addressOf = callerAddress(table, loopback)
      const inbound = await Inbound.start({
        table,
        interests,
        self,
        endpointOf,
        isDraining: (instance) => worker?.isDraining(instance) ?? true,
        forbids: own.forbids,
        addressOf,
        limits: { ...INBOUND_LIMITS, maxFlows: config.maxFlows, drainMs: config.drainSeconds * 1_000 },
        log,
        metrics,
      })
      const revoked = new Set<NodeId>()
      const direct = directDialer({ exclude: own.isVip })
      const peers = life.use(
        openPeers({
          self,
          dialers: [direct, relayedDialer({ credentials: () => clusterCredentials(identity) })],
          secure: secureWith(identity, revoked, direct, life),
          accept: inbound.take,
          reach: (node) => table.node(node),
          clock,
          log,
          metrics,
          drainMs: config.drainSeconds * 1_000,
        }),
      )

      // how flows come in, and where they go
      const book = await FlowBook.start({ drainMs: config.drainSeconds * 1_000 }, clock, metrics)
      const measures = {
        rttMs: (node: NodeId) => peers.rttMs(node),
        isHere: (node: NodeId) => node === self,
        openFlows: (instance: InstanceId) => book.openFlows(instance),
      }
      const parts: OutboundParts = {
        table,
        peers,
        self,
        endpointOf,
        clock,
        dial: ({ caller }) => ({
          timeoutMs: INBOUND_LIMITS.dialMs,
          forbids: own.forbids,
          from: caller.kind === 'instance' ? addressOf(caller.id) : undefined,
        }),
        balancer: createBalancer(measures),
        book,
        limits: { ...OUTBOUND_LIMITS, maxFlows: config.maxFlows },
        log,
        metrics,
      }
      const intercept = { table, clock, log, metrics, onFlow: (flow: Flow) => void outbound(flow, parts) }
      const access = ProxyAccess.open(dir)
      const isHere = (user: string) =>
        user === 'node' || worker?.reports().some(({ instance }) => instance === user) === true
      const naming = {
        ...intercept,
        interests,
        zones: config.zones,
        ranges: [vips, loopback],
        credentials: (user: string) => (isHere(user) ? access.secretOf(user) : undefined),
      }
      const socks = life.use(
        await onPort(config.socksPort, access.socksPort, (port) => SocksInterceptor.start({ port }, naming)),
      )
      const http = life.use(
        await onPort(config.httpPort, access.httpPort, (port) => HttpInterceptor.start({ port }, naming)),
      )
      const proxyPorts = { socksPort: socks.port, httpPort: http.port }
      await access.keep(proxyPorts)
      const listener = await DirectListener.start(hostPort(config.listen), (raw) => peers.incoming(raw), log)
      const candidates = () => [...config.advertise, ...reachableAt(hostPort(config.listen).host, listener.port, own)]
      let addresses = candidates()

      // what we run
      const facts = () => machineFacts(self, config, { addresses, runtimes: ['process', 'external'], version })
      worker = life.use(
        await Worker.start(
          {
            facts: facts(),
            runtimes: [new ProcessRuntime({ node: self, inherited: environment, clock }), new ExternalRuntime()],
            logsDir: join(dir, 'logs'),
            runDir: join(dir, 'instances'),
            report: (report) => link?.report(report),
            openFlows: (instance) => book.openFlows(instance) + inbound.openFlows(instance),
            proxyEnvironment: (instance) => access.environment(instance, proxyPorts),
            clock,
          },
          log,
          metrics,
        ),
      )
      life.use(inbound) // closed before the worker: open flows may finish while their instances still run
      life.use(book)
      const callers = new CallerFinder(() => worker?.processes() ?? [])
      const interceptor = life.use(
        config.mode === 'host'
          ? await HostInterceptor.start({ range: vips }, callers.identify, intercept)
          : await LoopbackInterceptor.start({ range: vips }, callers.identify, intercept),
      )
      life.use(listener)

      // what the cluster tells us, and we it
      const uplink = life.use(
        Uplink.start(
          {
            urls: [url],
            identity,
            facts,
            worker: wishing(worker, interests),
            onRevoked: (nodes) => {
              for (const node of nodes) {
                revoked.add(node)
                peers.cut(node)
              }
            },
            clock,
          },
          log,
          metrics,
        ),
      )
      link = uplink
      life.every(ADDRESSES_MS, () => {
        if (candidates().join() === addresses.join()) return
        addresses = candidates()
        uplink.factsChanged()
      })
      life.use(await Feed.start({ table, interests, source, clock }, log, metrics))
      life.use(
        await RelayListener.start(
          {
            url: `${url.replace(/^http/, 'ws')}/relay`,
            credentials: () => clusterCredentials(identity),
            onConnection: (raw) => peers.incoming(raw),
            clock,
          },
          log,
        ),
      )
      life.use(await Prober.start({ table, peers, self, clock }))

      // names, last
      const peek = createBalancer(measures) // its own turns, so that looking does not move the round on
      const resolver = life.use(
        await startResolver(
          config,
          vips,
          {
            table,
            interests,
            explainChoice: (target) => describeChoice(target, table, peek, self),
            onAnswered: (target) => interceptor.touch(target),
          },
          log.child({ part: 'resolver' }),
          metrics,
        ),
      )
      own.add(listener.port, socks.port, http.port, resolver.address.port, new URL(ops.address).port)
      life.every(500, () => (claims.uplink = uplink.isUp))
      claims.resolver = true

      const view: AgentView = {
        self,
        version,
        startedAt,
        config,
        vips,
        identity,
        table,
        interests,
        peers,
        book,
        parts,
        peek,
        uplink,
        interceptor,
        worker,
        resolver,
        access,
        proxyPorts,
        ops: ops.address,
        tunnelPort: listener.port,
      }
      Object.assign(routes, agentRoutes(view))
      log.info('agent started', { mode: config.mode, address: resolver.address.address, prefix: vips.cidr4 })
      const status = statusOf(view)
      return new Agent(self, life, new Promise(() => undefined), {
        role: 'agent',
        node: self,
        mode: status.mode,
        prefix: status.prefix,
        resolver: status.resolver,
        socks: status.socks,
        http: status.http,
        tunnel: status.tunnel,
        health: ops.address,
      })
    })
  }

  summary(): Record<string, string> {
    return this.#summary
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }
}
