import { hasTwoHosts } from '../core/kit/request-target.ts'
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify'
import { isIP, type AddressInfo } from 'node:net'
import { Registry, type RegistryContentType } from 'prom-client'
import { MeshError } from '../core/errors.ts'
import { Admission, admitHttp } from '../core/kit/admission.ts'
import { bindShared, type SharedAddress } from '../core/kit/bind-shared.ts'
import { applyHttpTimeouts, HTTP_TIMEOUTS, type HttpTimeouts } from '../core/kit/http-timeouts.ts'
import { printHostPort } from '../core/kit/host-port.ts'
import { keepAccepting } from '../core/kit/keep-accepting.ts'
import { Lifetime } from '../core/kit/lifetime.ts'
import { createServer } from '../core/kit/node-http.ts'
import type { Metrics } from '../core/metrics.ts'

export interface OpsOptions extends SharedAddress {
  metrics: Metrics
  /** Whether each part is ready, for example `{ resolver: true, uplink: false }`; the role is ready when all are. */
  ready: () => Readonly<Record<string, boolean>>
  timeouts?: HttpTimeouts
}

/** Connections without a request, or between two; a Prometheus server holds one or two. Others make room for newcomers. */
const MAX_SILENT = 256
const METHODS = 'GET, HEAD, OPTIONS'

/**
 * What every role shows without credentials: `/healthz` (the process lives), `/readyz` (200 or 503, and which part is not
 * ready), `/metrics` (Prometheus text, or OpenMetrics where the client asks for it).
 */
export class Ops {
  /** `http://host:port`. */
  readonly address: string
  readonly #life: Lifetime

  private constructor(address: string, life: Lifetime) {
    this.address = address
    this.#life = life
  }

  /** @throws MeshError LISTEN_FAILED */
  static start(options: OpsOptions): Promise<Ops> {
    return Lifetime.open(async (life) => {
      const app = createApp(options)
      life.defer(async () => {
        app.server.close() // fastify does not: it has not made it listen
        app.server.closeAllConnections()
        await app.close()
      })
      await app.ready()
      await listen(app, options)
      keepAccepting(app.server)
      app.server.unref()
      const { port } = app.server.address() as AddressInfo
      return new Ops(`http://${printHostPort(options.host, port)}`, life)
    })
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }
}

function createApp({ metrics, ready, timeouts = HTTP_TIMEOUTS }: OpsOptions): FastifyInstance {
  const app = Fastify({
    serverFactory: (handler) => createServer(applyHttpTimeouts(timeouts), handler),
    forceCloseConnections: true,
    bodyLimit: 1_024,
  })
  admitHttp(app.server, new Admission({ most: MAX_SILENT }))
  const scraper = new Scraper(metrics)
  const routes: Record<string, (request: FastifyRequest, reply: FastifyReply) => unknown> = {
    '/healthz': (_request, reply) => reply.type('text/plain').send('ok\n'),
    '/readyz': (_request, reply) => {
      const parts = ready()
      const isReady = Object.values(parts).every(Boolean)
      const body = `${JSON.stringify({ ready: isReady, ...parts, ...oldNames(parts) })}\n`
      return reply
        .code(isReady ? 200 : 503)
        .type('application/json')
        .send(body)
    },
    '/metrics': async (request, reply) => {
      const { type, text } = await scraper.scrape(request.headers.accept ?? '')
      return reply.header('content-type', type).send(text)
    },
  }
  for (const [path, answer] of Object.entries(routes)) {
    app.get(path, answer) // fastify answers HEAD as well
    app.options(path, (_request, reply) => reply.code(204).header('allow', METHODS).send())
  }
  app.addHook('onRequest', (request, reply, next) => {
    reply.header('cache-control', 'no-store')
    if (hasTwoHosts(request.raw.rawHeaders))
      return void reply.code(400).type('text/plain').send('more than one Host header\n')
    next()
  })
  app.setNotFoundHandler(({ url }, reply) => {
    const [path = ''] = url.split('?')
    reply.type('text/plain')
    if (Object.hasOwn(routes, path)) return reply.code(405).header('allow', METHODS).send(`allowed: ${METHODS}\n`)
    return reply.code(404).send(`not found; there are ${Object.keys(routes).join(', ')}\n`)
  })
  return app
}

/** What `listener` was called: kept for one version, for programs that read it. */
function oldNames({ listener }: Readonly<Record<string, boolean>>): Record<string, boolean> {
  return listener === undefined ? {} : { door: listener }
}

async function listen({ server }: FastifyInstance, { host, port, isBeside = false }: OpsOptions): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    const failed = (cause: unknown) =>
      reject(new MeshError('LISTEN_FAILED', { address: printHostPort(host, port) }, { cause }))
    server.once('error', failed)
    if (isIP(host) === 0) {
      server.listen({ host, port, exclusive: true }, resolve)
      return
    }
    try {
      server.listen(bindShared({ host, port, isBeside }), resolve)
    } catch (cause) {
      failed(cause)
    }
  })
}

/** Reads the metrics, one reader after the other, since the format is a setting of the registry. */
class Scraper {
  readonly #metrics: Metrics
  #last: Promise<unknown> = Promise.resolve()

  constructor(metrics: Metrics) {
    this.#metrics = metrics
  }

  scrape(accept: string): Promise<{ type: string; text: string }> {
    const next = this.#last.then(() => this.#read(accept))
    this.#last = next.catch(() => undefined)
    return next
  }

  async #read(accept: string): Promise<{ type: string; text: string }> {
    const { beforeScrape, registry } = this.#metrics
    // what cannot be read now is shown as it was
    await Promise.all([...beforeScrape].map((read) => read().catch(() => undefined)))
    const formats = registry as Registry<RegistryContentType>
    formats.setContentType(
      accept.includes('application/openmetrics-text')
        ? Registry.OPENMETRICS_CONTENT_TYPE
        : Registry.PROMETHEUS_CONTENT_TYPE,
    )
    const names = registry.getMetricsAsArray().map((metric) => ({ metric, name: metric.name }))
    try {
      return { type: formats.contentType, text: await formats.metrics() }
    } finally {
      for (const { metric, name } of names) metric.name = name // prom-client takes `_total` off counters in OpenMetrics, for good
    }
  }
}
