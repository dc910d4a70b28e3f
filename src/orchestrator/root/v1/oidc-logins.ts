import type { FastifyReply, FastifyRequest } from 'fastify'
import Type from 'typebox'
import { isMeshError, MeshError } from '../../../core/errors.ts'
import type { App } from '../../link/link-server.ts'
import { refusalOf } from '../../link/problem.ts'
import type { ApiContext } from '../api-context.ts'
import { clearedCookie, LOGIN_COOKIE, loginCookie, loginIn, sessionCookie } from '../people/cookie.ts'
import type { Oidc } from '../people/oidc.ts'
import { operation } from './operation.ts'

/*
 * Login by the identity provider of the root (people/oidc.ts).
 *
 *     program   POST /login/oidc ─▶ url ┄ browser, provider ┄▶ http://127.0.0.1:PORT/callback ─▶ POST /login/oidc/finish ─▶ token
 *     browser   GET /login/oidc ─▶ provider ─▶ GET /login/oidc/callback ─▶ cookie, /ui/#session
 *
 * What comes back to a program comes to the machine on which the browser is: nobody gets the session of somebody to whom he sent an address.
 */

const closed = { additionalProperties: false }
const Count = Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER })
const SESSION_SECONDS = 12 * 3_600
const BEGIN = '/v1/login/oidc'
const CALLBACK = '/login/oidc/callback'
/** Of the page, which cannot see the cookie (src/page/live/session.ts). */
const LOGGED_IN = '/ui/#session'

const ways = operation({
  id: 'getLoginWays',
  needs: 'open',
  method: 'get',
  path: '/login',
  summary: 'How people log in here, beside name and password',
  answer: Type.Object({
    oidc: Type.Optional(
      Type.Object({
        issuer: Type.String({ description: 'The identity provider.' }),
        url: Type.String({ description: 'Where a browser begins, on this root.' }),
      }),
    ),
  }),
  refusals: [],
  run: async (_asked, { oidc }) => (oidc === undefined ? {} : { oidc: { issuer: oidc.issuer, url: BEGIN } }),
})

const begin = operation({
  id: 'beginOidcLogin',
  needs: 'open',
  method: 'post',
  path: '/login/oidc',
  summary: 'Begins a login by the identity provider, for a program that listens on 127.0.0.1',
  bodyLimit: 1_024,
  body: Type.Object(
    { port: Type.Integer({ minimum: 1, maximum: 65_535, description: 'Of `http://127.0.0.1:PORT/callback`.' }) },
    closed,
  ),
  answer: Type.Object({
    login: Type.String({ description: 'A secret, with which it is finished.' }),
    url: Type.String({ description: 'Where somebody logs in, with a browser of this machine.' }),
    expiresAt: Count,
  }),
  refusals: [404, 415, 503],
  run: async ({ body: { port }, request, reply }, context) => {
    void reply.header('cache-control', 'no-store')
    return oidcOf(context).begin({ redirect: `http://127.0.0.1:${port}/callback`, from: request.ip })
  },
})

const finish = operation({
  id: 'finishOidcLogin',
  needs: 'open',
  method: 'post',
  path: '/login/oidc/finish',
  summary: 'Ends a login by the identity provider with a session',
  bodyLimit: 32_768,
  body: Type.Object(
    {
      login: Type.String({ minLength: 1, maxLength: 100 }),
      answer: Type.String({
        minLength: 1,
        maxLength: 16_384,
        description: 'The query with which the provider sent the browser back.',
      }),
      ttlSeconds: Type.Optional(Type.Integer({ minimum: 60, maximum: SESSION_SECONDS })),
    },
    closed,
  ),
  answer: Type.Object({ user: Type.String(), token: Type.String(), expiresAt: Count }),
  refusals: [404, 415, 503, 507],
  run: async ({ body: { login, answer, ttlSeconds = SESSION_SECONDS }, request, reply }, context) => {
    void reply.header('cache-control', 'no-store')
    return finished({ login, answer, ttlSeconds }, request, context)
  },
})

export const OIDC_LOGINS = [ways, begin, finish]

/** Where a browser goes, and comes back to; what a provider adds to its answer nobody knows beforehand, so they are no operations. */
export const OIDC_PAGES: readonly string[] = [BEGIN, `/v1${CALLBACK}`]

export function oidcPages(app: App, context: ApiContext): void {
  const open = { config: { open: true } } as const
  app.get('/login/oidc', open, async (request, reply) => {
    try {
      const redirect = `${context.server.url}/v1${CALLBACK}`
      const { login, url } = await oidcOf(context).begin({ redirect, from: request.ip })
      return await reply.header('cache-control', 'no-store').header('set-cookie', loginCookie(login)).redirect(url, 302)
    } catch (error) {
      return toldInText(error, reply)
    }
  })
  app.get(CALLBACK, open, async (request, reply) => {
    try {
      const login = loginIn(request.headers)
      if (login === undefined)
        throw new MeshError('OIDC_REFUSED', {
          reason: 'this browser has not begun it, or more than ten minutes ago',
          remedy: 'Open the page of the root, and begin again.',
        })
      const answer = request.url.slice(request.url.indexOf('?') + 1)
      const { token } = await finished({ login, answer, ttlSeconds: SESSION_SECONDS }, request, context)
      return await reply
        .header('cache-control', 'no-store')
        .header('set-cookie', [sessionCookie(token, SESSION_SECONDS), clearedCookie(LOGIN_COOKIE)])
        .redirect(LOGGED_IN, 302)
    } catch (error) {
      return toldInText(error, reply.header('set-cookie', clearedCookie(LOGIN_COOKIE)))
    }
  })
}

/** @throws MeshError OIDC_OFF */
function oidcOf({ oidc }: ApiContext): Oidc {
  if (oidc === undefined) throw new MeshError('OIDC_OFF')
  return oidc
}

async function finished(
  { login, answer, ttlSeconds }: { login: string; answer: string; ttlSeconds: number },
  { ip: from, id: requestId }: FastifyRequest,
  context: ApiContext,
): Promise<{ user: string; token: string; expiresAt: number }> {
  const { people, audit } = context
  const done = { call: 'loginOidc', from, requestId }
  try {
    const { name: user } = await oidcOf(context).finish({ login, answer })
    const { token, record } = people.createToken({ user, kind: 'session', ttlSeconds })
    audit.record({ ...done, user, status: 200 })
    return { user, token, expiresAt: record.expiresAt }
  } catch (error) {
    if (isMeshError(error) && error.code === 'OIDC_REFUSED') audit.record({ ...done, user: 'nobody', status: 401 })
    throw error
  }
}

/** For whoever looks at it in a browser. */
function toldInText(cause: unknown, reply: FastifyReply): FastifyReply {
  const { status, error } = refusalOf(cause)
  const { remedy } = error.details
  const text = [error.message, ...(typeof remedy === 'string' ? [remedy] : [])].join('\n')
  return reply
    .code(status)
    .header('cache-control', 'no-store')
    .header('x-content-type-options', 'nosniff')
    .type('text/plain; charset=utf-8')
    .send(`${text}\n`)
}
