import type { FastifyRequest } from 'fastify'
import { MeshError } from '../../../core/errors.ts'
import { pathOf } from '../../../core/kit/request-target.ts'
import type { App } from '../../link/link-server.ts'
import type { ApiContext } from '../api-context.ts'
import { LISTS } from './lists.ts'
import { documentOf } from './openapi.ts'
import { givenOf, type Operation } from './operation.ts'
import { watchOperation } from './watch/watch.ts'

export const OPERATIONS: readonly Operation[] = [...LISTS, watchOperation]

/** The API, under /v1. The server has authenticated every caller. */
export function v1Routes(app: App, context: ApiContext): void {
  for (const operation of OPERATIONS) {
    const given = givenOf(operation)
    app.route({
      method: operation.method.toUpperCase(),
      url: operation.path.replace(/\{(\w+)\}/g, ':$1'),
      handler: async (request, reply) => {
        const answer = await operation.run(given(request, reply), context)
        if (answer === reply) return reply
        return reply.code(operation.status).send(answer)
      },
    })
  }
  const document = JSON.stringify(documentOf(OPERATIONS, context.version))
  app.get('/openapi.json', (_request, reply) => reply.type('application/json; charset=utf-8').send(document))
  app.setNotFoundHandler((request, reply) => {
    const methods = methodsAt(pathOf(request.url), OPERATIONS)
    if (methods.length > 0) void reply.header('allow', methods.join(', '))
    throw unknownRoute(request, methods.length > 0)
  })
}

function unknownRoute({ method, url }: FastifyRequest, isMethod: boolean): MeshError {
  const path = url.slice(0, 200)
  return isMethod ? new MeshError('METHOD_REFUSED', { method, path }) : new MeshError('ROUTE_UNKNOWN', { path })
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
