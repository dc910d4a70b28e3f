import { type Agent, request } from 'node:https'
import type { IncomingHttpHeaders } from 'node:http'
import t from 'tap'
import type { TSchema } from 'typebox'
import { Compile } from 'typebox/compile'
import type { World } from './mesh.ts'

export interface Answer {
  status: number
  headers: IncomingHttpHeaders
  // oxlint-disable-next-line typescript/no-explicit-any -- tests compare it with what they expect
  body: any
}

export interface Asked {
  method?: string
  headers?: Record<string, string>
  body?: unknown
  token?: string
  /** Keeps its connections; by default each request has one of its own. */
  agent?: Agent
}

interface Document {
  paths: Record<string, Record<string, { responses: Record<string, { content: Record<string, { schema: unknown }> }> }>>
  components: { schemas: Record<string, unknown> }
}

const documents = new WeakMap<World, Document>()

/** Asks the root, and checks the answer against its own document: nothing is answered that is not written there. */
export async function ask(world: World, path: string, asked: Asked = {}): Promise<Answer> {
  const answer = await send(world, path, asked)
  if (!documents.has(world)) documents.set(world, (await send(world, '/v1/openapi.json', {})).body as Document)
  const document = documents.get(world) as Document
  const { method = 'GET' } = asked
  const type = String(answer.headers['content-type']).split(';')[0] ?? ''
  const schema = schemaOf(document, { method, path, status: answer.status, type })
  if (schema !== undefined) {
    const faults = faultsOf(schema, answer.body)
    if (faults.length > 0) t.fail(`${method} ${path} is not as the document says`, { faults, body: answer.body })
  } else if (answer.status < 400) t.fail(`${method} ${path} ${answer.status} ${type} is not in the document`)
  return answer
}

export async function send(
  world: World,
  path: string,
  { method = 'GET', headers = {}, body, token, agent }: Asked,
): Promise<Answer> {
  const { url, ca, token: admin } = world.credential
  const text = body === undefined || typeof body === 'string' ? body : JSON.stringify(body)
  const given = {
    authorization: `Bearer ${token ?? admin}`,
    ...(text === undefined ? {} : { 'content-type': 'application/json' }),
  }
  return new Promise((resolve, reject) => {
    const options = {
      method,
      ca,
      ...(agent === undefined ? { agent: false as const, checkServerIdentity: () => undefined } : { agent }),
      headers: { ...given, ...headers },
    }
    request(`${url}${path}`, options, (response) => {
      const chunks: Buffer[] = []
      response.on('data', (chunk: Buffer) => chunks.push(chunk))
      response.on('error', reject)
      response.on('end', () => {
        const whole = Buffer.concat(chunks).toString()
        const isJson = String(response.headers['content-type']).includes('json')
        resolve({
          status: response.statusCode ?? 0,
          headers: response.headers,
          body: isJson && whole !== '' ? JSON.parse(whole) : whole,
        })
      })
    })
      .on('error', reject)
      .end(text)
  })
}

/** A stream, from its beginning on. */
export function watching(world: World, token: string, path = '/v1/watch') {
  const seen = { text: '', isOver: false }
  const { url, ca } = world.credential
  const options = {
    ca,
    agent: false as const,
    checkServerIdentity: () => undefined,
    headers: { authorization: `Bearer ${token}` },
  }
  const asked = request(`${url}${path}`, options, (response) => {
    response.setEncoding('utf8')
    response.on('data', (text: string) => (seen.text += text))
    response.on('error', () => undefined)
    response.on('close', () => (seen.isOver = true))
  })
  asked.on('error', () => (seen.isOver = true)).end()
  return Object.assign(seen, { [Symbol.dispose]: () => void asked.destroy() })
}

function schemaOf(
  { paths, components }: Document,
  { method, path, status, type }: { method: string; path: string; status: number; type: string },
): unknown {
  const given = path.split('?')[0]?.split('/') ?? []
  const fits = (template: string) => {
    const parts = template.split('/')
    return parts.length === given.length && parts.every((part, i) => part === given[i] || part.startsWith('{'))
  }
  const found = Object.entries(paths).find(([template]) => fits(template))?.[1]
  const answer = found?.[method.toLowerCase()]?.responses[String(status)]
  return answer === undefined ? undefined : strict(answer.content[type]?.schema, components.schemas)
}

/** With its references filled in, and without room for keys that it does not name. */
function strict(schema: unknown, models: Record<string, unknown>): unknown {
  if (Array.isArray(schema)) return schema.map((part) => strict(part, models))
  if (typeof schema !== 'object' || schema === null) return schema
  const { $ref } = schema as { $ref?: string }
  if ($ref !== undefined) return strict(models[$ref.split('/').at(-1) ?? ''], models)
  const filled = Object.fromEntries(Object.entries(schema).map(([key, part]) => [key, strict(part, models)]))
  const isClosed = filled['type'] === 'object' && filled['properties'] !== undefined
  return isClosed ? { ...filled, additionalProperties: false } : filled
}

function faultsOf(schema: unknown, body: unknown): string[] {
  const compiled = Compile(schema as TSchema)
  return compiled.Check(body) ? [] : [...compiled.Errors(body)].map((e) => `${e.instancePath} ${e.message}`)
}
