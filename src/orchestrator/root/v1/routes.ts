import type { FastifyReply, FastifyRequest } from 'fastify'
import { MeshError } from '../../../core/errors.ts'
import { pathOf } from '../../../core/kit/request-target.ts'
import type { App } from '../../link/link-server.ts'
import type { ApiContext } from '../api-context.ts'
import { AUTHORITY } from './authority.ts'
import { callerOf } from '../people/callers.ts'
import type { Thing } from '../people/may.ts'
import type { Need, Params } from '../people/need.ts'
import type { People } from '../people/people.ts'
import type { Grant } from '../people/roles.ts'
import { auditOperation } from './audit.ts'
import { CONNECTIONS } from './connections.ts'
import { LOGINS } from './logins.ts'
import { OIDC_LOGINS, OIDC_PAGES, oidcPages } from './oidc-logins.ts'
import { OWNERS } from './owners.ts'
import { PEOPLE } from './people.ts'
import { scopedContext } from '../people/scoped.ts'
import { View } from '../people/view.ts'
import { CHANGES } from './changes.ts'
import { EXEC } from './exec.ts'
import { LISTS } from './lists.ts'
import { documentOf } from './openapi.ts'
import { type Given, givenOf, mayRepeat, type Operation } from './operation.ts'
import { hashOfRequest, Repeats } from './repeats.ts'
import { RequestRate } from './request-rate.ts'
import { SECRETS } from './secrets.ts'
import { VOLUMES } from './volumes.ts'
import { followEvents, watchOperation } from './watch/watch.ts'

export const OPERATIONS: readonly Operation[] = [
  ...LISTS,
  ...CHANGES,
  ...SECRETS,
  ...VOLUMES,
  ...AUTHORITY,
  ...EXEC,
  watchOperation,
  followEvents,
  ...PEOPLE,
  ...CONNECTIONS,
  ...LOGINS,
  ...OIDC_LOGINS,
  ...OWNERS,
  auditOperation,
]

/** The API, under /v1. The server has authenticated every caller. */
export function v1Routes(app: App, context: ApiContext): void {
  const { clock, log, large, store, openRequests, nodes } = context
  const rate = new RequestRate(() => clock.now())
  const repeats = new Repeats(store.answers, () => clock.wall())
  app.addHook('onRequest', async (request, reply) => {
    rate.take(request.routeOptions.config.open === true ? request.ip : callerOf(request).id)
    if (request.is404) refuseUnknown(request, reply) // before a body is read
    const { needs } = request.routeOptions.config
    if (needs === undefined) return
    const params = request.params as Params
    reply.raw.once(
      'close',
      openRequests.enter({ caller: callerOf(request), needs, params, method: request.method, response: reply.raw }),
    )
  })
  app.addHook('preHandler', async ({ method }) => {
    if (!isReading(method)) await large.idle() // what changes while a document is applied would meet half of it
  })
  app.addHook('onSend', async ({ id }, reply) => void reply.header('x-request-id', id))
  app.addHook('onSend', async ({ method }) => {
    if (!isReading(method)) nodes.forgetRecent() // whoever has changed something sees it in the next list
  })
  app.addHook('onSend', async (request, reply) => audited(request, reply.statusCode, context))
  app.addHook('onResponse', async ({ id, method, url }, { statusCode: status }) => {
    const facts = { requestId: id, method, path: pathOf(url).slice(0, 400), status }
    if (isReading(method)) log.debug('API request', facts)
    else log.info('API request', facts)
  })
  const isBytes = ({ bodyType }: Operation) => bodyType !== undefined
  for (const operation of OPERATIONS) if (!isBytes(operation)) addRoute(app, operation, { context, repeats })
  void app.register((scope, _options, done) => {
    scope.removeAllContentTypeParsers()
    scope.addContentTypeParser('application/octet-stream', { parseAs: 'buffer' }, (_request, body, taken) =>
      taken(null, body),
    )
    for (const operation of OPERATIONS.filter(isBytes)) addRoute(scope as App, operation, { context, repeats })
    done()
  })
  oidcPages(app, context)
  const document = JSON.stringify(documentOf(OPERATIONS, context.version))
  app.get('/openapi.json', { config: { needs: 'self' } }, (_request, reply) =>
    reply.type('application/json; charset=utf-8').send(document),
  )
  app.setNotFoundHandler(refuseUnknown)
}

declare module 'fastify' {
  interface FastifyContextConfig {
    operation?: Operation
  }
}

/** What a request is about, for the audit log. */
const ABOUT = new WeakMap<FastifyRequest, string | undefined>()

function aboutOf({ params, body }: Given): string {
  const { name } = (typeof body === 'object' && body !== null ? body : {}) as { name?: unknown }
  const named = Object.values(params).join('/')
  return named === '' && typeof name === 'string' ? name : named
}

/** What changes something, and what reads more than facts; what was refused, too. A login says so itself. */
function audited(request: FastifyRequest, status: number, { audit, people, store }: ApiContext): void {
  const { operation } = request.routeOptions.config
  if (operation === undefined || operation.needs === 'open') return
  if (!(operation.isAudited ?? operation.method !== 'get') || status === 401 || status === 429) return
  const { user, id, by } = callerOf(request)
  const about = ABOUT.get(request) ?? Object.values(request.params as Params).join('/')
  audit.record({
    user,
    ...(by === 'credential' ? {} : { token: id }),
    from: request.ip,
    call: operation.id,
    about,
    status,
    requestId: request.id,
    organisations: organisationsOf(operation.needs, about, { people, grants: store.users.get(user)?.grants ?? [] }),
  })
}

/** Whose it is what was done; what is nobody’s is theirs to whom the user belongs. */
function organisationsOf(
  needs: Need,
  about: string,
  { people, grants }: { people: People; grants: readonly Grant[] },
): string[] {
  const [, of] = needs.split(' ')
  const [named = ''] = about.split(' ')
  if (of === 'node' || of === 'relay' || of === 'cluster') return toList(people.node(named))
  if (of === 'organisation') return [named]
  if (of !== undefined && /^(app|service|instance|secret|volume)$/.test(of)) return toList(people.app(named))
  if (needs === 'change given' && named !== '') {
    const all = new Set(about.split(' ').map((name) => toList(people.app(name))[0])) // of several, it names those of others
    return [...all].flatMap((organisation) => (all.size === 1 && organisation !== undefined ? [organisation] : []))
  }
  return [...new Set(grants.flatMap(({ organisation }) => organisation ?? []))]
}

function toList(thing: Thing): string[] {
  if (thing.kind === 'app') return thing.organisation === undefined ? [] : [thing.organisation]
  return thing.kind === 'cluster' && thing.owner !== undefined ? [thing.owner] : []
}

function addRoute(
  app: App,
  operation: Operation,
  { context, repeats }: { context: ApiContext; repeats: Repeats },
): void {
  const { method, path, bodyLimit, status, needs, about } = operation
  const { people } = context
  const given = givenOf(operation)
  const answered = async (request: FastifyRequest, reply: FastifyReply) => {
    const seen = needs === 'open' ? context : scopedContext(context, new View(callerOf(request), people))
    const checked = given(request, reply)
    ABOUT.set(request, aboutOf(checked))
    const answer = await operation.run(checked, seen)
    if (about !== undefined) ABOUT.set(request, about(checked, answer))
    return answer === reply ? undefined : JSON.stringify(answer)
  }
  app.route({
    method: method.toUpperCase(),
    url: path.replace(/\{(\w+)\}/g, ':$1'),
    config: { operation, ...(needs === 'open' ? { open: true } : { needs }) },
    ...(bodyLimit === undefined ? {} : { bodyLimit }),
    handler: async (request, reply) => {
      const key = mayRepeat(operation) ? keyIn(request) : undefined
      const body =
        key === undefined
          ? await answered(request, reply)
          : await once({ key: keyOf(request, key), status, repeats }, request, () => answered(request, reply))
      return body === undefined ? reply : reply.code(status).type('application/json; charset=utf-8').send(body)
    },
  })
}

/** @throws MeshError METHOD_REFUSED, ROUTE_UNKNOWN */
function refuseUnknown({ method, url }: FastifyRequest, reply: FastifyReply): never {
  const path = url.slice(0, 200)
  const methods = methodsAt(pathOf(url), OPERATIONS)
  if (methods.length === 0) throw new MeshError('ROUTE_UNKNOWN', { path })
  void reply.header('allow', methods.join(', '))
  throw new MeshError('METHOD_REFUSED', { method, path })
}

function isReading(method: string): boolean {
  return method === 'GET' || method === 'HEAD'
}

/** @throws MeshError MESSAGE_INVALID */
function keyIn({ headers }: FastifyRequest): string | undefined {
  const key = headers['idempotency-key']
  if (key === undefined) return undefined
  if (typeof key === 'string' && /^[\x21-\x7e]{1,200}$/.test(key)) return key
  throw new MeshError('MESSAGE_INVALID', {
    problem: 'Idempotency-Key has 1 to 200 printable characters, without blanks',
  })
}

/** A key is of whoever made it: another's answer is nobody else's. */
function keyOf(request: FastifyRequest, key: string): string {
  const { by, id } = callerOf(request)
  return by === 'credential' ? key : `${id} ${key}`
}

interface Repeated {
  key: string
  status: number
  repeats: Repeats
}

async function once(
  { key, status, repeats }: Repeated,
  { method, url, headers, body }: FastifyRequest,
  work: () => Promise<string | undefined>,
): Promise<string | undefined> {
  const hash = hashOfRequest(method, url, { body, bytes: Number(headers['content-length'] ?? 0) })
  const kept = repeats.begin(key, hash)
  if (kept !== undefined) return kept.body
  try {
    const answer = await work()
    if (answer !== undefined) repeats.keep(key, { hash, status, body: answer })
    return answer
  } finally {
    repeats.drop(key)
  }
}

/** What the API has at a path, for `Allow`. */
export function methodsAt(path: string, operations: readonly Pick<Operation, 'method' | 'path'>[]): string[] {
  const fits = operations.filter((operation) => isAt(path, `/v1${operation.path}`))
  const methods = new Set(fits.map(({ method }) => method.toUpperCase()))
  if (path === '/v1/openapi.json' || OIDC_PAGES.includes(path)) methods.add('GET')
  return methods.has('GET') ? [...methods, 'HEAD'].sort() : [...methods].sort()
}

function isAt(path: string, template: string): boolean {
  const wanted = template.split('/')
  const given = path.split('/')
  return (
    wanted.length === given.length &&
    wanted.every((part, i) => part === given[i] || (part.startsWith('{') && given[i] !== ''))
  )
}
