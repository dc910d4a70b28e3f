import { createSign, generateKeyPairSync, type JsonWebKey, type KeyObject } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

/*
 * Two identity providers on 127.0.0.1: a real one (`oidc-provider`), in which a browser logs in, and one whose answers a test spoils.
 */

interface KeyPair {
  privateKey: KeyObject
  publicKey: KeyObject
}

/** Made once: that takes a while. */
const [KEYS, OTHER] = [1, 2].map(() => generateKeyPairSync('rsa', { modulusLength: 2_048 })) as [KeyPair, KeyPair]

export const CLIENT = { clientId: 'hedgerow', secret: 'the secret of the root' }

/** What of oidc-provider is used here; it has no types of its own. */
interface RealProvider {
  callback(): (request: IncomingMessage, response: ServerResponse) => void
  interactionDetails(request: IncomingMessage, response: ServerResponse): Promise<{ prompt: { name: string } }>
  interactionFinished(request: IncomingMessage, response: ServerResponse, result: object): Promise<void>
}

interface Grant {
  addOIDCScope(scope: string): void
  save(): Promise<string>
}

type MakeProvider = new (
  issuer: string,
  configuration: object,
) => RealProvider & {
  Grant: new (of: object) => Grant
  Client: { prototype: { redirectUriAllowed: (uri: string) => boolean } }
}

const UNTYPED: string = 'oidc-provider'

/** `loggedIn`: who logs in next, and with what claims. `goesBack`: to what addresses, beside those of its client. */
export async function realProvider(
  loggedIn: { sub: string; claims: object },
  goesBack: (uri: string) => boolean = () => false,
) {
  const { Provider } = (await import(UNTYPED)) as { Provider: MakeProvider }
  const server = createServer()
  const issuer = await listening(server)
  const grants = { refusal: undefined as object | undefined }
  const provider: InstanceType<MakeProvider> = new Provider(issuer, {
    clients: [
      {
        client_id: CLIENT.clientId,
        client_secret: CLIENT.secret,
        application_type: 'native', // any port of 127.0.0.1
        redirect_uris: ['http://127.0.0.1/callback', 'https://root.example/v1/login/oidc/callback'],
      },
    ],
    pkce: { required: () => true },
    features: { devInteractions: { enabled: false } },
    interactions: { url: () => '/interaction' },
    claims: { openid: ['sub'], profile: ['preferred_username', 'groups'], email: ['email', 'email_verified'] },
    findAccount: (_context: unknown, sub: string) => ({ accountId: sub, claims: () => ({ sub, ...loggedIn.claims }) }),
    loadExistingGrant: async (context: { oidc: { session: { accountId: string }; client: { clientId: string } } }) => {
      const { session, client } = context.oidc
      const grant = new provider.Grant({ accountId: session.accountId, clientId: client.clientId })
      grant.addOIDCScope('openid profile email')
      await grant.save()
      return grant
    },
    cookies: { keys: ['a test'] },
    jwks: { keys: [jwkOf(KEYS.privateKey)] },
    ttl: { Interaction: 60, Session: 60, Grant: 60, AccessToken: 60, IdToken: 60 },
  })
  const { prototype } = provider.Client
  const isRegistered = prototype.redirectUriAllowed
  prototype.redirectUriAllowed = function (uri) {
    return goesBack(uri) || isRegistered.call(this, uri)
  }
  const answer = provider.callback()
  server.on('request', (request, response) => {
    if (!request.url?.startsWith('/interaction')) return answer(request, response)
    void provider.interactionDetails(request, response).then(({ prompt }) => {
      const done = prompt.name === 'login' ? { login: { accountId: loggedIn.sub } } : { consent: {} }
      return provider.interactionFinished(request, response, grants.refusal ?? done)
    })
  })
  return { issuer, grants, server, [Symbol.asyncDispose]: () => closed(server) }
}

function jwkOf(key: KeyObject): JsonWebKey {
  return { ...key.export({ format: 'jwk' }), use: 'sig', alg: 'RS256', kid: 'one' }
}

/** As a browser: follows what it is sent to, with cookies, up to an address of somebody else. Returns that. */
export async function browse(from: string, host: string): Promise<string> {
  const cookies = new Map<string, string>()
  let at = from
  for (let steps = 0; new URL(at).host === host; steps++) {
    if (steps === 10) throw new Error(`the provider leads in circles: ${at}`)
    const cookie = [...cookies].map(([name, value]) => `${name}=${value}`).join('; ')
    const response = await fetch(at, { redirect: 'manual', headers: { cookie } })
    for (const set of response.headers.getSetCookie()) {
      const [name = '', value = ''] = set.split(';', 1)[0]?.split('=', 2) ?? []
      cookies.set(name, value)
    }
    const location = response.headers.get('location')
    if (location === null) throw new Error(`${response.status} ${await response.text()}`)
    at = new URL(location, at).href
  }
  return at
}

export interface Spoilt {
  /** In place of those of an honest ID token. */
  claims?: object
  header?: object
  /** Signed with a key that is not in the list of its keys. */
  isForged?: boolean
  /** In place of the answer of the token endpoint. */
  status?: number
  body?: unknown
  /** In place of its own description. */
  metadata?: object
}

/** Answers for every code with an ID token of its next `told`. */
export async function lyingProvider() {
  const { privateKey, publicKey } = KEYS
  const server = createServer()
  const issuer = await listening(server)
  const told = { next: {} as Spoilt, nonce: '', asked: 0 }
  const idToken = ({ claims, header, isForged = false }: Spoilt): string => {
    const now = Math.floor(Date.now() / 1_000)
    const honest = { iss: issuer, aud: CLIENT.clientId, sub: 'ann-1', nonce: told.nonce, iat: now, exp: now + 60 }
    const head = { alg: 'RS256', kid: 'one', ...header }
    const text = [head, { ...honest, preferred_username: 'ann', ...claims }].map(encoded).join('.')
    const signature = createSign('sha256')
      .update(text)
      .sign(isForged ? OTHER.privateKey : privateKey)
    return `${text}.${head.alg === 'none' ? '' : signature.toString('base64url')}`
  }
  const answers: Readonly<Record<string, () => unknown>> = {
    '/.well-known/openid-configuration': () => ({
      issuer,
      authorization_endpoint: `${issuer}/auth`,
      token_endpoint: `${issuer}/token`,
      jwks_uri: `${issuer}/keys`,
      response_types_supported: ['code'],
      id_token_signing_alg_values_supported: ['RS256'],
      ...told.next.metadata,
    }),
    '/keys': () => ({ keys: [{ ...publicKey.export({ format: 'jwk' }), use: 'sig', alg: 'RS256', kid: 'one' }] }),
    '/token': () => told.next.body ?? { access_token: 'a', token_type: 'Bearer', id_token: idToken(told.next) },
  }
  server.on('request', (request, response) => {
    told.asked++
    const path = request.url ?? ''
    const body = answers[path]?.()
    response.writeHead(body === undefined ? 404 : path === '/token' ? (told.next.status ?? 200) : 200, {
      'content-type': 'application/json',
    })
    response.end(typeof body === 'string' ? body : JSON.stringify(body ?? {}))
  })
  return { issuer, told, server, [Symbol.asyncDispose]: () => closed(server) }
}

function encoded(part: object): string {
  return Buffer.from(JSON.stringify(part)).toString('base64url')
}

async function listening(server: Server): Promise<string> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

export async function closed(server: Server): Promise<void> {
  if (!server.listening) return
  const over = once(server, 'close')
  server.close()
  server.closeAllConnections()
  await over
}
