import { once } from 'node:events'
import type { ClientRequest, IncomingMessage, RequestOptions } from 'node:http'
import type { Duplex } from 'node:stream'
import { isMeshError, MeshError } from '../../../core/errors.ts'
import { request as send } from '../../../core/kit/node-http.ts'

/*
 * The Engine API of Docker, which Podman speaks too: HTTP over a Unix socket.
 *
 *     GET /version ─▶ its own version of the API ─▶ every later path begins with /v<version>
 */

/** What an engine says of itself. */
export interface EngineVersion {
  apiVersion: string
  /** For people: `20.10.24`. */
  version: string
  /** As images name it: `amd64`. */
  arch: string
}

export interface Ask {
  method: 'GET' | 'POST' | 'DELETE'
  path: string
  query?: Readonly<Record<string, string | number | boolean>>
  body?: object
  headers?: Readonly<Record<string, string>>
  signal?: AbortSignal
  /** Until the answer begins, and with `ask` for the rest of it once more; `undefined`: as long as it takes. */
  timeoutMs?: number | undefined
}

/** An engine that works does everything but pulls and stops well within this. */
const ANSWER_MS = 30_000
/** A longer answer is not one of an engine. */
const MAX_ANSWER_BYTES = 8 * 1024 * 1024

export class Engine {
  readonly socketPath: string
  readonly version: EngineVersion
  /** What it does at once is answered within this. */
  readonly answerMs: number

  private constructor(socketPath: string, version: EngineVersion, answerMs: number) {
    this.socketPath = socketPath
    this.version = version
    this.answerMs = answerMs
  }

  /** @throws MeshError NOT_RUNNING, REQUEST_FAILED when no engine answers at this socket */
  static async connect(socketPath: string, timeoutMs: number, answerMs = ANSWER_MS): Promise<Engine> {
    await answers(socketPath, timeoutMs)
    // Podman asks programs for their versions first, which takes seconds on a busy machine
    const answer = await answerOf(await begin(socketPath, { method: 'GET', path: '/version', timeoutMs: ANSWER_MS }))
    const { ApiVersion, Version, Arch } = answer as Record<string, unknown>
    if (typeof ApiVersion !== 'string' || typeof Arch !== 'string')
      throw new MeshError('REQUEST_FAILED', { address: socketPath, reason: 'it does not speak the Engine API' })
    return new Engine(socketPath, { apiVersion: ApiVersion, arch: Arch, version: String(Version) }, answerMs)
  }

  /** @throws as `connect`, when it has ended or does not answer within this time */
  async ping(timeoutMs: number): Promise<void> {
    await answers(this.socketPath, timeoutMs)
  }

  /**
   * The answer, from JSON; `undefined` when there is none.
   * @throws MeshError REQUEST_FAILED with `status`, NOT_RUNNING when the engine does not answer
   */
  async ask(ask: Ask): Promise<unknown> {
    const { signal, timeoutMs } = { timeoutMs: this.answerMs, ...ask }
    const answer = await this.open(ask)
    const timer = timeoutMs === undefined ? undefined : setTimeout(() => answer.destroy(), timeoutMs)
    try {
      return await answerOf(answer)
    } catch (cause) {
      if (isMeshError(cause)) throw cause
      signal?.throwIfAborted()
      throw new MeshError('NOT_RUNNING', { what: 'container engine', path: this.socketPath }, { cause })
    } finally {
      clearTimeout(timer)
    }
  }

  /** The connection itself, once the engine has taken the request: what comes and goes then is no HTTP. @throws as `ask` */
  async hijack({ path, body }: Pick<Ask, 'path' | 'body'>): Promise<Duplex> {
    const asked: Ask = { method: 'POST', path: `/v${this.version.apiVersion}${path}`, timeoutMs: this.answerMs }
    const answer = await begin(this.socketPath, { ...asked, ...(body === undefined ? {} : { body }) }, true)
    return answer.socket
  }

  /** An answer that is read as it comes. @throws as `ask` */
  async open({ path, ...ask }: Ask): Promise<IncomingMessage> {
    return begin(this.socketPath, { timeoutMs: this.answerMs, ...ask, path: `/v${this.version.apiVersion}${path}` })
  }
}

async function answers(socketPath: string, timeoutMs: number): Promise<void> {
  const answer = await begin(socketPath, { method: 'GET', path: '/_ping', timeoutMs })
  answer.resume()
}

/** Whether the engine answered with this HTTP status. */
export function isStatus(error: unknown, ...statuses: number[]): boolean {
  return isMeshError(error, 'REQUEST_FAILED') && statuses.includes(error.details['status'] as number)
}

async function begin(
  socketPath: string,
  { method, path, query = {}, body, headers = {}, signal, timeoutMs }: Ask,
  isHijack = false,
): Promise<IncomingMessage> {
  const text = new URLSearchParams(
    Object.entries(query).map(([key, value]): [string, string] => [key, String(value)]),
  ).toString()
  const payload = body === undefined ? undefined : JSON.stringify(body)
  const options: RequestOptions = {
    socketPath,
    method,
    path: text === '' ? path : `${path}?${text}`,
    headers: {
      host: 'engine',
      ...headers,
      ...(isHijack ? { connection: 'Upgrade', upgrade: 'tcp' } : {}),
      ...(payload === undefined
        ? {}
        : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(payload) }),
    },
    agent: false,
    ...(signal === undefined ? {} : { signal }),
  }
  const request = send(options)
  const late = () => request.destroy(new MeshError('REQUEST_TIMEOUT', { name: socketPath, ms: timeoutMs }))
  const timer = timeoutMs === undefined ? undefined : setTimeout(late, timeoutMs)
  let answer: IncomingMessage
  try {
    request.end(payload)
    answer = await (isHijack ? upgraded(request) : once(request, 'response').then(([it]) => it as IncomingMessage))
  } catch (cause) {
    signal?.throwIfAborted()
    throw new MeshError('NOT_RUNNING', { what: 'container engine', path: socketPath }, { cause })
  } finally {
    clearTimeout(timer)
  }
  request.on('error', () => undefined) // the answer's error is what counts
  const { statusCode: status = 0 } = answer
  if (status < 400) return answer
  const { message } = ((await answerOf(answer).catch(() => undefined)) ?? {}) as { message?: unknown }
  const reason = typeof message === 'string' ? message.trim() : 'it gave no reason'
  throw new MeshError('REQUEST_FAILED', { address: socketPath, status, reason })
}

/** What came behind the head of the answer is put back. An engine that refuses answers as usual. */
function upgraded(request: ClientRequest): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    request.once('upgrade', (answer, socket, head) => {
      socket.unshift(head)
      resolve(answer)
    })
    request.once('response', resolve)
    request.once('error', reject)
  })
}

async function answerOf(answer: IncomingMessage): Promise<unknown> {
  let text = ''
  answer.setEncoding('utf8')
  for await (const chunk of answer) {
    text += chunk as string
    if (text.length > MAX_ANSWER_BYTES) throw new MeshError('REQUEST_FAILED', { reason: 'its answer is too long' })
  }
  try {
    return text === '' ? undefined : JSON.parse(text)
  } catch (cause) {
    throw new MeshError('REQUEST_FAILED', { reason: 'its answer is not JSON' }, { cause })
  }
}
