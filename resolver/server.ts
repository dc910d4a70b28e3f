import { MeshError } from '../src/core/errors.ts'
import { Lifetime } from '../src/core/kit/lifetime.ts'
import { LocalSources } from '../src/core/kit/local-sources.ts'
import type { Log } from '../src/core/kit/log.ts'
import type { SharedAddress } from '../src/core/kit/bind-shared.ts'
import type { Metrics } from '../src/core/metrics.ts'
import { cidrsOf } from '../src/core/model/address.ts'
import type { InterestSource, TableView } from '../src/core/table/view.ts'
import type { AnswerSettings } from './answer.ts'
import { type BeforeForwarded, type MaySee, type Prepare, Responder } from './responder.ts'
import type { Server } from './resolv-conf.ts'
import { TcpListener } from './tcp-listener.ts'
import { UdpListener } from './udp-listener.ts'
import { type RememberedServers, Upstream, type UpstreamOptions } from './upstream.ts'

/*
 *   udp-listener.ts ─┐                  ┌─▶ table (answer.ts)
 *                    ├─▶ responder.ts ──┼─▶ the cluster, for a name that this node has not used yet
 *   tcp-listener.ts ─┘                  └─▶ upstream.ts, for names outside the mesh
 */

export interface ResolverLimits {
  /** Questions that wait for the cluster, and as many for an upstream; one more, and the oldest of the user that has most gets SERVFAIL (waiting.ts). */
  underWay?: number
  /** Smaller shuts out honest clients, larger lets one program hold more memory. */
  tcpConnections?: number
  /** A connection ends after this long without a whole question, or when the client does not read its replies. */
  tcpIdleMs?: number
  upstreamTryMs?: number
  upstreamTotalMs?: number
}

export interface ResolverOptions extends AnswerSettings {
  table: TableView
  interests: InterestSource
  /** Port 0: one that is free for both UDP and TCP. */
  listen: SharedAddress
  /** `10.0.0.1`, `10.0.0.1:5353`, `[fd00::1]:53`; absent: those of the machine (resolv.conf); empty: none. */
  upstreams?: readonly string[]
  /** Where the servers of the machine are remembered, for when resolv.conf names only this resolver. */
  remembered?: RememberedServers
  ttlSeconds: number
  /** How long a client may remember that a name does not exist. */
  negativeTtlSeconds: number
  limits?: ResolverLimits
  /** See ResponderSettings. */
  prepare?: Prepare
  maySee?: MaySee
  beforeForwarded?: BeforeForwarded
  /** Who may ask; absent: this machine alone. */
  sources?: Pick<LocalSources, 'admits'> & Partial<Pick<LocalSources, 'isHere'>>
}

/** Ports that may turn out to be free for UDP but not for TCP, until we give up. */
const PORT_TRIES = 10

/** The agent's DNS server. */
export class Resolver {
  /** Where it listens, by UDP and TCP. */
  readonly address: Server
  readonly #life: Lifetime
  readonly #upstream: Upstream

  /** @throws MeshError LISTEN_FAILED; its cause says why (EACCES: a port below 1024 without the capability). */
  static start(options: ResolverOptions, log: Log, metrics: Metrics): Promise<Resolver> {
    return Lifetime.open(async (life) => {
      const { limits = {}, table, interests, listen } = options
      const { udp, tcp } = await bind(listen, limits)
      life.use(tcp)
      life.use(udp)
      const own = { address: listen.host, port: udp.port }
      const upstream = life.use(await Upstream.start(upstreamOptions(options, own), log))
      const zones = options.zones.map((zone) => zone.toLowerCase())
      const sources: Required<ResolverOptions>['sources'] =
        options.sources ?? new LocalSources(log, { ranges: cidrsOf(options.range) })
      const isHere = (address: string) => sources.isHere?.(address)
      const settings = { ...options, zones, underWay: limits.underWay ?? 512, isHere }
      const responder = life.use(await Responder.start({ table, interests, upstream, settings }, log, metrics))
      const admits = (address: string) => sources.admits(address, 'resolver')
      udp.serve({ admits, respond: (packet, from) => responder.respond(packet, 'udp', from) }, log)
      life.defer(() => udp.close()) // before the responder: what has arrived is answered
      tcp.serve({ admits, respond: (packet, from) => responder.respond(packet, 'tcp', from) }, log)
      log.info('resolver listens', { address: `${own.address}:${own.port}` })
      return new Resolver(own, upstream, life)
    })
  }

  private constructor(address: Server, upstream: Upstream, life: Lifetime) {
    this.address = address
    this.#upstream = upstream
    this.#life = life
  }

  /** The servers that are asked for names outside the mesh. */
  get upstreams(): readonly Server[] {
    return this.#upstream.servers
  }

  /** The servers are those of an earlier time: resolv.conf names none but this resolver. */
  get isRemembered(): boolean {
    return this.#upstream.isRemembered
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }
}

function upstreamOptions({ upstreams, remembered, limits = {} }: ResolverOptions, own: Server): UpstreamOptions {
  const { upstreamTryMs: tryMs, upstreamTotalMs: totalMs } = limits
  return {
    own,
    ...(upstreams === undefined ? {} : { servers: upstreams }),
    ...(remembered === undefined ? {} : { remembered }),
    ...(tryMs === undefined ? {} : { tryMs }),
    ...(totalMs === undefined ? {} : { totalMs }),
  }
}

/** One port for both protocols: where any will do, others are tried until one is free for TCP too. */
async function bind(listen: SharedAddress, limits: ResolverLimits): Promise<{ udp: UdpListener; tcp: TcpListener }> {
  for (let tries = 1; ; tries++) {
    const udp = await UdpListener.start(listen).catch((cause: unknown) => {
      throw listenFailed(listen, 'udp', cause)
    })
    try {
      const tcp = await TcpListener.start({
        ...listen,
        port: udp.port,
        connections: limits.tcpConnections ?? 128,
        idleMs: limits.tcpIdleMs ?? 10_000,
      })
      return { udp, tcp }
    } catch (cause) {
      await udp.close()
      const isTaken = (cause as NodeJS.ErrnoException).code === 'EADDRINUSE'
      if (!isTaken || listen.port !== 0 || tries === PORT_TRIES) throw listenFailed(listen, 'tcp', cause)
    }
  }
}

function listenFailed({ host, port }: SharedAddress, protocol: string, cause: unknown): MeshError {
  return new MeshError('LISTEN_FAILED', { address: `${host}:${port}`, protocol }, { cause })
}
