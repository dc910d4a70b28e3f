import { createServer, request as httpRequest } from 'node:http'
import { chmodSync, existsSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { MeshError, isMeshError, type ErrorCode } from './errors.ts'
import { Lifetime } from './kit/lifetime.ts'

/** Answers one question about the agent; throws a MeshError when it cannot. */
export type LocalRoute = (query: URLSearchParams) => unknown

/** Longer and the kernel cuts the path of a Unix socket (`sun_path`, 108 bytes with the closing zero). */
const MAX_SOCKET_PATH = 107

/**
 * What the commands on this machine ask the agent, over a Unix socket that only its owner may open (0600): there is no
 * port a web page or a neighbour could reach. One JSON answer a request.
 */
export class LocalApi {
  readonly #life: Lifetime

  private constructor(life: Lifetime) {
    this.#life = life
  }

  /** @throws MeshError LISTEN_FAILED when another agent lives in this state directory. */
  static start(path: string, routes: Readonly<Record<string, LocalRoute>>): Promise<LocalApi> {
    return Lifetime.open(async (life) => {
      if (Buffer.byteLength(path) > MAX_SOCKET_PATH) {
        throw new MeshError('LISTEN_FAILED', {
          path,
          reason: `a Unix socket path has at most ${MAX_SOCKET_PATH} bytes`,
          remedy: 'choose a shorter --state directory',
        })
      }
      if (existsSync(path)) {
        if (await answers(path))
          throw new MeshError('LISTEN_FAILED', {
            path,
            reason: 'an agent is running in this state directory already',
            remedy: 'stop it, or choose another directory with --state',
          })
        rmSync(path)
      }
      const server = createServer((request, response) => {
        const url = new URL(request.url ?? '/', 'http://agent')
        const answer = (status: number, body: unknown) =>
          response.writeHead(status, { 'content-type': 'application/json' }).end(`${JSON.stringify(body)}\n`)
        const route = routes[url.pathname]
        if (request.method !== 'GET' || route === undefined)
          return answer(404, { error: 'USAGE', details: { path: url.pathname } })
        Promise.try(route, url.searchParams).then(
          (body) => answer(200, body),
          (error: unknown) =>
            isMeshError(error)
              ? answer(400, { error: error.code, details: error.details })
              : answer(500, { error: 'REQUEST_FAILED', details: { reason: String(error) } }),
        )
      })
      await new Promise<void>((resolve, reject) => {
        server.once('error', (cause) => reject(new MeshError('LISTEN_FAILED', { path }, { cause })))
        server.listen(path, resolve)
      })
      chmodSync(path, 0o600)
      server.unref()
      life.defer(() => {
        server.closeAllConnections()
        server.close()
      })
      return new LocalApi(life)
    })
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }
}

/** Asks the agent whose socket is at `path`. @throws MeshError NOT_RUNNING, or what the agent answered. */
export function askAgent(path: string, route: string, query: Readonly<Record<string, string>> = {}): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const target = `${route}?${new URLSearchParams(query).toString()}`
    const asking = httpRequest({ socketPath: path, path: target, agent: false, timeout: 15_000 }, (response) => {
      const chunks: Buffer[] = []
      response.on('data', (chunk: Buffer) => chunks.push(chunk))
      response.on('end', () => {
        const body = JSON.parse(Buffer.concat(chunks).toString('utf8')) as {
          error?: ErrorCode
          details?: Record<string, unknown>
        }
        if (response.statusCode === 200) resolve(body)
        else reject(new MeshError(body.error ?? 'REQUEST_FAILED', body.details))
      })
    })
    asking.on('timeout', () => asking.destroy(new MeshError('REQUEST_TIMEOUT', { path })))
    asking.on('error', (cause) =>
      reject(isMeshError(cause) ? cause : new MeshError('NOT_RUNNING', { what: 'agent', path }, { cause })),
    )
    asking.end()
  })
}

function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect(path)
    probe.once('connect', () => {
      probe.destroy()
      resolve(true)
    })
    probe.once('error', () => resolve(false))
  })
}
