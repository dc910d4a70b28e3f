import { randomBytes, timingSafeEqual } from 'node:crypto'
import type { IncomingHttpHeaders, IncomingMessage, Server, ServerResponse } from 'node:http'
import { request } from 'node:https'
import type { AddressInfo } from 'node:net'
import { pipeline } from 'node:stream/promises'
import { type Credential, rootConnection } from '../client/root-client.ts'
import { MeshError } from '../core/errors.ts'
import { createServer } from '../core/kit/node-http.ts'

/*
 * The root for a browser of this machine:
 *
 *     browser ── http, 127.0.0.1, key ──▶ here ── TLS, the root’s certificate checked, token ──▶ root
 *
 * Browsers do not know the authority of a mesh, and would warn; here the certificate is checked as the CLI does. The token stays
 * here: the browser has a key that is worth nothing when this has ended.
 */

const HOST = '127.0.0.1'
/** Of the root, and nothing else of it: not its control links, and not what others join with. */
const FORWARDED = /^\/(ui\/|v1\/|api\/v1\/)/
/** Needs no key: the page’s files are the same for everybody. */
const OPEN = /^\/ui\//
/** What belongs to one connection (RFC 9110 §7.6.1), and what is written anew. */
const OWN_HEADERS = [
  'connection',
  'keep-alive',
  'proxy-connection',
  'transfer-encoding',
  'upgrade',
  'te',
  'trailer',
  'host',
]

export class DashboardServer implements AsyncDisposable {
  readonly #server: Server
  readonly #key: string

  private constructor(server: Server, key: string) {
    this.#server = server
    this.#key = key
  }

  /** @throws MeshError LISTEN_FAILED */
  static async start(credential: Credential, port: number): Promise<DashboardServer> {
    const key = randomBytes(24).toString('base64url')
    const server = createServer((asked, answer) => {
      forward(asked, answer, { credential, key, port: (server.address() as AddressInfo).port })
    })
    await new Promise<void>((resolve, reject) => {
      server.once('error', (cause) => reject(new MeshError('LISTEN_FAILED', { address: `${HOST}:${port}` }, { cause })))
      server.listen(port, HOST, resolve)
    })
    return new DashboardServer(server, key)
  }

  /** The key is behind `#`, which browsers keep to themselves. */
  get url(): string {
    const { port } = this.#server.address() as AddressInfo
    return `http://${HOST}:${port}/ui/#key=${this.#key}`
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve))
    this.#server.closeAllConnections()
    await closed
  }
}

interface Parts {
  credential: Credential
  key: string
  port: number
}

function forward(asked: IncomingMessage, answer: ServerResponse, { credential, key, port }: Parts): void {
  const { url: path = '', method = 'GET', headers } = asked
  const refuse = (status: number, message: string) => {
    asked.resume()
    answer.writeHead(status, { 'content-type': 'application/json', connection: 'close' })
    answer.end(JSON.stringify({ error: status === 401 ? 'UNAUTHENTICATED' : 'USAGE', message }))
  }
  // a page of another name that leads here (DNS rebinding) has that name as its host
  if (headers.host !== `${HOST}:${port}` && headers.host !== `localhost:${port}`)
    return refuse(421, 'this address is reached as 127.0.0.1')
  if (path === '/' || path === '/ui') {
    answer.writeHead(302, { location: '/ui/' }).end()
    return undefined
  }
  if (!FORWARDED.test(path)) return refuse(404, 'only the page and the API are here')
  const isOpen = OPEN.test(path)
  if (!isOpen && !isKey(headers.authorization, key))
    return refuse(401, 'this key is not taken: open the address that `hedgerow dashboard` has printed')

  const onward = request(new URL(path, credential.url), {
    ...rootConnection(credential),
    method,
    headers: {
      ...endToEnd(headers),
      ...(isOpen ? {} : { authorization: `Bearer ${credential.token}` }),
    },
  })
  onward.on('response', (told) => {
    answer.writeHead(told.statusCode ?? 502, endToEnd(told.headers))
    answer.flushHeaders() // of a stream, before its first byte
    pipeline(told, answer).catch(() => answer.destroy())
  })
  onward.on('error', () => {
    if (answer.headersSent) answer.destroy()
    else refuse(502, 'The root does not answer.')
  })
  answer.once('close', () => onward.destroy())
  pipeline(asked, onward).catch(() => onward.destroy())
  return undefined
}

function isKey(authorization: string | undefined, key: string): boolean {
  const given = Buffer.from(authorization ?? '')
  const wanted = Buffer.from(`Bearer ${key}`)
  return given.length === wanted.length && timingSafeEqual(given, wanted)
}

function endToEnd(headers: IncomingHttpHeaders): IncomingHttpHeaders {
  const named = (headers.connection ?? '')
    .toLowerCase()
    .split(',')
    .map((name) => name.trim())
  const { authorization: _own, ...others } = headers
  return Object.fromEntries(
    Object.entries(others).filter(([name]) => !OWN_HEADERS.includes(name) && !named.includes(name)),
  )
}
