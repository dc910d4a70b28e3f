import { readFileSync } from 'node:fs'
import { Agent, request, type RequestOptions } from 'node:https'
import type { IncomingMessage } from 'node:http'
import type { PeerCertificate } from 'node:tls'
import type { paths } from './api-types.ts'
import { ERRORS, isMeshError, MeshError, REMEDIES, type ErrorCode } from '../core/errors.ts'

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
    : C extends { requestBody?: { content: { 'application/octet-stream': unknown } } }
      ? { body?: Buffer }
      : unknown
/** What a call takes. */
export type Given<M extends Method, P extends keyof paths> = Part<CallOf<M, P>, 'path', 'path'> &
  Part<CallOf<M, P>, 'query', 'query'> &
  BodyOf<CallOf<M, P>> & { headers?: Record<string, string> }
/** What it answers with. */
export type AnswerOf<M extends Method, P extends keyof paths> =
  CallOf<M, P> extends { responses: { 200: { content: { 'application/json': infer A } } } } ? A : never
/** Lists that come in pages. */
export type Listed = {
  [P in PathsWith<'GET'>]: AnswerOf<'GET', P> extends { items: unknown[]; next?: string } ? P : never
}[PathsWith<'GET'>]
export type RowOf<P extends PathsWith<'GET'>> = AnswerOf<'GET', P> extends { items: (infer R)[] } ? R : never

/** Rows of one page: the most that a root gives. */
const PAGE = 1_000
/** Connections for questions: a root takes so many handshakes a second from all, and others wait for their turn here. */
const MOST_KEPT = 8

/** The root's API, known by its certificate (issued by the mesh's CA to `…/root`), never by its host name. */
export class RootClient {
  readonly #credential: Credential
  /** Connections that are kept, for questions: a change does not go over one that the root may be closing at that moment. */
  readonly #kept: Agent

  constructor(credential: Credential) {
    this.#credential = credential
    this.#kept = new Agent({ keepAlive: true, maxSockets: MOST_KEPT, ...onlyRoot(credential) })
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
    const response = await this.#asked(method, path, given, { signal })
    return answerIn(await textOf(response), response.statusCode ?? 500) as AnswerOf<M, P>
  }

  /** All of a list, page by page, or the first `most` of it. */
  async all<P extends Listed>(
    path: P,
    given: Given<'GET', P>,
    { signal, most = Infinity }: { signal?: AbortSignal; most?: number } = {},
  ): Promise<RowOf<P>[]> {
    const { query = {}, ...rest } = given as { query?: Record<string, unknown> }
    const rows: RowOf<P>[] = []
    for (let cursor: string | undefined; ; ) {
      const limit = Math.min(PAGE, most - rows.length)
      const asked = { ...rest, query: { ...query, limit, cursor } } as unknown as Given<'GET', P>
      const { items, next } = (await this.ask('GET', path, asked, signal)) as { items: RowOf<P>[]; next?: string }
      rows.push(...items)
      if (next === undefined || rows.length >= most) return rows
      cursor = next
    }
  }

  /** What a call answers with that is no JSON, as it comes, until the other side or the signal ends it. */
  async *bytes<P extends PathsWith<'GET'>>(
    path: P,
    given: Given<'GET', P>,
    signal: AbortSignal,
  ): AsyncIterable<Buffer> {
    const response = await this.#asked('GET', path, given, { signal, isKept: false }) // it may go on for hours
    if (response.statusCode !== 200) answerIn(await textOf(response), response.statusCode ?? 500)
    for await (const chunk of response) yield chunk as Buffer
  }

  /** The same as text. */
  async *text<P extends PathsWith<'GET'>>(path: P, given: Given<'GET', P>, signal: AbortSignal): AsyncIterable<string> {
    const decoder = new TextDecoder()
    for await (const chunk of this.bytes(path, given, signal)) yield decoder.decode(chunk, { stream: true })
  }

  /** As `ask`, of a path below `/api/v1` of earlier versions, which goes with the next version. @deprecated */
  async call<T>(method: 'GET' | 'POST' | 'DELETE', path: string, body?: unknown, signal?: AbortSignal): Promise<T> {
    const response = await this.#send({ method, path: `/api/v1${path}`, body }, signal)
    return answerIn(await textOf(response), response.statusCode ?? 500) as T
  }

  #asked(
    method: Method,
    path: string,
    given: object,
    { signal, isKept = method === 'GET' }: { signal?: AbortSignal | undefined; isKept?: boolean },
  ): Promise<IncomingMessage> {
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
    return this.#send({ method, path: text === '' ? filled : `${filled}?${text}`, body, headers }, signal, isKept)
  }

  /** A question goes over a kept connection; where the root has closed that meanwhile, it is asked again over another. */
  #send(
    message: Message,
    signal: AbortSignal | undefined,
    isKept = message.method === 'GET',
  ): Promise<IncomingMessage> {
    const { method, path, body, headers = {} } = message
    const { url, token } = this.#credential
    const isBytes = Buffer.isBuffer(body)
    const payload = body === undefined || isBytes ? body : JSON.stringify(body)
    return new Promise((resolve, reject) => {
      const asking = request(
        new URL(path, url),
        {
          method,
          ...(isKept ? { agent: this.#kept } : rootConnection(this.#credential)),
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
      asking.on('error', (cause) => {
        if (isMeshError(cause)) return reject(cause)
        if (asking.reusedSocket && signal?.aborted !== true) return resolve(this.#send(message, signal, false))
        return reject(new MeshError('NOT_RUNNING', { what: 'root', url }, { cause }))
      })
      asking.end(payload)
    })
  }
}

interface Message {
  method: string
  path: string
  body?: unknown
  headers?: Record<string, string>
}

async function textOf(response: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of response) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks).toString('utf8')
}

/** A connection to the root and to nobody else. */
export function rootConnection(credential: Pick<Credential, 'ca'>): RequestOptions {
  return { ...onlyRoot(credential), agent: false }
}

/** Node keeps no connection of a request with a check of its own: that of an agent is for all of its connections. */
function onlyRoot({ ca }: Pick<Credential, 'ca'>) {
  return {
    ca,
    minVersion: 'TLSv1.3',
    checkServerIdentity: (_host: string, certificate: PeerCertificate) =>
      /^URI:spiffe:\/\/[a-z0-9.-]+\/root$/.test(certificate.subjectaltname ?? '')
        ? undefined
        : new Error('another server answered: its certificate is not the root’s'),
  } as const
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
    remedy,
  } = (answer ?? {}) as {
    error?: unknown
    code?: unknown
    details?: Record<string, unknown>
    faults?: unknown
    warnings?: unknown
    remedy?: unknown
  }
  const error = told ?? problem
  const isKnown = typeof error === 'string' && Object.hasOwn(ERRORS, error)
  const named = isKnown ? (error as ErrorCode) : 'REQUEST_FAILED'
  const code = named === 'MESSAGE_INVALID' ? 'USAGE' : named // the root cannot read what was typed here
  return new MeshError(code, {
    ...details,
    ...(faults === undefined ? {} : { faults }),
    ...(warnings === undefined ? {} : { warnings }),
    ...(typeof remedy === 'string' && remedy !== REMEDIES[code] ? { remedy } : {}),
    ...(isKnown ? {} : { status }),
  })
}
