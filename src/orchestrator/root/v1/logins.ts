import Type from 'typebox'
import { MeshError } from '../../../core/errors.ts'
import type { ApiContext } from '../api-context.ts'
import { clearedCookie, sessionCookie } from '../people/cookie.ts'
import { governs } from '../people/governing.ts'
import { ADMIN, isAdministrator } from '../people/people.ts'
import { MAX_PASSWORD } from '../people/passwords.ts'
import type { UserToken } from '../people/records.ts'
import { PERMISSIONS, type Permission } from '../people/roles.ts'
import { operation } from './operation.ts'
import { page, paging } from './page.ts'
import { GrantOf } from './people.ts'
import { pageOf } from './schemas.ts'

/** Who has logged in, and API tokens. */

const closed = { additionalProperties: false }
const Count = Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER })
const Limits = Type.Object(
  {
    grants: Type.Optional(Type.Array(GrantOf, { maxItems: 100 })),
    apps: Type.Optional(Type.Array(Type.String({ maxLength: 127 }), { maxItems: 100, description: '`app.namespace`' })),
  },
  { ...closed, description: 'It may what its owner may, and no more than this.' },
)
const SESSION_SECONDS = 12 * 3_600
const MOST_SESSION_SECONDS = 30 * 86_400
const TOKEN_SECONDS = 30 * 86_400
const MOST_TOKEN_SECONDS = 366 * 86_400

const login = operation({
  id: 'login',
  needs: 'open',
  method: 'post',
  path: '/login',
  summary: 'Begins a session by name and password: as a token, or as a cookie for a browser',
  bodyLimit: 16_384,
  body: Type.Object(
    {
      user: Type.String({ minLength: 1, maxLength: 100 }),
      password: Type.String({ maxLength: MAX_PASSWORD }),
      cookie: Type.Optional(Type.Boolean({ description: 'In a cookie that no program of the page can read.' })),
      ttlSeconds: Type.Optional(Type.Integer({ minimum: 60, maximum: MOST_SESSION_SECONDS })),
    },
    closed,
  ),
  answer: Type.Object({ user: Type.String(), token: Type.Optional(Type.String()), expiresAt: Count }),
  refusals: [415, 507],
  run: async ({ body, request, reply }, context) => {
    const { store, people, passwords, audit } = context
    const { user, password, cookie = false, ttlSeconds = SESSION_SECONDS } = body
    const from = request.ip
    const isRight = await passwords.isRight(store.users.get(user)?.password, { password, user, from })
    if (!isRight || store.users.get(user) === undefined) {
      // what is no user may be a password that was typed in the wrong place
      const name = store.users.get(user) === undefined ? 'nobody' : user
      audit.record({ user: name, call: 'login', from, status: 401, requestId: request.id })
      throw new MeshError('LOGIN_REFUSED', { remedy: REMEDY })
    }
    const { token, record } = people.createToken({ user, kind: 'session', ttlSeconds })
    audit.record({ user, call: 'login', from, status: 200, requestId: request.id })
    void reply.header('cache-control', 'no-store')
    if (cookie) void reply.header('set-cookie', sessionCookie(token, ttlSeconds))
    return { user, ...(cookie ? {} : { token }), expiresAt: record.expiresAt }
  },
})

const REMEDY = 'An administrator of your organisation gives you another password: `hedgerow user password NAME`.'

const logout = operation({
  id: 'logout',
  needs: 'self',
  method: 'post',
  path: '/logout',
  summary: 'Ends the session with which it is asked',
  answer: Type.Object({ user: Type.String() }),
  refusals: [403, 507],
  run: ({ reply }, { people, view }) => {
    const { id, by, user } = view.who
    if (by !== 'session') throw new MeshError('FORBIDDEN', { reason: 'this is no session: an API token is revoked' })
    people.revoke(id)
    void reply.header('set-cookie', clearedCookie())
    return { user }
  },
})

const me = operation({
  id: 'whoami',
  needs: 'self',
  path: '/me',
  summary: 'Who asks, and what it may',
  answer: Type.Object({
    user: Type.String(),
    by: Type.Enum(['credential', 'token', 'session']),
    grants: Type.Array(GrantOf),
    limits: Type.Optional(Limits),
    organisations: Type.Array(
      Type.Object({
        name: Type.String(),
        namespaces: Type.Array(Type.String()),
        permissions: Type.Array(Type.Enum(Object.keys(PERMISSIONS) as Permission[])),
      }),
    ),
    isAdministrator: Type.Boolean(),
    expiresAt: Type.Optional(Count),
  }),
  run: (_given, { view, store }) => {
    const { user, by, id, grants, limits } = view.who
    const words = Object.keys(PERMISSIONS) as Permission[]
    const expiresAt = store.userTokens.get(id)?.expiresAt
    const organisations = store.organisations.list().map(({ name, namespaces }) => ({
      name,
      namespaces: [...namespaces],
      permissions: words.filter((word) => view.may(word, { kind: 'organisation', organisation: name })),
    }))
    return {
      user,
      by,
      grants: grants.map((grant) => ({ ...grant })),
      ...(limits === undefined ? {} : { limits: mutable(limits) }),
      organisations: organisations.filter(({ permissions }) => permissions.length > 0),
      isAdministrator: isAdministrator(view.who),
      ...(expiresAt === undefined ? {} : { expiresAt }),
    }
  },
})

function mutable({ grants, apps }: NonNullable<UserToken['limits']>) {
  return {
    ...(grants === undefined ? {} : { grants: grants.map((grant) => ({ ...grant })) }),
    ...(apps === undefined ? {} : { apps: [...apps] }),
  }
}

const TokenRow = Type.Object({
  id: Type.String(),
  user: Type.String(),
  kind: Type.Enum(['token', 'session']),
  name: Type.Optional(Type.String()),
  limits: Type.Optional(Limits),
  createdAt: Count,
  expiresAt: Count,
  usedAt: Type.Optional(Count),
})

function tokenRow({ hash: _hash, limits, ...row }: UserToken) {
  return { ...row, ...(limits === undefined ? {} : { limits: mutable(limits) }) }
}

const listTokens = operation({
  id: 'listApiTokens',
  needs: 'self',
  path: '/api-tokens',
  summary: 'API tokens and sessions: one’s own, and those of users about whom one decides',
  query: Type.Object({ ...paging }),
  answer: pageOf(TokenRow),
  run: ({ query }, context) =>
    page(context.store.userTokens.list(), query, {
      idOf: ({ id }) => id,
      fits: (token) => token.expiresAt > context.clock.wall() && isTheirs(token, context),
      rowOf: tokenRow,
    }),
})

const createToken = operation({
  id: 'createApiToken',
  needs: 'self',
  method: 'post',
  path: '/api-tokens',
  summary: 'Creates an API token of one’s own; its text is answered this once',
  isSecret: true,
  body: Type.Object(
    {
      name: Type.String({ minLength: 1, maxLength: 100, description: 'What it is for.' }),
      limits: Type.Optional(Limits),
      ttlSeconds: Type.Optional(
        Type.Integer({ minimum: 60, maximum: MOST_TOKEN_SECONDS, description: '30 days by default.' }),
      ),
    },
    closed,
  ),
  answer: Type.Object({ ...TokenRow.properties, token: Type.String() }),
  refusals: [403, 415, 507],
  run: ({ body, reply }, { people, view }) => {
    if (view.who.by === 'token')
      throw new MeshError('FORBIDDEN', {
        reason: 'an API token creates no others',
        remedy: 'Log in, and create it then.',
      })
    const { name, limits, ttlSeconds = TOKEN_SECONDS } = body
    const { token, record } = people.createToken({ user: view.who.user, kind: 'token', ttlSeconds, name, limits })
    void reply.header('cache-control', 'no-store')
    return { ...tokenRow(record), token }
  },
})

const revokeToken = operation({
  id: 'revokeApiToken',
  needs: 'self',
  method: 'delete',
  path: '/api-tokens/{id}',
  summary: 'Revokes an API token, or ends a session; what it has open is cut',
  params: Type.Object({ id: Type.String({ minLength: 1, maxLength: 100 }) }),
  answer: Type.Object({ deleted: Type.Array(Type.String()) }),
  refusals: [404, 507],
  run: ({ params }, context) => {
    const token = context.people.token(params.id)
    if (!isTheirs(token, context)) throw new MeshError('API_TOKEN_UNKNOWN', { id: params.id })
    context.people.revoke(token.id)
    return { deleted: [token.id] }
  },
})

/** Whether the token is the caller’s, or of a user about whom it decides. One of limits sees and ends itself only. */
function isTheirs({ id, user }: UserToken, { view, store }: ApiContext): boolean {
  if (view.who.id === id) return true
  if (view.who.by === 'token' && !view.isWhole) return false
  if (user === view.who.user || view.isWhole) return true
  const owner = store.users.get(user)
  return user !== ADMIN && owner !== undefined && governs(view, owner)
}

export const LOGINS = [login, logout, me, listTokens, createToken, revokeToken]
