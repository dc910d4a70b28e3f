import { readFileSync } from 'node:fs'
import { request, type RequestOptions } from 'node:https'
import type { IncomingMessage } from 'node:http'
import type { paths } from './api-types.ts'
import { ERRORS, isMeshError, MeshError, type ErrorCode } from '../core/errors.ts'

/** The file `root/admin.json`, which the root writes at its first start with mode 0600. */
export interface Credential {
  url: string
  ca: string
  token: string
}

/** @throws MeshError UNAUTHENTICATED when there is none or it is damaged, FORBIDDEN when this user may not read it. */
export function readCredential(path: string): Credential {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (cause) {
    throw unreadable(path, cause)
  }
  return parseCredential(text, path)
}

/** `path` is for the error. @throws MeshError UNAUTHENTICATED when it is damaged */
export function parseCredential(text: string, path: string): Credential {
  const { url, ca, token } = (jsonIn(text) ?? {}) as Partial<Credential>
  if (
    typeof url === 'string' &&
    URL.parse(url)?.protocol === 'https:' &&
    typeof ca === 'string' &&
    typeof token === 'string'
  )
    return { url, ca, token }
  throw new MeshError('UNAUTHENTICATED', { path, reason: 'the file is not an admin credential' })
}

function unreadable(path: string, cause: unknown): MeshError {
  const { code } = cause as NodeJS.ErrnoException
  if (code === 'ENOENT' || code === 'ENOTDIR')
    return new MeshError('UNAUTHENTICATED', { missing: path, remedy: NO_CREDENTIAL })
  if (code === 'EACCES' || code === 'EPERM') return new MeshError('FORBIDDEN', { path, remedy: NOT_YOURS })
  return new MeshError('UNAUTHENTICATED', { path }, { cause })
}

const NO_CREDENTIAL =
  'Run the command on the machine of the root, or copy <state>/root/admin.json from there and name it with --credential.'
const NOT_YOURS = 'Run the command as the user that the root runs as, for example with sudo.'

type Method = 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'
type CallOf<M extends Method, P extends keyof paths> = paths[P] extends Record<Lowercase<M>, infer C> ? C : never
/** The paths of the API that have this method. */
export type PathsWith<M extends Method> = {
  [P in keyof paths]: [CallOf<M, P>] extends [never] ? never : P
}[keyof paths]
type Part<C, K extends string, As extends string> = C extends { parameters: Record<K, infer V> }
  ? { [N in As]: V }
  : C extends { parameters: { [N in K]?: infer V } }
    ? { [N in As]?: Exclude<V, undefined> }
    : unknown
type BodyOf<C> = C extends { requestBody: { content: { 'application/json': infer B } } }
  ? { body: B }
  : C extends { requestBody?: { content: { 'application/json': infer B } } }
    ? { body?: B }
    : unknown
/** What a call takes. */
export type Given<M extends Method, P extends keyof paths> = Part<CallOf<M, P>, 'path', 'path'> &
  Part<CallOf<M, P>, 'query', 'query'> &
  BodyOf<CallOf<M, P>> & { headers?: Record<string, string> }
/** What it answers with. */
export type AnswerOf<M extends Method, P extends keyof paths> =
  CallOf<M, P> extends { responses: { 200: { content: { 'application/json': infer A } } } } ? A : never

/** The root's API, known by its certificate (issued by the mesh's CA to `…/root`), never by its host name. */
export class RootClient {
  readonly #credential: Credential

  constructor(credential: Credential) {
    this.#credential = credential
  }

  /**
   * A call of the API (docs/api.md), with what it takes and answers from its document: `ask('GET', '/v1/services/{name}', { path: { name } })`.
   * With a signal it may take as long as that allows, else 30 s.
   */
  async ask<M extends Method, P extends PathsWith<M>>(
    method: M,
    path: P,
    given: Given<M, P>,
    signal?: AbortSignal,
  ): Promise<AnswerOf<M, P>> {
    const {
      path: names = {},
      query = {},
      headers = {},
      body,
    } = given as {
      path?: Record<string, string>
      query?: Record<string, unknown>
      headers?: Record<string, string>
      body?: unknown
    }
    const filled = path.replace(/\{(\w+)\}/g, (_all, name: string) => encodeURIComponent(names[name] ?? ''))
    const asked = Object.entries(query).filter(([, value]) => value !== undefined)
    const text = new URLSearchParams(asked.map(([key, value]): [string, string] => [key, String(value)])).toString()
    const response = await this.#send(method, text === '' ? filled : `${filled}?${text}`, body, signal, headers)
    const chunks: Buffer[] = []
    for await (const chunk of response) chunks.push(chunk as Buffer)
    return answerIn(Buffer.concat(chunks).toString('utf8'), response.statusCode ?? 500) as AnswerOf<M, P>
  }

  /** As `ask`, of a path below `/api/v1` of earlier versions. */
  async call<T>(method: 'GET' | 'POST' | 'DELETE', path: string, body?: unknown, signal?: AbortSignal): Promise<T> {
    const response = await this.#send(method, `/api/v1${path}`, body, signal)
    const chunks: Buffer[] = []
    for await (const chunk of response) chunks.push(chunk as Buffer)
    return answerIn(Buffer.concat(chunks).toString('utf8'), response.statusCode ?? 500) as T
  }

  /** Lines as they come, until the other side or the signal ends it. */
  async *lines(path: string, signal: AbortSignal): AsyncIterable<string> {
    const response = await this.#opened(path, signal)
    response.setEncoding('utf8')
    for await (const text of response) yield text as string
  }

  /** The same of bytes. */
  async *bytes(path: string, signal: AbortSignal): AsyncIterable<Buffer> {
    for await (const chunk of await this.#opened(path, signal)) yield chunk as Buffer
  }

  /** Resolves when the root has taken them, however long that takes. */
  async upload(path: string, bytes: Buffer, signal: AbortSignal): Promise<void> {
    const response = await this.#send('POST', `/api/v1${path}`, bytes, signal)
    const chunks: Buffer[] = []
    for await (const chunk of response) chunks.push(chunk as Buffer)
    answerIn(Buffer.concat(chunks).toString('utf8'), response.statusCode ?? 500)
  }

  async #opened(path: string, signal: AbortSignal): Promise<IncomingMessage> {
    const response = await this.#send('GET', `/api/v1${path}`, undefined, signal)
    if (response.statusCode === 200) return response
    const chunks: Buffer[] = []
    for await (const chunk of response) chunks.push(chunk as Buffer)
    throw refusal(jsonIn(Buffer.concat(chunks).toString('utf8')), response.statusCode)
  }

  #send(
    method: string,
    path: string,
    body: unknown,
    signal?: AbortSignal,
    headers: Record<string, string> = {},
  ): Promise<IncomingMessage> {
    const { url, ca, token } = this.#credential
    const isBytes = Buffer.isBuffer(body)
    const payload = body === undefined || isBytes ? body : JSON.stringify(body)
    return new Promise((resolve, reject) => {
      const asking = request(
        new URL(path, url),
        {
          method,
          ...rootConnection({ ca }),
          headers: {
            ...headers,
            authorization: `Bearer ${token}`,
            ...(payload === undefined
              ? {}
              : {
                  'content-type': isBytes ? 'application/octet-stream' : 'application/json',
                  'content-length': Buffer.byteLength(payload),
                }),
          },
          ...(signal === undefined ? { timeout: 30_000 } : { signal }),
        },
        resolve,
      )
      asking.on('timeout', () => asking.destroy(new MeshError('REQUEST_TIMEOUT', { peer: 'the root', ms: 30_000 })))
      asking.on('error', (cause) =>
        reject(isMeshError(cause) ? cause : new MeshError('NOT_RUNNING', { what: 'root', url }, { cause })),
      )
      asking.end(payload)
    })
  }
}

/** A connection to the root and to nobody else. */
export function rootConnection({ ca }: Pick<Credential, 'ca'>): RequestOptions {
  return {
    ca,
    minVersion: 'TLSv1.3',
    agent: false,
    checkServerIdentity: (_host, certificate) =>
      /^URI:spiffe:\/\/[a-z0-9.-]+\/root$/.test(certificate.subjectaltname ?? '')
        ? undefined
        : new Error('another server answered: its certificate is not the root’s'),
  }
}

/** What the root has answered. @throws MeshError what it refused with; REQUEST_FAILED when it is no answer of a root */
export function answerIn(text: string, status: number): unknown {
  const answer = text === '' ? {} : jsonIn(text)
  if (status >= 300) throw refusal(answer, status)
  if (answer === undefined) throw new MeshError('REQUEST_FAILED', { status, reason: 'the answer is not JSON' })
  return answer
}

function jsonIn(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

function refusal(answer: unknown, status: number | undefined): MeshError {
  const {
    error: told,
    code: problem,
    details,
    faults,
    warnings,
  } = (answer ?? {}) as {
    error?: unknown
    code?: unknown
    details?: Record<string, unknown>
    faults?: unknown
    warnings?: unknown
  }
  const error = told ?? problem
  const isKnown = typeof error === 'string' && Object.hasOwn(ERRORS, error)
  const named = isKnown ? (error as ErrorCode) : 'REQUEST_FAILED'
  const code = named === 'MESSAGE_INVALID' ? 'USAGE' : named // the root cannot read what was typed here
  return new MeshError(code, {
    ...details,
    ...(faults === undefined ? {} : { faults }),
    ...(warnings === undefined ? {} : { warnings }),
    ...(isKnown ? {} : { status }),
  })
}
