import type { IncomingMessage } from 'node:http'
import type { Server } from 'node:https'
import type { Duplex } from 'node:stream'
import Fastify, { type FastifyInstance, type FastifyRequest } from 'fastify'
import type { TSchema, Static } from 'typebox'
import { Compile } from 'typebox/compile'
import { ERRORS, explain, isMeshError, MeshError, type ErrorCode } from '../../core/errors.ts'
import type { Identity, Principal } from '../../core/identity/contract.ts'
import { principalOf, serverOptions, tend } from '../../core/identity/tls.ts'
import { Lifetime } from '../../core/kit/lifetime.ts'
import type { Log } from '../../core/kit/log.ts'
import { applyHttpTimeouts, HTTP_TIMEOUTS, type HttpTimeouts } from '../../core/kit/http-timeouts.ts'
import { pathOf } from '../../core/kit/request-target.ts'
import { turnstile } from '../../core/kit/handshake-admission.ts'
import { refuseUpgrade } from '../../core/kit/websocket.ts'

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Answers without credentials. Everything that does not say so is denied by default (SEC-7). */
    open?: true
  }
}

export type App = FastifyInstance<Server>

/** Takes an upgrade from a peer whose certificate is proven; a MeshError refuses it. */
export type Upgrade = (request: IncomingMessage, socket: Duplex, head: Buffer, principal: Principal) => void

export interface LinkServerOptions {
  host: string
  port: number
  identity: Identity
  routes: (app: App) => void
  /** Decides about every route that is not open; before a byte of the body is read (SEC-3). */
  authenticate: (request: FastifyRequest) => void
  /** TLS handshakes; more wait (kit/turnstile.ts). */
  handshakesPerSecond?: number
  patience?: HttpTimeouts
  /** By path. */
  upgrades: Readonly<Record<string, Upgrade>>
}

/** Documents larger than this are refused before they are read. */
const MAX_BODY_BYTES = 1024 * 1024
const MAX_CONNECTIONS = 20_000
/** About a third of one processor. */
const HANDSHAKES_PER_SECOND = 400

/** The one port of a control tier: HTTPS for people and for joining, WebSockets for proven peers. */
export class LinkServer implements AsyncDisposable {
  /** `https://host:port` as bound. */
  readonly url: string
  readonly #server: Server
  readonly #life: Lifetime

  private constructor(server: Server, host: string, life: Lifetime) {
    this.url = urlOf(host, server)
    this.#server = server
    this.#life = life
  }

  get isOpen(): boolean {
    return this.#server.listening
  }

  /** @throws MeshError LISTEN_FAILED */
  static start(options: LinkServerOptions, log: Log): Promise<LinkServer> {
    return Lifetime.open(async (life) => {
      const { host, port, identity, patience = HTTP_TIMEOUTS } = options
      const limits = applyHttpTimeouts(patience)
      const app: App = Fastify({
        https: {
          ...serverOptions(identity, { requestClient: true }),
          ...limits,
          handshakeTimeout: patience.handshakeMs,
        },
        bodyLimit: MAX_BODY_BYTES,
        requestTimeout: limits.requestTimeout,
        keepAliveTimeout: limits.keepAliveTimeout,
        forceCloseConnections: true,
        routerOptions: { maxParamLength: 400 },
      })
      app.server.headersTimeout = limits.headersTimeout
      app.server.maxConnections = MAX_CONNECTIONS
      turnstile(app.server, { perSecond: options.handshakesPerSecond ?? HANDSHAKES_PER_SECOND })
      app.server.on('tlsClientError', () => undefined)
      life.defer(tend(app.server, identity))
      app.addHook('onRequest', (request, _reply, next) => {
        if (request.routeOptions.config.open !== true) options.authenticate(request)
        next()
      })
      app.setErrorHandler((error, _request, reply) => {
        const { status, body } = answerTo(error)
        if (status >= 500) log.warn('a request failed', { error })
        return reply.code(status).send(body)
      })
      app.setNotFoundHandler((request, reply) =>
        reply
          .code(404)
          .send({ error: 'USAGE', message: 'there is no such route', details: { path: request.url.slice(0, 200) } }),
      )
      options.routes(app)
      const upgraded = takeUpgrades(app.server, options, log)
      life.defer(() => {
        for (const socket of upgraded) socket.destroy() // else the server waits for them for ever
        return app.close()
      })
      try {
        await app.listen({ host, port })
      } catch (cause) {
        throw new MeshError('LISTEN_FAILED', { address: `${host}:${port}` }, { cause })
      }
      return new LinkServer(app.server, host, life)
    })
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }
}

/** Returns the sockets that were upgraded and are open: HTTP no longer knows of them. */
function takeUpgrades(server: Server, { upgrades, identity }: LinkServerOptions, log: Log): ReadonlySet<Duplex> {
  const upgraded = new Set<Duplex>()
  server.on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    const path = pathOf(request.url)
    upgraded.add(socket)
    socket.once('close', () => upgraded.delete(socket))
    try {
      const principal = principalOf(socket, identity.revocations)
      const upgrade = Object.hasOwn(upgrades, path) ? upgrades[path] : undefined
      if (upgrade === undefined) return refuseUpgrade(socket, '404 Not Found', 'there is no such link\n')
      upgrade(request, socket, head, principal)
    } catch (error) {
      log.warn('a link was refused', { address: request.socket.remoteAddress, path, error })
      refuseUpgrade(socket, '403 Forbidden', isMeshError(error) ? `${error.code}\n` : 'refused\n')
    }
  })
  return upgraded
}

/** The typed content of a body or query. @throws MeshError MESSAGE_INVALID with every fault and its path. */
export function reader<S extends TSchema>(schema: S): (value: unknown) => Static<S> {
  const compiled = Compile(schema)
  return (value) => {
    if (compiled.Check(value)) return value
    const faults = [...compiled.Errors(value)].map(({ instancePath, message }) => `${instancePath || '/'} ${message}`)
    throw new MeshError('MESSAGE_INVALID', { faults: faults.slice(0, 64) })
  }
}

const STATUS: Partial<Record<ErrorCode, number>> = {
  UNAUTHENTICATED: 401,
  FORBIDDEN: 403,
  TOKEN_REFUSED: 403,
  TOKEN_INVALID: 400,
  CERTIFICATE_REFUSED: 400,
  MESSAGE_INVALID: 400,
  USAGE: 400,
  SERVICE_UNKNOWN: 404,
  APP_UNKNOWN: 404,
  INSTANCE_UNKNOWN: 404,
  NODE_UNKNOWN: 404,
  CLUSTER_UNKNOWN: 404,
  SLA_INVALID: 422,
  SLA_CONFLICT: 409,
  LINK_CLOSED: 503,
  REQUEST_TIMEOUT: 504,
}

function answerTo(error: unknown): { status: number; body: object } {
  if (isMeshError(error)) {
    return {
      status: STATUS[error.code] ?? 500,
      body: { error: error.code, message: error.message, details: error.details },
    }
  }
  const status = (error as { statusCode?: number }).statusCode ?? 500
  const code: ErrorCode = status < 500 ? 'MESSAGE_INVALID' : 'REQUEST_FAILED'
  return {
    status,
    body: { error: code, message: ERRORS[code], details: status < 500 ? { reason: explain(error) } : {} },
  }
}

function urlOf(host: string, server: Server): string {
  const bound = server.address()
  const port = typeof bound === 'object' && bound !== null ? bound.port : 0
  return `https://${host.includes(':') ? `[${host}]` : host}:${port}`
}
