import { once } from 'node:events'
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net'
import { MeshError } from '../../src/core/errors.ts'
import { Admission, type Admissible, type Admitted } from '../../src/core/kit/admission.ts'
import { background } from '../../src/core/kit/background.ts'
import { bindShared } from '../../src/core/kit/bind-shared.ts'
import { closeWhenIdle } from '../../src/core/kit/close-when-idle.ts'
import { keepAccepting } from '../../src/core/kit/keep-accepting.ts'
import { Lifetime } from '../../src/core/kit/lifetime.ts'
import { LocalSources } from '../../src/core/kit/local-sources.ts'
import { resetSocket } from '../socket/reset.ts'
import type { Caller } from '../flow/flow.ts'
import type { Credentials } from './credentials.ts'
import type { Connect, Handshake } from './handshake.ts'
import { BACKLOG, type InterceptParts, type Interceptor, type Problem } from './interceptor.ts'
import { carryOnThisMachine, isThisMachine } from './loopback-request.ts'
import { ProxyClient } from './proxy-client.ts'
import { RefusalLog } from './refusal-log.ts'
import { type Naming, targetOf } from './target-of.ts'

/* What the SOCKS and HTTP proxies share: a listener on loopback, a handshake with limits, a name, a flow. */

export interface ProxyOptions {
  /** A loopback address. */
  host?: string
  port: number
  /** The agent that this one takes over from listens there too. */
  isBeside?: boolean
  /** Handshakes under way; one more, and the oldest of the source that has the most is answered and ended. Smaller: a burst of programs is refused. */
  handshakes?: number
  /** Until the request must be complete. */
  handshakeMs?: number
}

export interface ProxyParts extends InterceptParts, Naming {
  readonly credentials: Credentials
  /** Ports of this machine that are not carried to: the agent's own. */
  readonly forbids?: (address: string, port: number) => boolean
  /** Whether this caller is kept in the mesh, so that it may not call servers of this machine; absent: nobody is. */
  readonly closes?: (caller: Caller) => boolean
}

/** One kind of proxy. */
export interface ProxyKind {
  readonly mode: 'socks' | 'http'
  begin(): Handshake
  /** The listener has closed. */
  closed?(): void
}

/** All handshakes together. More would let local programs take the memory of the agent with large unfinished heads. */
const HANDSHAKE_BYTES = 32 * 1024 * 1024
/** A handshake takes two round trips on loopback: one that has begun when the listener closes may finish. */
const LAST_HANDSHAKE_MS = 250

export class ProxyListener implements Interceptor {
  readonly address: string
  readonly port: number
  readonly #life: Lifetime

  private constructor(life: Lifetime, { address, port }: AddressInfo) {
    this.#life = life
    this.address = address
    this.port = port
  }

  /** @throws MeshError LISTEN_FAILED */
  static start(kind: ProxyKind, options: ProxyOptions, parts: ProxyParts): Promise<ProxyListener> {
    const { host = '127.0.0.1', port, isBeside = false, handshakes = 4_096, handshakeMs = 10_000 } = options
    return Lifetime.open(async (life) => {
      const clients = new ProxyClients(kind, { handshakes, handshakeMs }, parts)
      const server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) => clients.admit(socket))
      await listen(server, { host, port, isBeside })
      parts.metrics.listeners.inc({ mode: kind.mode })
      life.defer(async () => {
        parts.metrics.listeners.dec({ mode: kind.mode })
        await closeWhenIdle([server], 'connection')
        if (clients.size > 0) await parts.clock.sleep(LAST_HANDSHAKE_MS)
        clients.close()
        kind.closed?.()
      })
      return new ProxyListener(life, server.address() as AddressInfo)
    })
  }

  /** A listener that cannot be opened is an error at the start, so there is nothing to report later. */
  problems(): Problem[] {
    return []
  }

  close(): Promise<void> {
    return this.#life.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

/** Clients whose handshake is under way. */
class ProxyClients {
  readonly #kind: ProxyKind
  readonly #limits: { handshakes: number; handshakeMs: number }
  readonly #parts: ProxyParts
  readonly #sources: Pick<LocalSources, 'admits'>
  readonly #refusals: RefusalLog
  readonly #admission: Admission
  /** Oldest first. */
  readonly #clients = new Set<ProxyClient>()
  #bytes = 0

  constructor(kind: ProxyKind, limits: { handshakes: number; handshakeMs: number }, parts: ProxyParts) {
    this.#kind = kind
    this.#limits = limits
    this.#admission = new Admission({ most: limits.handshakes })
    this.#parts = parts
    this.#sources = parts.sources ?? new LocalSources(parts.log, { clock: parts.clock })
    this.#refusals = new RefusalLog(kind.mode, parts.log, parts.clock)
  }

  get size(): number {
    return this.#clients.size
  }

  admit(socket: Socket): void {
    const { mode } = this.#kind
    socket.on('error', () => undefined)
    if (!this.#sources.admits(socket.remoteAddress, mode) || this.#parts.descriptors?.reserve(0) === false)
      return resetSocket(socket)
    const client = new ProxyClient(socket, this.#kind.begin(), this.#limits.handshakeMs, {
      received: (bytes) => this.#count(bytes),
      connect: (request) => void background.run('proxy', () => this.#carry(request, socket)),
      refused: (reason) => this.#refusals.add(reason),
      ended: (bytes) => {
        this.#bytes -= bytes
        this.#clients.delete(client)
        admitted?.active()
      },
    })
    this.#clients.add(client)
    const silent: Admissible = {
      destroy: () => client.giveUp('too many requests are under way'),
      once: (event: 'close', listener: () => void) => socket.once(event, listener),
    }
    const admitted: Admitted | undefined = this.#admission.enter(silent, socket)
  }

  close(): void {
    for (const client of this.#clients) client.destroy()
  }

  #count(bytes: number): void {
    this.#bytes += bytes
    if (this.#bytes > HANDSHAKE_BYTES) this.#makeRoom()
  }

  /** The oldest is the one that most likely never completes its request. */
  #makeRoom(): void {
    const [oldest] = this.#clients
    oldest?.giveUp('too many requests are under way')
  }

  async #carry(request: Connect, socket: Socket): Promise<void> {
    const { caller, allowance, host, port } = request
    const { mode } = this.#kind
    const startedAt = this.#parts.clock.now()
    const reply = request.reply(socket)
    const hasRoom = this.#parts.userLimits?.enter(socket) ?? true
    if (hasRoom instanceof Promise ? !(await hasRoom) : !hasRoom)
      return reply.failed('TOO_MANY_FLOWS', 'this user has too many flows open')
    if (isThisMachine(host, this.#parts.ranges)) {
      if (this.#parts.closes?.(caller) === true)
        return reply.failed('NOT_ALLOWED', 'egress: the caller may not call servers of this machine')
      return carryOnThisMachine(socket, { host, port, reply, ...this.#parts })
    }
    const found = await targetOf(host, port, this.#parts, 'tcp', caller)
    if (found.kind === 'refused') {
      this.#parts.log.info('flow refused', { mode, name: host, port, reason: found.reason })
      return reply.failed(found.code, found.reason)
    }
    const flow = { target: found.target, port, socket, caller, mode, startedAt, reply }
    this.#parts.onFlow(allowance === undefined ? flow : { ...flow, allowance })
  }
}

async function listen(server: Server, at: { host: string; port: number; isBeside: boolean }): Promise<void> {
  try {
    server.listen(bindShared(at), BACKLOG)
    await once(server, 'listening')
    keepAccepting(server)
  } catch (error) {
    throw new MeshError('LISTEN_FAILED', { address: at.host, port: at.port }, { cause: error })
  }
}
