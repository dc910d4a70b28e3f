import { createServer } from 'node:http'
import { isIP } from 'node:net'
import { MeshError } from '../core/errors.ts'
import type { Metrics } from '../core/metrics.ts'
import { Lifetime } from '../core/kit/lifetime.ts'
import { applyHttpTimeouts, HTTP_TIMEOUTS, type HttpTimeouts } from '../core/kit/http-timeouts.ts'
import { pathOf } from '../core/kit/request-target.ts'
import { bindShared, type SharedAddress } from '../core/kit/bind-shared.ts'

export interface OpsOptions extends SharedAddress {
  metrics: Metrics
  /** One claim per part, as `{ resolver: true, uplink: false }`; all true is ready. */
  ready: () => Readonly<Record<string, boolean>>
  timeouts?: HttpTimeouts
}

/** Whoever scrapes holds one or two. */
const MAX_CONNECTIONS = 1_024

/**
 * What every role shows without credentials, on a loopback address: `/healthz` (alive), `/readyz` (200 or 503 with the
 * claims), `/metrics` (Prometheus text).
 */
export class Ops {
  readonly address: string
  readonly #life: Lifetime

  private constructor(address: string, life: Lifetime) {
    this.address = address
    this.#life = life
  }

  /** @throws MeshError LISTEN_FAILED */
  static start({ host, port, isBeside = false, metrics, ready, timeouts = HTTP_TIMEOUTS }: OpsOptions): Promise<Ops> {
    return Lifetime.open(async (life) => {
      const server = createServer(applyHttpTimeouts(timeouts), (request, response) => {
        const answer = (status: number, type: string, body: string) =>
          response.writeHead(status, { 'content-type': type, 'cache-control': 'no-store' }).end(body)
        if (request.method !== 'GET') return answer(405, 'text/plain', 'only GET\n')
        switch (pathOf(request.url)) {
          case '/healthz':
            return answer(200, 'text/plain', 'ok\n')
          case '/readyz': {
            const claims = ready()
            const isReady = Object.values(claims).every(Boolean)
            return answer(isReady ? 200 : 503, 'application/json', `${JSON.stringify({ ready: isReady, ...claims })}\n`)
          }
          case '/metrics':
            scraped(metrics).then(
              (text) => answer(200, metrics.registry.contentType, text),
              (error: unknown) => answer(500, 'text/plain', `${String(error)}\n`),
            )
            return
          default:
            return answer(404, 'text/plain', 'there are /healthz, /readyz and /metrics\n')
        }
      })
      server.maxConnections = MAX_CONNECTIONS
      await new Promise<void>((resolve, reject) => {
        const failed = (cause: unknown) =>
          reject(new MeshError('LISTEN_FAILED', { address: `${host}:${port}` }, { cause }))
        server.once('error', failed)
        if (isIP(host) === 0) return server.listen({ host, port, exclusive: true }, resolve)
        try {
          server.listen(bindShared({ host, port, isBeside }), resolve)
        } catch (cause) {
          failed(cause)
        }
      })
      server.unref()
      life.defer(() => {
        server.closeAllConnections()
        server.close()
      })
      const bound = server.address()
      return new Ops(`http://${host}:${typeof bound === 'object' && bound !== null ? bound.port : port}`, life)
    })
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }
}

/** What cannot be read now is shown as it was. */
async function scraped({ beforeScrape, registry }: Metrics): Promise<string> {
  await Promise.all([...beforeScrape].map((read) => read().catch(() => undefined)))
  return registry.metrics()
}
