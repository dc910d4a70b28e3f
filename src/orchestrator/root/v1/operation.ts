import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Static, TObject, TSchema } from 'typebox'
import Type from 'typebox'
import { reader } from '../../link/link-server.ts'
import type { ApiContext } from '../api-context.ts'
import type { Need } from '../people/need.ts'

/**
 * One call of the API, as data: its route is registered from it, what comes in is checked by it, and the document describes it
 * (openapi.ts). There is no other description of a call.
 */
export interface Operation {
  /** For generated clients: `listServices`. */
  id: string
  method: 'get' | 'post' | 'put' | 'patch' | 'delete'
  /** Below `/v1`, as OpenAPI writes it: `/services/{name}`. */
  path: string
  summary: string
  /** Who may: nobody, unless it says so (people/need.ts). */
  needs: Need
  /** Of the path. */
  params: TObject
  query: TObject
  /** Those of the request that matter, for the document; `run` reads them. */
  headers?: TObject | undefined
  body?: TSchema | undefined
  /** Another type than JSON; `run` gets the bytes. */
  bodyType?: 'application/octet-stream' | undefined
  bodyLimit?: number | undefined
  /** What it answers with, when it goes well. */
  status: number
  answer: TSchema
  /** Another type than JSON. */
  contentType?: string | undefined
  /** Refusals beside those of every call. */
  refusals: readonly number[]
  /** It, or its answer, has a secret, and is not kept for those who ask again. */
  isSecret?: boolean | undefined
  /** Of a call that only reads: whether it is in the audit log. */
  isAudited?: boolean | undefined
  /** For the audit log: what it was about, where that is not in its path. */
  about?: ((given: Given, answer: unknown) => string | undefined) | undefined
  run: (given: Given, context: ApiContext) => unknown
}

export interface Given {
  params: Record<string, string>
  query: Record<string, unknown>
  body: unknown
  request: FastifyRequest
  reply: FastifyReply
}

interface Parts<P extends TObject, Q extends TObject, B extends TSchema, R extends TSchema> {
  id: string
  path: string
  summary: string
  needs: Need
  method?: Operation['method']
  params?: P
  query?: Q
  headers?: TObject
  body?: B
  bodyLimit?: number
  bodyType?: 'application/octet-stream'
  status?: number
  answer: R
  contentType?: string
  refusals?: readonly number[]
  isSecret?: boolean
  isAudited?: boolean
  about?: (given: Given, answer: unknown) => string | undefined
  run: (
    given: { params: Static<P>; query: Static<Q>; body: Static<B>; request: FastifyRequest; reply: FastifyReply },
    context: ApiContext,
  ) => Static<R> | FastifyReply | Promise<Static<R> | FastifyReply>
}

const NOTHING = Type.Object({}, { additionalProperties: false })

/** With what `run` is given and answers checked against the schemas by the compiler. */
export function operation<
  R extends TSchema,
  P extends TObject = typeof NOTHING,
  Q extends TObject = typeof NOTHING,
  B extends TSchema = TSchema,
>(parts: Parts<P, Q, B, R>): Operation {
  const { method = 'get', params, query, status = 200, refusals = [], run, ...rest } = parts
  return {
    ...rest,
    method,
    status,
    refusals,
    params: params ?? NOTHING,
    query: closed(query ?? NOTHING),
    run: (given, context) => run(given as Parameters<typeof run>[0], context),
  }
}

/** Of a request without any: none. */
function bytesOf(body: unknown): Buffer {
  return Buffer.isBuffer(body) ? body : Buffer.alloc(0)
}

function closed(schema: TObject): TObject {
  return Type.Object(schema.properties, { additionalProperties: false })
}

/** Whether it takes an idempotency key. */
export function mayRepeat({ method, needs, isSecret }: Pick<Operation, 'method' | 'needs' | 'isSecret'>): boolean {
  return method === 'post' && needs !== 'open' && isSecret !== true
}

/** Checks what has come. @throws MeshError MESSAGE_INVALID with every fault and its path */
export function givenOf({ params, query, body, bodyType }: Pick<Operation, 'params' | 'query' | 'body' | 'bodyType'>) {
  const readParams = reader(params)
  const readQuery = reader(query)
  const readBody = body === undefined ? undefined : bodyType === undefined ? reader(body) : bytesOf
  return (request: FastifyRequest, reply: FastifyReply): Given => ({
    params: readParams(request.params) as Record<string, string>,
    query: readQuery(typedQuery(request.query as Record<string, unknown>, query)),
    body: readBody?.(request.body === undefined ? {} : request.body),
    request,
    reply,
  })
}

/** The texts of a query as what their schemas want; what is none of it stays as it is, and is refused. */
export function typedQuery(query: Readonly<Record<string, unknown>>, { properties }: TObject): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(query).map(([key, value]) => {
      const schema = Object.hasOwn(properties, key) ? (properties[key] as { type?: string }) : {}
      return [key, typeof value === 'string' ? typedText(value, schema.type) : value]
    }),
  )
}

function typedText(value: string, type: string | undefined): unknown {
  if (type === 'integer') return /^-?\d{1,16}$/.test(value) ? Number(value) : value
  if (type === 'boolean') return value === 'true' ? true : value === 'false' ? false : value
  return type === 'array' ? value.split(',') : value
}
