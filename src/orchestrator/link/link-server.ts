import { randomBytes } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Server } from 'node:https'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify'
import type { TSchema, Static } from 'typebox'
import { isMeshError, MeshError } from '../../core/errors.ts'
import type { Identity } from '../../core/identity/contract.ts'
import { endWithTrust } from '../../core/identity/end-with-trust.ts'
import { certificateOf, type PeerCertificate, serverOptions, tend } from '../../core/identity/tls.ts'
import { checkerOf } from '../../core/kit/checker.ts'
import { keepAccepting } from '../../core/kit/keep-accepting.ts'
import { Lifetime } from '../../core/kit/lifetime.ts'
import type { Log } from '../../core/kit/log.ts'
import { applyHttpTimeouts, HTTP_TIMEOUTS, type HttpTimeouts } from '../../core/kit/http-timeouts.ts'
import { hasTwoHosts, pathOf } from '../../core/kit/request-target.ts'
import { Admission, admitHttp } from '../../core/kit/admission.ts'
import { limitHandshakes } from '../../core/kit/handshake-rate.ts'
import { refuseUpgrade } from '../../core/kit/websocket-acceptor.ts'
import { STATUS_CODES } from '../../core/kit/node-http.ts'
import { PROBLEM_TYPE, problemOf, refusalOf } from './problem.ts'

declare module 'fastify' {
  interface FastifyContextConfig {
    /** The route answers without credentials. All others are denied by default (SEC-7). */
    open?: true
  }
}

export type App = FastifyInstance<Server>

/** Accepts an upgrade from a peer that has proven its identity; throwing a MeshError refuses it. */
export type Upgrade = (request: IncomingMessage, socket: Duplex, head: Buffer, peer: PeerCertificate) => void

export interface LinkServerOptions {
  host: string
  port: number
  identity: Identity
  /** What others dial, when it is not the listen address: `https://host:port`. */
  publicUrl?: string
  /** Called before the port is open; `server.url` may be read once requests arrive. */
  routes: (app: App, server: LinkServer) => void
  /** Decides about every route that is not open, before a byte of the body is read (SEC-3). Throws to refuse. */
  authenticate: (request: FastifyRequest) => void
  /** TLS handshakes beyond this rate wait their turn. */
  handshakesPerSecond?: number
  /** Until what was written is on disk; `undefined` when it is. Nothing is answered before that. */
  pending?: () => Promise<void> | undefined
  timeouts?: HttpTimeouts
  /** By path. */
  upgrades: Readonly<Record<string, Upgrade>>
}

/** Larger documents are refused before they are read. */
const MAX_BODY_BYTES = 1024 * 1024
const MAX_CONNECTIONS = 20_000
/** Connections without a request yet, or between two. Smaller: less time to ask during a flood; larger: more memory. */
const MAX_SILENT = 2_048
/** Keeps about a third of one core busy. Smaller slows a mesh that reconnects at once; larger starves everything else. */
const HANDSHAKES_PER_SECOND = 400

/** The one port of a control tier: HTTPS for people and for joining, WebSockets for peers that have proven their identity. */
export class LinkServer implements AsyncDisposable {
  readonly #server: Server
  readonly #host: string
  readonly #publicUrl: string | undefined
  readonly #life: Lifetime

  private constructor(server: Server, { host, publicUrl }: LinkServerOptions, life: Lifetime) {
    this.#server = server
    this.#host = host
    this.#publicUrl = publicUrl
    this.#life = life
  }

  /** `https://host:port`: the public one if there is one, else as bound. */
  get url(): string {
    return this.#publicUrl ?? urlOf(this.#host, this.#server)
  }

  get isOpen(): boolean {
    return this.#server.listening
  }

  /** @throws MeshError LISTEN_FAILED */
  static start(options: LinkServerOptions, log: Log): Promise<LinkServer> {
    return Lifetime.open(async (life) => {
      const { host, port, identity } = options
      const app = createApp(options, log)
      const server = new LinkServer(app.server, options, life)
      life.defer(tend(app.server, identity))
      options.routes(app, server)
      takeUpgrades(app.server, options, log)
      const connections = new Connections(app.server)
      life.defer(() => {
        connections[Symbol.dispose]()
        return app.close()
      })
      try {
        await app.listen({ host, port })
        keepAccepting(app.server)
      } catch (cause) {
        throw new MeshError('LISTEN_FAILED', { address: `${host}:${port}` }, { cause })
      }
      return server
    })
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }
}

function createApp(options: LinkServerOptions, log: Log): App {
  const { identity, timeouts = HTTP_TIMEOUTS, handshakesPerSecond = HANDSHAKES_PER_SECOND } = options
  const limits = applyHttpTimeouts(timeouts)
  const app: App = Fastify({
    https: { ...serverOptions(identity, { requestClient: true }), ...limits, handshakeTimeout: timeouts.handshakeMs },
    bodyLimit: MAX_BODY_BYTES,
    requestTimeout: limits.requestTimeout,
    keepAliveTimeout: limits.keepAliveTimeout,
    forceCloseConnections: true,
    routerOptions: { maxParamLength: 400 },
    genReqId: () => randomBytes(8).toString('hex'),
    frameworkErrors: (error, request, reply) => void sendError(plainer(error), request, reply),
    clientErrorHandler: refuseBadRequest,
  })
  app.server.headersTimeout = limits.headersTimeout
  app.server.maxConnections = MAX_CONNECTIONS
  limitHandshakes(app.server, { perSecond: handshakesPerSecond, silentMs: timeouts.handshakeMs })
  admitHttp(app.server, new Admission({ most: MAX_SILENT }))
  app.server.on('tlsClientError', () => undefined)
  app.addHook('onRequest', (request, _reply, next) => {
    if (hasTwoHosts(request.raw.rawHeaders))
      throw new MeshError('MESSAGE_INVALID', { reason: 'more than one Host header' })
    if (request.routeOptions.config.open !== true) options.authenticate(request)
    next()
  })
  app.addHook('onSend', async () => options.pending?.())
  app.setErrorHandler((error, request, reply) => {
    if (refusalOf(error).status >= 500) log.warn('request failed', { error, requestId: request.id })
    if (isMeshError(error, 'UNAUTHENTICATED')) void reply.header('www-authenticate', 'Bearer')
    return sendError(error, request, reply)
  })
  app.setNotFoundHandler((request, reply) => {
    const message = `there is no route ${request.method} ${request.url.slice(0, 200)}`
    return reply.code(404).send({ error: 'USAGE', message, details: { reason: message } })
  })
  return app
}

/**
 * The connections of a server, ended with it. The HTTP server does not know of those in a TLS handshake and of those that were upgraded,
 * and would wait for them until their clients end them.
 */
class Connections implements Disposable {
  readonly #open = new Set<Socket>()
  #isClosed = false

  constructor(server: Server) {
    server.prependListener('connection', (socket: Socket) => {
      if (this.#isClosed) return socket.destroy()
      this.#open.add(socket)
      return socket.once('close', () => this.#open.delete(socket))
    })
  }

  [Symbol.dispose](): void {
    this.#isClosed = true
    for (const socket of this.#open) socket.destroy()
  }
}

function takeUpgrades(server: Server, { upgrades, identity }: LinkServerOptions, log: Log): void {
  server.on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    const path = pathOf(request.url)
    try {
      const peer = certificateOf(socket, identity.revocations)
      const upgrade = Object.hasOwn(upgrades, path) ? upgrades[path] : undefined
      if (upgrade === undefined)
        return refuseUpgrade(socket, '404 Not Found', 'there is nothing to upgrade to at this path\n')
      endWithTrust(socket, identity.revocations)
      upgrade(request, socket, head, peer)
    } catch (error) {
      log.warn('link refused', { address: request.socket.remoteAddress, path, error })
      refuseUpgrade(socket, '403 Forbidden', isMeshError(error) ? `${error.code}\n` : 'refused\n')
    }
  })
}

/** Aborted when whoever asked has gone, or has the whole answer. */
export function goneOf(response: ServerResponse): AbortSignal {
  const gone = new AbortController()
  response.once('close', () => gone.abort())
  return gone.signal
}

/** Checks a body or query against a schema. The returned function throws MESSAGE_INVALID with every fault and its path. */
export function reader<S extends TSchema>(schema: S): (value: unknown) => Static<S> {
  const checker = checkerOf(schema)
  return (value) => {
    if (checker.Check(value)) return value
    const faults = [...checker.Errors(value)].map(({ instancePath, message }) => `${instancePath || '/'} ${message}`)
    throw new MeshError('MESSAGE_INVALID', { faults: faults.slice(0, 64) })
  }
}

/** Of what cannot be routed. A path that is too long is repeated nowhere. */
function plainer(error: Error & { code: string }): Error {
  return error.code === 'FST_ERR_MAX_PARAM_LENGTH'
    ? new MeshError('MESSAGE_INVALID', { problem: 'a name in the path is too long' })
    : error
}

/** To `/v1` as in RFC 9457; everything else answers as earlier versions did. */
function sendError(error: unknown, { url, id }: Pick<FastifyRequest, 'url' | 'id'>, reply: FastifyReply): FastifyReply {
  if (/^\/v1(?:[/?]|$)/.test(url)) {
    const problem = problemOf(error, id)
    const seconds = problem.details?.['seconds']
    if (problem.status === 429 && typeof seconds === 'number') void reply.header('retry-after', seconds)
    return reply.code(problem.status).type(PROBLEM_TYPE).send(JSON.stringify(problem))
  }
  const { status, error: told } = refusalOf(error)
  return reply.code(status).send({ error: told.code, message: told.message, details: told.details })
}

/** What Node cannot read as a request, by its code. */
const UNREADABLE: Readonly<Record<string, number>> = { HPE_HEADER_OVERFLOW: 431, ERR_HTTP_REQUEST_TIMEOUT: 408 }

/** How long a refusal may take to be sent. A peer within its TLS handshake, or one that does not read, takes it never. */
const REFUSAL_MS = 1_000

function refuseBadRequest({ code }: Error & { code?: string }, socket: Socket): void {
  if (code === 'ECONNRESET' || !socket.writable) return void socket.destroy()
  const status = UNREADABLE[code ?? ''] ?? 400
  const reason = STATUS_CODES[status] ?? ''
  const body = JSON.stringify(problemOf(Object.assign(new Error(reason), { statusCode: status })))
  const lines = [
    `HTTP/1.1 ${status} ${reason}`,
    `content-type: ${PROBLEM_TYPE}`,
    `content-length: ${Buffer.byteLength(body)}`,
    'connection: close',
    '',
    body,
  ]
  socket.end(lines.join('\r\n'), () => socket.destroy())
  const late = setTimeout(() => socket.destroy(), REFUSAL_MS)
  socket.once('close', () => clearTimeout(late))
}

function urlOf(host: string, server: Server): string {
  const bound = server.address()
  const port = typeof bound === 'object' && bound !== null ? bound.port : 0
  return `https://${host.includes(':') ? `[${host}]` : host}:${port}`
}
