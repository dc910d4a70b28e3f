import { callerWith, type Credentials } from './credentials.ts'
import { type Connect, GrowingBuffer, type Handshake, type HandshakeStep, type Refuse } from './handshake.ts'
import { connectAnswers, forwardAnswers, httpAnswer } from './http-answers.ts'
import { HEAD_LIMIT, type HttpHead, parseHead, WRONG_CREDENTIALS } from './http-head.ts'
import { ProxyListener, type ProxyOptions, type ProxyParts } from './proxy-listener.ts'

/** Opens the HTTP proxy: CONNECT, and plain `http://` requests, one for each connection. */
export const HttpInterceptor = {
  start(options: ProxyOptions, parts: ProxyParts): Promise<ProxyListener> {
    return ProxyListener.start({ mode: 'http', begin: () => new HttpHandshake(parts.credentials) }, options, parts)
  },
}

const END_OF_HEAD = Buffer.from('\r\n\r\n')
const LF = 0x0a
const CR = 0x0d
/** The first byte of a TLS ClientHello (RFC 8446 §5.1). */
const TLS_HANDSHAKE = 0x16

export class HttpHandshake implements Handshake {
  readonly #credentials: Credentials
  readonly #received = new GrowingBuffer()
  /** Where the request begins, and how much of it was searched for its end. */
  #start = 0
  #searched = 0

  constructor(credentials: Credentials) {
    this.#credentials = credentials
  }

  push(chunk: Buffer): HandshakeStep {
    this.#received.append(chunk)
    const bytes = this.#request()
    if (this.#start > HEAD_LIMIT) return refuse(400, 'empty lines and no request')
    if (bytes.length === 0 || (bytes.length === 1 && bytes[0] === CR)) return { kind: 'more' }
    const end = bytes.indexOf(END_OF_HEAD, Math.max(0, this.#searched - END_OF_HEAD.length + 1))
    const fault = faultIn(bytes, this.#searched, end < 0 ? bytes.length : end)
    this.#searched = bytes.length
    if (fault !== undefined) return refuse(400, fault)
    if (end < 0 && bytes.length <= HEAD_LIMIT) return { kind: 'more' }
    if (end < 0 || end > HEAD_LIMIT) return refuse(431, `the head is longer than ${HEAD_LIMIT} bytes`)
    const head = parseHead(bytes.toString('latin1', 0, end))
    if (head.kind === 'fault') return refuse(head.status, head.reason)
    return this.#connect(head, Buffer.from(bytes.subarray(end + END_OF_HEAD.length)))
  }

  /** Without the empty lines before it, which are ignored (RFC 9112 §2.2). */
  #request(): Buffer {
    const { bytes } = this.#received
    while (this.#searched === 0 && bytes[this.#start] === CR && bytes[this.#start + 1] === LF) this.#start += 2
    return bytes.subarray(this.#start)
  }

  giveUp(reason: string): Refuse {
    return refuse(408, reason)
  }

  #connect(head: HttpHead, rest: Buffer): HandshakeStep {
    const { host, port, user, secret } = head
    const caller = callerWith(user, secret, this.#credentials)
    if (caller === undefined) return refuse(407, WRONG_CREDENTIALS)
    if (head.kind === 'connect') return { kind: 'connect', caller, host, port, first: rest, reply: connectAnswers }
    const first = Buffer.concat([head.head, rest])
    const request: Connect = { kind: 'connect', caller, host, port, first, reply: forwardAnswers }
    return head.bodyLength === undefined ? request : { ...request, allowance: head.head.length + head.bodyLength }
  }
}

/** Finds what no HTTP/1.1 head contains as soon as it arrives, so that the client does not wait for an end of the head. */
function faultIn(bytes: Buffer, from: number, to: number): string | undefined {
  const first = bytes[0] as number
  if (from === 0 && first === TLS_HANDSHAKE) return 'the HTTP proxy does not use TLS; begin its URL with http://'
  if (from === 0 && (first === 4 || first === 5)) return 'a SOCKS client at the HTTP proxy; use the SOCKS port'
  for (let at = bytes.indexOf(LF, from); at >= 0 && at < to; at = bytes.indexOf(LF, at + 1)) {
    if (at === 0 || bytes[at - 1] !== CR) return 'lines of the head must end in CR LF'
  }
  return undefined
}

function refuse(status: number, reason: string): Refuse {
  return { kind: 'refuse', answer: httpAnswer(status, reason), reason }
}
