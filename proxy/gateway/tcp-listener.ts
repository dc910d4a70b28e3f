import { once } from 'node:events'
import { createServer, type Server, type Socket } from 'node:net'
import { createServer as createTlsServer, type TLSSocket } from 'node:tls'
import { Admission, type Admitted } from '../../src/core/kit/admission.ts'
import { background } from '../../src/core/kit/background.ts'
import { bindShared } from '../../src/core/kit/bind-shared.ts'
import { closeWhenIdle } from '../../src/core/kit/close-when-idle.ts'
import { limitHandshakes } from '../../src/core/kit/handshake-rate.ts'
import { unmapped } from '../../src/core/kit/host-port.ts'
import { keepAccepting } from '../../src/core/kit/keep-accepting.ts'
import { encodeProxyHeader } from '../../src/core/kit/proxy-header.ts'
import type { Caller, FlowReply } from '../flow/flow.ts'
import { BACKLOG } from '../intercept/interceptor.ts'
import { ProxyClient } from '../intercept/proxy-client.ts'
import { targetOf } from '../intercept/target-of.ts'
import { resetSocket } from '../socket/reset.ts'
import type { Certificates } from './certificates.ts'
import type { GatewayParts } from './parts.ts'
import { HelloPeek, NO_ROUTE, RequestPeek } from './peek.ts'
import { type GatewayPort, type GatewayTarget, routeTo } from './rules.ts'

/*
 * A TCP port of the gateway:
 *
 *   connection ─▶ limits of its address ─▶ tcp  ──────────────────────────────▶ flow
 *                                       ─▶ tls, http: the first bytes ─▶ host ─▶ flow     peek.ts
 *                                       ─▶ tls with certificates: handshake ───▶ flow
 *
 * A flow of the gateway is one of its node: the same permission, policies, failover, counters and log as that of any program there.
 */

/** Clients that have not said yet what they want; one more, and the oldest of the address that has most is ended. */
const SILENT = 4_096
/** Until a client must have said what it wants, or finished its handshake. Larger: those that say nothing keep their place. */
const SPEAK_MS = 10_000
/** TLS handshakes of all clients of one port; each takes about a millisecond of the thread that carries bytes. */
const HANDSHAKES_PER_SECOND = 400
/** PP2_TYPE_AUTHORITY: the host name that a client asked for, where TLS ended here. */
const AUTHORITY = 0x02

export class TcpListener {
  readonly #server: Server
  readonly #port: GatewayPort
  readonly #parts: GatewayParts
  readonly #admission = new Admission({ most: SILENT })
  readonly #peeking = new Set<ProxyClient>()
  /** Those whose TLS handshake is under way, by address and port. */
  readonly #greeting = new Map<string, Admitted>()
  /** Connections from their first moment to their last. */
  #open = 0

  private constructor(port: GatewayPort, certificates: Certificates | undefined, parts: GatewayParts) {
    this.#port = port
    this.#parts = parts
    this.#server =
      certificates === undefined
        ? createServer({ allowHalfOpen: true, noDelay: true }, (socket) => this.#took(socket))
        : this.#tlsServer(certificates)
  }

  /** @throws the system's error */
  static async open(
    port: GatewayPort,
    { certificates, isBeside }: { certificates: Certificates | undefined; isBeside: boolean },
    parts: GatewayParts,
  ): Promise<TcpListener> {
    const listener = new TcpListener(port, certificates, parts)
    listener.#server.listen(bindShared({ ...port.listen, isBeside }), BACKLOG)
    await once(listener.#server, 'listening')
    keepAccepting(listener.#server)
    return listener
  }

  get size(): number {
    return this.#open
  }

  async close(): Promise<void> {
    await closeWhenIdle([this.#server], 'connection')
    for (const client of this.#peeking) client.destroy()
  }

  #tlsServer(certificates: Certificates): Server {
    const server = createTlsServer(
      {
        allowHalfOpen: true,
        handshakeTimeout: SPEAK_MS,
        minVersion: 'TLSv1.2',
        ...(this.#port.alpn.length === 0 ? {} : { ALPNProtocols: [...this.#port.alpn] }),
        SNICallback: (name, done) => {
          const host = name.toLowerCase()
          if (routeTo(this.#port, host) !== undefined) return done(null, certificates.contextFor(host))
          this.#parts.refusals.add(NO_ROUTE)
          done(new Error(NO_ROUTE))
        },
      },
      (socket) => this.#tookTls(socket),
    )
    certificates.follow((first) => server.setSecureContext(first))
    limitHandshakes(server, { perSecond: HANDSHAKES_PER_SECOND, silentMs: SPEAK_MS })
    server.prependListener('connection', (socket: Socket) => this.#greet(socket))
    return server
  }

  /** A client whose handshake begins. */
  #greet(socket: Socket): void {
    if (!this.#enter(socket)) return
    const key = keyOf(socket) // a closed socket has no address any longer
    this.#greeting.set(key, this.#admission.enter(socket, socket))
    socket.once('close', () => this.#greeting.delete(key))
  }

  #took(socket: Socket): void {
    if (!this.#enter(socket)) return
    if (this.#port.protocol === 'tcp') {
      const { to } = this.#port
      if (to !== undefined) this.#begin(socket, { target: to })
      return
    }
    this.#peek(socket)
  }

  #peek(socket: Socket): void {
    const handshake = this.#port.protocol === 'tls' ? new HelloPeek(this.#port) : new RequestPeek(this.#port)
    const client = new ProxyClient(socket, handshake, SPEAK_MS, {
      received: () => undefined, // a client has 16 KiB at most, and so has each of `SILENT`
      connect: (request) => {
        const { host: name, port } = request
        this.#begin(socket, { target: { name, port }, reply: request.reply(socket) })
      },
      refused: (reason) => this.#parts.refusals.add(reason),
      ended: () => {
        this.#peeking.delete(client)
        admitted.active()
      },
    })
    this.#peeking.add(client)
    const silent = {
      destroy: () => client.giveUp('too many clients say nothing'),
      once: (event: 'close', listener: () => void) => socket.once(event, listener),
    }
    const admitted = this.#admission.enter(silent, socket)
  }

  #tookTls(socket: TLSSocket): void {
    socket.on('error', () => undefined)
    this.#greeting.get(keyOf(socket))?.active()
    const { servername } = socket as TLSSocket & { servername?: string | false }
    const name = typeof servername === 'string' ? servername.toLowerCase() : undefined
    const target = routeTo(this.#port, name)
    if (target !== undefined) return this.#begin(socket, { target, name })
    this.#parts.refusals.add('the client names no host')
    socket.destroy()
  }

  /** False when its client may not have it; then it is closed. */
  #enter(socket: Socket): boolean {
    socket.on('error', () => undefined)
    const { limits, descriptors, metrics } = this.#parts
    const leave = descriptors?.reserve(0) === false ? undefined : limits.enter(socket.remoteAddress)
    metrics.gatewayConnections.inc({ outcome: leave === undefined ? 'limited' : 'taken' })
    if (leave === undefined) {
      resetSocket(socket)
      return false
    }
    this.#open += 1
    socket.once('close', () => {
      this.#open -= 1
      leave()
    })
    return true
  }

  #begin(socket: Socket, to: { target: GatewayTarget; name?: string | undefined; reply?: FlowReply }): void {
    socket.pause()
    void background.run('gateway', () => this.#carry(socket, to))
  }

  async #carry(
    socket: Socket,
    { target, name, reply }: { target: GatewayTarget; name?: string | undefined; reply?: FlowReply },
  ): Promise<void> {
    const { clock, userLimits, refusals, onFlow } = this.#parts
    const startedAt = clock.now()
    const caller: Caller = { kind: 'node', client: unmapped(socket.remoteAddress ?? '') }
    const fail = () => (reply === undefined ? resetSocket(socket) : reply.failed('FLOW_REFUSED', ''))
    const hasRoom = userLimits?.enter(socket) ?? true
    if (hasRoom instanceof Promise ? !(await hasRoom) : !hasRoom) return fail()
    const found = await targetOf(target.name, target.port, this.#parts)
    if (socket.destroyed) return
    if (found.kind === 'refused') {
      refusals.add(`${target.name}:${target.port}: ${found.reason}`)
      return fail()
    }
    if (this.#port.proxyProtocol) socket.unshift(headerFor(socket, name))
    const flow = { target: found.target, port: target.port, socket, caller, mode: 'gateway', startedAt } as const
    onFlow(reply === undefined ? flow : { ...flow, reply })
  }
}

function keyOf({ remoteAddress, remotePort }: Socket): string {
  return `${remoteAddress} ${remotePort}`
}

/** What tells a service the client's address; `name`: the host name that it asked for. */
function headerFor({ remoteAddress, remotePort, localAddress, localPort }: Socket, name: string | undefined): Buffer {
  const from = { address: unmapped(remoteAddress ?? ''), port: remotePort ?? 0 }
  const to = { address: unmapped(localAddress ?? ''), port: localPort ?? 0 }
  return encodeProxyHeader({ ends: { from, to }, values: name === undefined ? [] : [[AUTHORITY, name]] })
}
