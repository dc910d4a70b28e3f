import type { Socket } from 'node:net'
import type { ErrorCode } from '../../src/core/errors.ts'
import { endGracefully } from '../../src/core/kit/end-gracefully.ts'
import type { FlowReply } from '../flow/flow.ts'
import { ResponseStart } from './http-response.ts'

/* What the HTTP proxy itself answers. */

const STATUS: Readonly<Record<number, string>> = {
  400: 'Bad Request',
  403: 'Forbidden',
  404: 'Not Found',
  407: 'Proxy Authentication Required',
  408: 'Request Timeout',
  421: 'Misdirected Request',
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

/** For a tunnel: the client learns that it is open. */
export function connectAnswers(socket: Socket): FlowReply {
  return {
    connected: () => void socket.write('HTTP/1.1 200 Connection established\r\n\r\n'),
    failed: (code, reason) => endGracefully(socket, httpAnswer(STATUS_OF[code] ?? 502, reason)),
  }
}

/** A forwarded request is answered by the instance itself. */
export function forwardAnswers(socket: Socket): FlowReply {
  return {
    connected: () => undefined,
    failed: (code, reason) => endGracefully(socket, httpAnswer(STATUS_OF[code] ?? 502, reason)),
    answer: new ResponseStart((reason) => httpAnswer(502, reason)),
  }
}

export function httpAnswer(status: number, reason: string): Buffer {
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

/** For a client that takes the SOCKS port for the HTTP port. */
export const HTTP_ON_SOCKS = httpAnswer(400, 'this is the SOCKS proxy; the HTTP proxy listens on another port')
