import { createSocket, type RemoteInfo, type Socket } from 'node:dgram'
import { isIPv6 } from 'node:net'
import { MeshError } from '../src/core/errors.ts'
import { closeWhenIdle } from '../src/core/kit/close-when-idle.ts'
import { Lifetime } from '../src/core/kit/lifetime.ts'
import { LocalSources } from '../src/core/kit/local-sources.ts'
import type { Log } from '../src/core/kit/log.ts'
import type { SharedAddress } from '../src/core/kit/bind-shared.ts'
import type { Metrics } from '../src/core/metrics.ts'
import { cidrsOf } from '../src/core/model/address.ts'
import type { InterestSource, TableView } from '../src/core/table/view.ts'
import type { AnswerSettings } from './answer.ts'
import { type Prepare, Responder } from './responder.ts'
import type { Server } from './resolv-conf.ts'
import { TcpListener } from './tcp-listener.ts'
import { Upstream } from './upstream.ts'

/*
 *   udp socket ─┐                  ┌─▶ table (answer.ts)
 *               ├─▶ responder.ts ──┼─▶ the cluster, for a name nobody asked for yet
 *   tcp door ───┘                  └─▶ upstream.ts, for names that are not ours
 */

export interface ResolverLimits {
  /** Questions that wait for the cluster, and as many for an upstream; one more gets SERVFAIL at once. */
  underWay?: number
  /** Smaller shuts out honest clients, larger lets one program hold more memory. */
  tcpConnections?: number
  /** Without a whole question, or with nobody reading the replies, a connection ends. */
  tcpIdleMs?: number
  upstreamTryMs?: number
  upstreamTotalMs?: number
}

export interface ResolverOptions extends AnswerSettings {
  table: TableView
  interests: InterestSource
  /** Port 0: one that is free for both UDP and TCP. */
  listen: SharedAddress
  /** `10.0.0.1`, `10.0.0.1:5353`, `[fd00::1]:53`; absent: the host's own (resolv.conf), empty: none. */
  upstreams?: readonly string[]
  ttlSeconds: number
  /** How long others may remember that a name does not exist. */
  negativeTtlSeconds: number
  limits?: ResolverLimits
  /** See ResponderSettings. */
  prepare?: Prepare
  /** Who may ask; absent: this machine alone. */
  sources?: Pick<LocalSources, 'admits'>
}

/** Tries at a port that is free for UDP, but not for TCP. */
const PORT_TRIES = 10
/** Holds a burst while the loop is busy; the kernel caps it at net.core.rmem_max. */
const RECEIVE_BYTES = 1 << 20

/** The agent's DNS server. */
export class Resolver {
  /** Where it listens, by UDP and TCP. */
  readonly address: Server
  readonly #life: Lifetime
  readonly #upstream: Upstream

  /** @throws MeshError LISTEN_FAILED; its cause says why (EACCES: a port below 1024 without the capability). */
  static start(options: ResolverOptions, log: Log, metrics: Metrics): Promise<Resolver> {
    return Lifetime.open(async (life) => {
      const { limits = {} } = options
      const sockets = await bind(options.listen, limits)
      life.use(sockets.tcp)
      const closeUdp = once(() => closeWhenIdle([sockets.udp], 'message'))
      life.defer(closeUdp)
      const own = { address: options.listen.host, port: sockets.udp.address().port }
      const upstream = life.use(
        await Upstream.start(
          {
            own,
            ...(options.upstreams === undefined ? {} : { servers: options.upstreams }),
            ...(limits.upstreamTryMs === undefined ? {} : { tryMs: limits.upstreamTryMs }),
            ...(limits.upstreamTotalMs === undefined ? {} : { totalMs: limits.upstreamTotalMs }),
          },
          log,
        ),
      )
      const settings = {
        ...options,
        zones: options.zones.map((zone) => zone.toLowerCase()),
        underWay: limits.underWay ?? 512,
      }
      const { table, interests } = options
      const responder = life.use(await Responder.start({ table, interests, upstream, settings }, log, metrics))
      const sources = options.sources ?? new LocalSources(log, { ranges: cidrsOf(options.range) })
      const admits = (address: string) => sources.admits(address, 'resolver')
      let isOpen = true
      serveUdp(sockets.udp, { responder, log, admits, isOpen: () => isOpen })
      life.defer(() => closeUdp().then(() => void (isOpen = false))) // before the responder: what still comes is answered
      sockets.tcp.serve({ admits, respond: (packet, from) => responder.respond(packet, 'tcp', from) })
      log.info('resolver listens', { address: `${own.address}:${own.port}` })
      return new Resolver(own, upstream, life)
    })
  }

  private constructor(address: Server, upstream: Upstream, life: Lifetime) {
    this.address = address
    this.#upstream = upstream
    this.#life = life
  }

  /** Where names outside the mesh are asked now. */
  get upstreams(): readonly Server[] {
    return this.#upstream.servers
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }
}

interface UdpParts {
  responder: Responder
  log: Log
  admits: (address: string) => boolean
  isOpen: () => boolean
}

/** Replies from the table are sent before the next packet is read. */
function serveUdp(socket: Socket, { responder, log, admits, isOpen }: UdpParts): void {
  const send = (reply: Buffer | undefined, to: RemoteInfo) => {
    if (reply !== undefined && isOpen()) socket.send(reply, to.port, to.address)
  }
  socket.on('error', (error) => log.debug('a DNS reply could not be sent', { error }))
  const take = (packet: Buffer, from: RemoteInfo) => {
    if (from.port === 0 || !admits(from.address)) return // nowhere to answer to, or nobody who may ask
    const reply = responder.respond(packet, 'udp', from)
    if (reply instanceof Promise) void reply.then((late) => send(late, from))
    else send(reply, from)
  }
  socket.on('message', take)
  for (const [packet, from] of held.get(socket)?.() ?? []) take(packet, from)
}

/** What comes between binding and serving: beside another agent, half of all questions. Returns them, and holds no more. */
const held = new WeakMap<Socket, () => Array<[Buffer, RemoteInfo]>>()
const HELD = 1_000

function hold(socket: Socket): void {
  const packets: Array<[Buffer, RemoteInfo]> = []
  const keep = (packet: Buffer, from: RemoteInfo) => void (packets.length < HELD && packets.push([packet, from]))
  socket.on('message', keep)
  held.set(socket, () => {
    socket.off('message', keep)
    return packets
  })
}

function once(close: () => Promise<void>): () => Promise<void> {
  let closing: Promise<void> | undefined
  return () => (closing ??= close())
}

async function bind(listen: SharedAddress, limits: ResolverLimits): Promise<{ udp: Socket; tcp: TcpListener }> {
  for (let tries = 1; ; tries++) {
    const udp = await bindUdp(listen)
    try {
      const { port } = udp.address()
      const tcp = await TcpListener.start({
        ...listen,
        port,
        connections: limits.tcpConnections ?? 128,
        idleMs: limits.tcpIdleMs ?? 10_000,
      })
      return { udp, tcp }
    } catch (cause) {
      udp.close()
      const isTaken = (cause as NodeJS.ErrnoException).code === 'EADDRINUSE'
      if (!isTaken || listen.port !== 0 || tries === PORT_TRIES) throw listenFailed(listen, 'tcp', cause)
    }
  }
}

/** To be shared with the agent that takes over; whether somebody else has the address is found out first. */
async function bindUdp(listen: SharedAddress): Promise<Socket> {
  if (listen.isBeside === true || listen.port === 0) return openUdp(listen, true)
  const probe = await openUdp(listen, false)
  await new Promise<void>((closed) => void probe.close(closed))
  return openUdp(listen, true)
}

function openUdp({ host, port }: SharedAddress, reusePort: boolean): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const family = isIPv6(host) ? 6 : 4
    const socket = createSocket({
      type: `udp${family}`,
      reusePort,
      recvBufferSize: RECEIVE_BYTES,
      // Only addresses come here; Node's own look-up would cost each reply a turn of the loop.
      lookup: (address, _options, found) => found(null, address, family),
    })
    const failed = (cause: Error) => {
      socket.close()
      reject(listenFailed({ host, port }, 'udp', cause))
    }
    socket.once('error', failed)
    socket.bind(port, host, () => {
      socket.off('error', failed)
      hold(socket)
      resolve(socket)
    })
  })
}

function listenFailed({ host, port }: { host: string; port: number }, protocol: string, cause: unknown): MeshError {
  return new MeshError('LISTEN_FAILED', { address: `${host}:${port}`, protocol }, { cause })
}
