import type { Socket } from 'node:net'
import { endGracefully } from '../../src/core/kit/end-gracefully.ts'
import type { ErrorCode } from '../../src/core/errors.ts'
import type { FlowReply } from '../flow/flow.ts'
import { callerWith, type Credentials } from './credentials.ts'
import { HEAD_LIMIT, parseHead } from './http-head.ts'
import { type Greeting, type Handshake, ProxyListener, type ProxyOptions, type ProxyParts } from './proxy-listener.ts'

/** Opens the HTTP listener: CONNECT, and plain `http://` requests, one for each connection. */
export const HttpInterceptor = {
  start(options: ProxyOptions, parts: ProxyParts): Promise<ProxyListener> {
    return ProxyListener.start({ mode: 'http', begin: () => new HttpHandshake(parts.credentials) }, options, parts)
  },
}

const END_OF_HEAD = Buffer.from('\r\n\r\n')

export class HttpHandshake implements Handshake {
  readonly #credentials: Credentials
  #bytes: Buffer = Buffer.alloc(0)

  constructor(credentials: Credentials) {
    this.#credentials = credentials
  }

  push(chunk: Buffer): Greeting {
    const searched = Math.max(0, this.#bytes.length - END_OF_HEAD.length + 1)
    this.#bytes = this.#bytes.length === 0 ? chunk : Buffer.concat([this.#bytes, chunk])
    const end = this.#bytes.indexOf(END_OF_HEAD, searched)
    if (end < 0 && this.#bytes.length <= HEAD_LIMIT) return { kind: 'more' }
    if (end < 0 || end > HEAD_LIMIT) return over(431, `the head is longer than ${HEAD_LIMIT} bytes`)
    const head = parseHead(this.#bytes.toString('latin1', 0, end))
    if (head.kind === 'fault') return over(head.status, head.reason)
    const caller = callerWith(head.user, head.secret, this.#credentials)
    if (caller === undefined) return over(407, 'credentials are missing or wrong')

    const rest = this.#bytes.subarray(end + END_OF_HEAD.length)
    const { host, port } = head
    if (head.kind === 'connect') return { kind: 'ask', caller, host, port, first: rest, reply: connectAnswers }
    const asked: Greeting = {
      kind: 'ask',
      caller,
      host,
      port,
      first: Buffer.concat([head.head, rest]),
      reply: forwardAnswers,
    }
    return head.bodyLength === undefined ? asked : { ...asked, allowance: head.head.length + head.bodyLength }
  }
}

const STATUS: Readonly<Record<number, string>> = {
  400: 'Bad Request',
  403: 'Forbidden',
  404: 'Not Found',
  407: 'Proxy Authentication Required',
  431: 'Request Header Fields Too Large',
  502: 'Bad Gateway',
  503: 'Service Unavailable',
  504: 'Gateway Timeout',
}

const STATUS_OF: Partial<Record<ErrorCode, number>> = {
  NOT_ALLOWED: 403,
  PATH_FORBIDDEN: 403,
  NAME_INVALID: 404,
  SERVICE_UNKNOWN: 404,
  PORT_UNKNOWN: 404,
  LINK_CLOSED: 503,
  TOO_MANY_FLOWS: 503,
  FLOW_TIMEOUT: 504,
}

function connectAnswers(socket: Socket): FlowReply {
  return {
    ...forwardAnswers(socket),
    connected: () => void socket.write('HTTP/1.1 200 Connection established\r\n\r\n'),
  }
}

/** A forwarded request is answered by the instance itself. */
function forwardAnswers(socket: Socket): FlowReply {
  return {
    connected: () => undefined,
    failed: (code, reason) => endGracefully(socket, answer(STATUS_OF[code] ?? 502, reason)),
  }
}

function over(status: number, reason: string): Greeting {
  return { kind: 'end', answer: answer(status, reason) }
}

function answer(status: number, reason: string): Buffer {
  // oxlint-disable-next-line no-control-regex -- a reason may quote what the caller sent
  const body = `${reason.replaceAll(/[\x00-\x1f\x7f]/g, '?')}\n`
  const lines = [
    `HTTP/1.1 ${status} ${STATUS[status] ?? 'Error'}`,
    ...(status === 407 ? ['Proxy-Authenticate: Basic realm="hedgerow"'] : []),
    'Content-Type: text/plain; charset=utf-8',
    `Content-Length: ${Buffer.byteLength(body)}`,
    'Connection: close',
  ]
  return Buffer.from(`${lines.join('\r\n')}\r\n\r\n${body}`)
}
