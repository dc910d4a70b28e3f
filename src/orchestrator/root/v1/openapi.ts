import { SESSION_COOKIE } from '../people/cookie.ts'
import { mayRepeat, type Operation } from './operation.ts'
import { MODELS } from './schemas.ts'

/** The document of the API (OpenAPI 3.1), from the same operations and schemas as its routes. */

interface Parameter {
  name: string
  in: 'path' | 'query' | 'header'
  required: boolean
  description?: string
  schema: unknown
}

/** Every call may be refused with these. */
const COMMON = [400, 401, 403, 429, 500] as const

export function documentOf(operations: readonly Operation[], version: string) {
  const paths: Record<string, Record<string, unknown>> = {}
  for (const operation of operations) {
    const path = `/v1${operation.path}`
    paths[path] = { ...paths[path], [operation.method]: operationOf(operation) }
  }
  return {
    openapi: '3.1.0',
    info: {
      title: 'hedgerow',
      version,
      description: 'The API of a root. Times are milliseconds since 1970. docs/api.md says more.',
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    },
    servers: [{ url: '/' }],
    security: [{ token: [] }, { session: [] }],
    paths,
    components: {
      securitySchemes: {
        token: { type: 'http', scheme: 'bearer' },
        session: { type: 'apiKey', in: 'cookie', name: SESSION_COOKIE },
      },
      schemas: Object.fromEntries(
        Object.entries(MODELS).map(([name, schema]) => [name, referring(schema, { isTop: true })]),
      ),
    },
  }
}

function operationOf(operation: Operation) {
  const { id, needs, summary, params, query, headers, body, bodyType, status, answer, contentType, refusals } =
    operation
  const isRepeatable = mayRepeat(operation)
  const content = { [contentType ?? 'application/json']: { schema: referring(answer) } }
  const refused = [...new Set([...COMMON, ...(isRepeatable ? [409, 422] : []), ...refusals])].sort((a, b) => a - b)
  return {
    operationId: id,
    ...(needs === 'open' ? { security: [] } : {}),
    summary,
    parameters: [
      ...parametersOf(params, 'path'),
      ...parametersOf(query, 'query'),
      ...(headers === undefined ? [] : parametersOf(headers, 'header')),
      ...(isRepeatable ? [KEY] : []),
    ],
    ...(body === undefined
      ? {}
      : {
          requestBody: {
            required: isNeeded(body),
            content: { [bodyType ?? 'application/json']: { schema: referring(body) } },
          },
        }),
    responses: {
      [status]: { description: summary, content },
      ...Object.fromEntries(refused.map((status) => [status, PROBLEM])),
    },
  }
}

const KEY: Parameter = {
  name: 'idempotency-key',
  in: 'header',
  required: false,
  description: 'The request is made once; asked again with the same key, the root answers as the first time.',
  schema: { type: 'string', pattern: '^[!-~]{1,200}$' },
}

const PROBLEM = {
  description: 'Why not.',
  content: { 'application/problem+json': { schema: { $ref: '#/components/schemas/Problem' } } },
}

function isNeeded(body: object): boolean {
  return !('required' in body) || (body.required as readonly string[]).length > 0
}

function parametersOf(schema: Operation['query'], where: Parameter['in']): Parameter[] {
  const required = (schema as { required?: string[] }).required ?? []
  return Object.entries(schema.properties).map(([name, property]) => {
    const { description, ...rest } = property as { description?: string; type?: string }
    return {
      name,
      in: where,
      required: where === 'path' || required.includes(name),
      ...(description === undefined ? {} : { description }),
      ...(rest.type === 'array' ? { style: 'form', explode: false } : {}),
      schema: referring(rest),
    }
  })
}

const NAMES: ReadonlyMap<unknown, string> = new Map(Object.entries(MODELS).map(([name, schema]) => [schema, name]))

/** The schema with references to the models in it. `isTop`: it is a model itself. */
function referring(schema: unknown, { isTop = false } = {}): unknown {
  if (Array.isArray(schema)) return schema.map((part) => referring(part))
  if (typeof schema !== 'object' || schema === null) return schema
  const name = NAMES.get(schema)
  if (name !== undefined && !isTop) return { $ref: `#/components/schemas/${name}` }
  return Object.fromEntries(Object.entries(schema).map(([key, part]) => [key, referring(part)]))
}
