import type { FastifyReply, FastifyRequest } from 'fastify'
import { MeshError } from '../../../core/errors.ts'
import { pathOf } from '../../../core/kit/request-target.ts'
import type { App } from '../../link/link-server.ts'
import type { ApiContext } from '../api-context.ts'
import { CHANGES } from './changes.ts'
import { LISTS } from './lists.ts'
import { documentOf } from './openapi.ts'
import { givenOf, type Operation } from './operation.ts'
import { hashOfRequest, Repeats } from './repeats.ts'
import { RequestRate } from './request-rate.ts'
import { watchOperation } from './watch/watch.ts'

export const OPERATIONS: readonly Operation[] = [...LISTS, ...CHANGES, watchOperation]

/** The API, under /v1. The server has authenticated every caller. */
export function v1Routes(app: App, context: ApiContext): void {
  const { clock, log, large, store } = context
  const rate = new RequestRate(() => clock.now())
  const repeats = new Repeats(store.answers, () => clock.wall())
  app.addHook('onRequest', async (request, reply) => {
    rate.take(request.headers.authorization ?? '')
    if (request.is404) refuseUnknown(request, reply) // before a body is read
  })
  app.addHook('preHandler', async ({ method }) => {
    if (!isReading(method)) await large.idle() // what changes while a document is applied would meet half of it
  })
  app.addHook('onSend', async ({ id }, reply) => void reply.header('x-request-id', id))
  app.addHook('onResponse', async ({ id, method, url }, { statusCode: status }) => {
    const facts = { requestId: id, method, path: pathOf(url).slice(0, 400), status }
    if (isReading(method)) log.debug('API request', facts)
    else log.info('API request', facts)
  })
  for (const operation of OPERATIONS) {
    const given = givenOf(operation)
    const answered = async (request: FastifyRequest, reply: FastifyReply) => {
      const answer = await operation.run(given(request, reply), context)
      return answer === reply ? undefined : JSON.stringify(answer)
    }
    app.route({
      method: operation.method.toUpperCase(),
      url: operation.path.replace(/\{(\w+)\}/g, ':$1'),
      ...(operation.bodyLimit === undefined ? {} : { bodyLimit: operation.bodyLimit }),
      handler: async (request, reply) => {
        const key = operation.method === 'post' ? keyIn(request) : undefined
        const { status } = operation
        const body =
          key === undefined
            ? await answered(request, reply)
            : await once({ key, status, repeats }, request, () => answered(request, reply))
        return body === undefined ? reply : reply.code(status).type('application/json; charset=utf-8').send(body)
      },
    })
  }
  const document = JSON.stringify(documentOf(OPERATIONS, context.version))
  app.get('/openapi.json', (_request, reply) => reply.type('application/json; charset=utf-8').send(document))
  app.setNotFoundHandler(refuseUnknown)
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
  if (path === '/v1/openapi.json') methods.add('GET')
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
