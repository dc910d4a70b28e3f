import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import type { RootClient } from '../client/root-client.ts'
import { MeshError } from '../core/errors.ts'
import { createServer } from '../core/kit/node-http.ts'

/*
 * Login by the identity provider of the root. It sends the browser back to a port of this machine that only this command listens on
 * (RFC 8252 §7.3), and the root does the rest:
 *
 *     root ─▶ url ─▶ browser ─▶ provider ─▶ http://127.0.0.1:PORT/callback?code=…&state=… ─▶ root ─▶ session
 */

const HOST = '127.0.0.1'

export interface Session {
  user: string
  token: string
  expiresAt: number
}

/** `show`: tells somebody where to log in. @throws MeshError OIDC_OFF, OIDC_REFUSED, PROVIDER_FAILED, REQUEST_TIMEOUT */
export async function oidcLogin(
  client: RootClient,
  { ttlSeconds, show }: { ttlSeconds: number; show: (url: string) => void },
): Promise<Session> {
  const server = createServer()
  server.listen(0, HOST)
  try {
    await once(server, 'listening')
    const { port } = server.address() as AddressInfo
    const { login, url, expiresAt } = await client.ask('POST', '/v1/login/oidc', { body: { port } })
    const state = new URL(url).searchParams.get('state')
    const back = new Promise<string>((resolve) => {
      server.on('request', (request, response) => {
        const asked = new URL(request.url ?? '/', `http://${HOST}`)
        // anything else on this machine may ask here: what counts knows the state
        const isBack = asked.pathname === '/callback' && asked.searchParams.get('state') === state
        response.writeHead(isBack ? 200 : 404, {
          'content-type': 'text/plain; charset=utf-8',
          'cache-control': 'no-store',
          connection: 'close',
        })
        response.end(
          isBack ? 'The terminal says whether you are logged in. This window may be closed.\n' : 'Not here.\n',
        )
        if (isBack) resolve(asked.search.slice(1))
      })
    })
    show(url)
    const answer = await within(back, expiresAt - Date.now())
    return await client.ask('POST', '/v1/login/oidc/finish', { body: { login, answer, ttlSeconds } })
  } finally {
    server.close()
    server.closeAllConnections()
  }
}

/** @throws MeshError REQUEST_TIMEOUT */
async function within<T>(wanted: Promise<T>, ms: number): Promise<T> {
  const signal = AbortSignal.timeout(Math.max(0, ms))
  const late = once(signal, 'abort').then(() => {
    throw new MeshError('REQUEST_TIMEOUT', {
      reason: 'nobody logged in',
      remedy: 'Begin again with `hedgerow login --oidc`.',
    })
  })
  return Promise.race([wanted, late])
}
