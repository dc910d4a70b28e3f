import type { IncomingMessage, ServerResponse } from 'node:http'
import { randomBytes } from 'node:crypto'
import { existsSync, readdirSync, rmSync } from 'node:fs'
import type { Socket } from 'node:net'
import { join } from 'node:path'
import { ERRORS, MeshError, isMeshError, type ErrorCode } from '../core/errors.ts'
import { Admission, admitHttp } from '../core/kit/admission.ts'
import { Later } from '../core/kit/later.ts'
import { Lifetime } from '../core/kit/lifetime.ts'
import { applyHttpTimeouts, HTTP_TIMEOUTS, type HttpTimeouts } from '../core/kit/http-timeouts.ts'
import { createServer, request as httpRequest } from '../core/kit/node-http.ts'
import type { Log } from '../core/kit/log.ts'
import { pathOf, queryOf } from '../core/kit/request-target.ts'
import { answers, KeptSocket } from './kept-socket.ts'

/** Answers one question about the agent; throws a MeshError when it cannot. */
export type LocalRoute = (query: URLSearchParams) => unknown

/** Takes a connection that has been switched over to what the path says; `undefined` refuses it. */
export type LocalUpgrade = (query: URLSearchParams) => ((socket: Socket) => void) | undefined

/** The kernel truncates longer paths of Unix sockets (`sun_path`, 108 bytes with the closing zero). */
const MAX_SOCKET_PATH = 107

export interface LocalOptions {
  dir: string
  /** Of the socket files; see the drawing in kept-socket.ts. */
  name?: string
  timeouts?: HttpTimeouts
  log?: Log
}

const STARTING = 'Try again in a moment; if that does not help, its log says what it waits for.'

/** Connections without a request, or between two; only commands on this machine connect. Others make room for newcomers. */
const MAX_SILENT = 256

/**
 * Answers the commands on this machine, over a Unix socket that only its owner may open (0600), so that no web page or
 * neighbour can reach it. One JSON answer for each request.
 */
export class LocalApi {
  /** The socket of this process. */
  readonly path: string
  readonly #name: string
  readonly #life: Lifetime
  readonly #socket = new Later<KeptSocket>('the local socket')
  /** None as long as the role starts. */
  #routes: Readonly<Record<string, LocalRoute>> | undefined
  readonly #upgrades = new Map<string, LocalUpgrade>()
  /** Connections that were switched over. */
  readonly #switched = new Set<Socket>()

  private constructor(path: string, name: string, life: Lifetime) {
    this.path = path
    this.#name = name
    this.#life = life
  }

  /** Listens under the process's own name; `claim` makes it the socket that commands ask. @throws MeshError LISTEN_FAILED */
  static start({ dir, name = 'agent', timeouts = HTTP_TIMEOUTS, log }: LocalOptions): Promise<LocalApi> {
    return Lifetime.open(async (life) => {
      const path = join(dir, `${name}-${randomBytes(3).toString('hex')}.sock`)
      if (!fits(path)) {
        throw new MeshError('LISTEN_FAILED', {
          path,
          reason: `a Unix socket path has at most ${MAX_SOCKET_PATH} bytes`,
          remedy: 'Choose a shorter --state directory.',
        })
      }
      const api = new LocalApi(path, name, life)
      const server = createServer(applyHttpTimeouts(timeouts), (request, response) => api.#answer(request, response))
      admitHttp(server, new Admission({ most: MAX_SILENT }))
      server.on('upgrade', ({ url }, socket: Socket) => api.#upgrade(url, socket))
      api.#socket.set(await KeptSocket.open(life, server, { own: path, serving: servingSocket(dir, name) }, log))
      life.defer(() => {
        server.closeAllConnections()
        for (const socket of api.#switched) socket.destroySoon()
      })
      return api
    })
  }

  /** What is answered from now on; before, that it starts. */
  serve(routes: Readonly<Record<string, LocalRoute>>): void {
    this.#routes = routes
  }

  /** Another agent of this directory wants to take over: the connection is for the two of them. */
  onSuccessor(listener: (socket: Socket) => void): void {
    this.#upgrades.set(SUCCESSION, () => listener)
  }

  /** A successor passes on a connection that is for this process. */
  onCarrier(take: LocalUpgrade): void {
    this.#upgrades.set(CARRIER, take)
  }

  /**
   * From now on commands ask this agent. `from`: the agent that hands over.
   * @throws MeshError LISTEN_FAILED when an agent lives in this state directory and does not hand over.
   */
  claim(from?: 'predecessor'): Promise<void> {
    return this.#socket.value.claim(from)
  }

  /** Commands ask the successor from now on. */
  leave(): void {
    this.#socket.value.leave()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }

  #upgrade(url: string | undefined, socket: Socket): void {
    const path = pathOf(url)
    socket.on('error', () => socket.destroy())
    const take = this.#upgrades.get(path)?.(queryOf(url))
    if (take === undefined) return void socket.destroy()
    this.#switched.add(socket)
    socket.once('close', () => this.#switched.delete(socket))
    socket.write(`HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: ${path.slice(1)}\r\n\r\n`)
    take(socket)
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const path = pathOf(request.url)
    const answer = (status: number, body: unknown) =>
      response.writeHead(status, { 'content-type': 'application/json' }).end(`${JSON.stringify(body)}\n`)
    if (this.#routes === undefined) {
      answer(503, { error: 'NOT_RUNNING', details: { starting: this.#name, remedy: STARTING } })
      return
    }
    const route = Object.hasOwn(this.#routes, path) ? this.#routes[path] : undefined
    if (request.method !== 'GET' || route === undefined) {
      answer(404, { error: 'USAGE', details: { path: path.slice(0, 200) } })
      return
    }
    Promise.try(route, queryOf(request.url)).then(
      (body) => answer(200, body ?? {}),
      (error: unknown) =>
        isMeshError(error)
          ? answer(400, { error: error.code, details: error.details })
          : answer(500, { error: 'REQUEST_FAILED', details: { reason: String(error) } }),
    )
  }
}

/** The socket that commands ask. */
export function servingSocket(dir: string, name = 'agent'): string {
  return join(dir, `${name}.sock`)
}

/** Whether the sockets of a role in this directory have paths that the kernel accepts. */
export function fitsSocket(dir: string, name: string): boolean {
  return fits(join(dir, `${name}-000000.sock`))
}

function fits(path: string): boolean {
  return Buffer.byteLength(path) <= MAX_SOCKET_PATH
}

/** The socket of every process here, draining agents included. Names left by processes that died are removed. */
export async function ownSockets(dir: string): Promise<string[]> {
  if (!existsSync(dir)) return []
  const paths = readdirSync(dir)
    .filter((name) => /^agent-[0-9a-f]{6}\.sock$/.test(name))
    .map((name) => join(dir, name))
  const alive = await Promise.all(paths.map(answers))
  for (const [at, path] of paths.entries()) if (!alive[at]) rmSync(path, { force: true })
  return paths.filter((_path, at) => alive[at])
}

const SUCCESSION = '/succession'
const CARRIER = '/carrier'
/** For an answer. A process that only lets its flows end has little else to do. */
const ANNOUNCE_MS = 5_000
const CARRIER_MS = 1_000

/** Tells the serving agent that a successor is ready to take over. @throws MeshError NOT_RUNNING */
export function announceTo(path: string): Promise<Socket> {
  return upgraded(path, SUCCESSION, ANNOUNCE_MS)
}

/** A connection into an earlier process, for one that it should have. @throws MeshError NOT_RUNNING when it does not want it */
export function passTo(path: string, query: Readonly<Record<string, string>>): Promise<Socket> {
  return upgraded(path, `${CARRIER}?${new URLSearchParams(query).toString()}`, CARRIER_MS)
}

function upgraded(path: string, target: string, timeout: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const failed = (cause?: Error) =>
      reject(new MeshError('NOT_RUNNING', { what: 'agent', path }, ...(cause === undefined ? [] : [{ cause }])))
    const asking = httpRequest({
      socketPath: path,
      path: target,
      agent: false,
      timeout,
      headers: { connection: 'upgrade', upgrade: pathOf(target).slice(1) },
    })
    asking.on('upgrade', (_response, socket, head) => {
      socket.setTimeout(0)
      if (head.length > 0) socket.unshift(head)
      resolve(socket)
    })
    asking.on('response', () => failed())
    asking.on('timeout', () => asking.destroy())
    asking.on('error', failed)
    asking.end()
  })
}

/** Asks the agent whose socket is at `path`. @throws MeshError NOT_RUNNING, or what the agent answered. */
export function askAgent(path: string, route: string, query: Readonly<Record<string, string>> = {}): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const target = `${route}?${new URLSearchParams(query).toString()}`
    const asking = httpRequest({ socketPath: path, path: target, agent: false, timeout: 15_000 }, (response) => {
      const chunks: Buffer[] = []
      response.on('data', (chunk: Buffer) => chunks.push(chunk))
      response.on('error', (cause: NodeJS.ErrnoException) => reject(unanswered(path, cause))) // it died in the middle of its answer
      response.on('end', () => {
        try {
          resolve(answerIn(Buffer.concat(chunks).toString('utf8'), response.statusCode))
        } catch (error) {
          reject(error)
        }
      })
    })
    asking.on('timeout', () => asking.destroy(new MeshError('REQUEST_TIMEOUT', { path })))
    asking.on('error', (cause: NodeJS.ErrnoException) => reject(isMeshError(cause) ? cause : unanswered(path, cause)))
    asking.end()
  })
}

/** What an agent has answered. @throws MeshError what it refused with; REQUEST_FAILED when it is no answer of an agent */
export function answerIn(text: string, status: number | undefined): unknown {
  const body = jsonIn(text)
  if (typeof body !== 'object' || body === null)
    throw new MeshError('REQUEST_FAILED', { status, reason: 'the answer is not one of an agent' })
  if (status === 200) return body
  const { error, details } = body as { error?: unknown; details?: unknown }
  throw new MeshError(
    typeof error === 'string' && Object.hasOwn(ERRORS, error) ? (error as ErrorCode) : 'REQUEST_FAILED',
    typeof details === 'object' && details !== null ? (details as Record<string, unknown>) : { status },
  )
}

function jsonIn(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

function unanswered(path: string, cause: NodeJS.ErrnoException): MeshError {
  if (cause.code === 'EACCES')
    return new MeshError('FORBIDDEN', {
      path,
      remedy: 'Run the command as the user of the agent, for example with sudo.',
    })
  if (cause.code === 'ENOENT' || cause.code === 'ECONNREFUSED')
    return new MeshError('NOT_RUNNING', { what: 'agent', path })
  return new MeshError('NOT_RUNNING', { what: 'agent', path }, { cause })
}
