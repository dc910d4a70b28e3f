import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import { isIP, type AddressInfo } from 'node:net'
import { Registry, type RegistryContentType } from 'prom-client'
import { MeshError } from '../core/errors.ts'
import { Admission, admitHttp } from '../core/kit/admission.ts'
import { background } from '../core/kit/background.ts'
import { bindShared, type SharedAddress } from '../core/kit/bind-shared.ts'
import { applyHttpTimeouts, HTTP_TIMEOUTS, type HttpTimeouts } from '../core/kit/http-timeouts.ts'
import { printHostPort } from '../core/kit/host-port.ts'
import { keepAccepting } from '../core/kit/keep-accepting.ts'
import { Lifetime } from '../core/kit/lifetime.ts'
import { createServer } from '../core/kit/node-http.ts'
import { hasTwoHosts, pathOf } from '../core/kit/request-target.ts'
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
 * ready), `/metrics` (Prometheus text, or OpenMetrics where the client asks for it). Without fastify, which is a tenth of what an agent
 * would load as it starts.
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
      const server = createOps(options)
      life.defer(() => {
        server.close()
        server.closeAllConnections()
      })
      await listen(server, options)
      keepAccepting(server)
      server.unref()
      const { port } = server.address() as AddressInfo
      return new Ops(`http://${printHostPort(options.host, port)}`, life)
    })
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }
}

function createOps({ metrics, ready, timeouts = HTTP_TIMEOUTS }: OpsOptions): Server {
  const scraper = new Scraper(metrics)
  const pages: Readonly<Record<string, (request: IncomingMessage) => Page | Promise<Page>>> = {
    '/healthz': () => plain(200, 'ok\n'),
    '/readyz': () => {
      const parts = ready()
      const isReady = Object.values(parts).every(Boolean)
      const text = `${JSON.stringify({ ready: isReady, ...parts, ...oldNames(parts) })}\n`
      return { status: isReady ? 200 : 503, type: 'application/json', text }
    },
    '/metrics': async ({ headers }) => ({ status: 200, ...(await scraper.scrape(headers.accept ?? '')) }),
  }
  const pageFor = (request: IncomingMessage): Page | Promise<Page> => {
    if (hasTwoHosts(request.rawHeaders)) return plain(400, 'more than one Host header\n')
    const path = pathOf(request.url)
    const page = Object.hasOwn(pages, path) ? pages[path] : undefined
    if (page === undefined) return plain(404, `not found; there are ${Object.keys(pages).join(', ')}\n`)
    if (request.method === 'OPTIONS') return { ...plain(204, ''), isAboutMethods: true }
    if (request.method === 'GET' || request.method === 'HEAD') return page(request)
    return { ...plain(405, `allowed: ${METHODS}\n`), isAboutMethods: true }
  }
  const server = createServer(applyHttpTimeouts(timeouts), (request, response) => {
    void background.run('health and metrics', async () => {
      try {
        answer(request, response, await pageFor(request))
      } catch (error) {
        answer(request, response, plain(500, 'failed\n'))
        throw error
      }
    })
  })
  admitHttp(server, new Admission({ most: MAX_SILENT }))
  return server
}

interface Page {
  status: number
  type: string
  text: string
  isAboutMethods?: boolean
}

function plain(status: number, text: string): Page {
  return { status, type: 'text/plain', text }
}

/** A body is not read: what comes with one is the last request of its connection. */
function answer({ method, headers }: IncomingMessage, response: ServerResponse, page: Page): void {
  const { status, type, text, isAboutMethods = false } = page
  const hasBody = headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0
  response.writeHead(status, {
    'cache-control': 'no-store',
    ...(isAboutMethods ? { allow: METHODS } : {}),
    ...(hasBody ? { connection: 'close' } : {}),
    ...(status === 204 ? {} : { 'content-type': type, 'content-length': Buffer.byteLength(text) }),
  })
  response.end(method === 'HEAD' ? undefined : text)
}

/** What `listener` was called: kept for one version, for programs that read it. */
function oldNames({ listener }: Readonly<Record<string, boolean>>): Record<string, boolean> {
  return listener === undefined ? {} : { door: listener }
}

async function listen(server: Server, { host, port, isBeside = false }: OpsOptions): Promise<void> {
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
