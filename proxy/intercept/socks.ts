import type { Socket } from 'node:net'
import type { ErrorCode } from '../../src/core/errors.ts'
import { endGracefully } from '../../src/core/kit/end-gracefully.ts'
import { parseIPv4, parseIPv6, printIPv4, printIPv6 } from '../../src/core/model/address.ts'
import type { Caller, FlowReply } from '../flow/flow.ts'
import { callerWith, type Credentials } from './credentials.ts'
import type { Connect, Handshake, HandshakeStep, Keep, Refuse } from './handshake.ts'
import { HTTP_ON_SOCKS } from './http-answers.ts'
import { ProxyListener, type ProxyOptions, type ProxyParts } from './proxy-listener.ts'
import { Associations } from './socks-udp.ts'

/*
 * SOCKS5 (RFC 1928) with user and password (RFC 1929), CONNECT and UDP ASSOCIATE:
 *
 *   methods   05 n m…               ─▶ 05 02          (05 ff: the caller offers no password)
 *   password  01 n user n password  ─▶ 01 00          (01 01: wrong)
 *   request   05 01 00 type address port ─▶ 05 rep 00 01 0.0.0.0 0     once the flow is connected or refused
 *             05 03 00 …                  ─▶ 05 rep 00 type address port     where to send datagrams (socks-udp.ts)
 *             type 1: four bytes, 3: length and name, 4: sixteen bytes
 */

/** Opens the SOCKS5 listener; the user is an instance id or `node`. */
export const SocksInterceptor = {
  start(options: ProxyOptions, parts: ProxyParts): Promise<ProxyListener> {
    const associations = new Associations(parts)
    const begin = (): Handshake =>
      new SocksHandshake(parts.credentials, (caller, port, socket) => associations.open(caller, port, socket))
    return ProxyListener.start({ mode: 'socks', begin, closed: () => associations.close() }, options, parts)
  },
}

/** The longest handshake: methods 257, password 513 and request 262 bytes. */
const LIMIT = 1_032

/** Opens an association; `undefined` when there is no room for it. */
export type Associate = (caller: Caller, port: number, control: Socket) => { address: string; port: number } | undefined

export class SocksHandshake implements Handshake {
  readonly #credentials: Credentials
  readonly #associate: Associate
  #state: 'methods' | 'password' | 'request' = 'methods'
  #bytes: Buffer = Buffer.alloc(0)
  #caller: Caller | undefined

  constructor(credentials: Credentials, associate: Associate = () => undefined) {
    this.#credentials = credentials
    this.#associate = associate
  }

  push(chunk: Buffer): HandshakeStep {
    this.#bytes = this.#bytes.length === 0 ? chunk : Buffer.concat([this.#bytes, chunk])
    const answers: Buffer[] = []
    for (;;) {
      const next = this.#next()
      if (next === undefined) return this.#wait(answers)
      if (next.kind === 'refuse') return { ...next, answer: Buffer.concat([...answers, next.answer]) }
      if (next.kind !== 'more') return answers.length === 0 ? next : { ...next, answer: Buffer.concat(answers) }
      if (next.answer !== undefined) answers.push(next.answer)
    }
  }

  giveUp(reason: string): Refuse {
    const answer = {
      methods: Buffer.of(VERSION, 0xff),
      password: Buffer.of(1, 1),
      request: socksReply(REP.failure),
    }[this.#state]
    return refuse(answer, reason)
  }

  /** `undefined`: the present message is not complete. */
  #next(): HandshakeStep | undefined {
    switch (this.#state) {
      case 'methods':
        return this.#methods()
      case 'password':
        return this.#password()
      case 'request':
        return this.#request()
      default:
        return this.#state satisfies never
    }
  }

  #wait(answers: readonly Buffer[]): HandshakeStep {
    if (this.#bytes.length > LIMIT) return this.giveUp('a message of the SOCKS handshake is too long')
    return answers.length === 0 ? { kind: 'more' } : { kind: 'more', answer: Buffer.concat(answers) }
  }

  #methods(): HandshakeStep | undefined {
    const bytes = this.#bytes
    if (bytes.length > 0 && bytes[0] !== VERSION) return otherProtocol(bytes[0] as number)
    const length = 2 + (bytes[1] ?? 0)
    if (bytes.length < 2 || bytes.length < length) return undefined
    if (!bytes.subarray(2, length).includes(BY_PASSWORD))
      return refuse(
        Buffer.of(VERSION, 0xff),
        'the SOCKS client offers no password; put the user and the secret into the proxy URL',
      )
    this.#take(length, 'password')
    return { kind: 'more', answer: Buffer.of(VERSION, BY_PASSWORD) }
  }

  #password(): HandshakeStep | undefined {
    const bytes = this.#bytes
    if (bytes.length > 0 && bytes[0] !== 1) return refuse(Buffer.of(1, 1), 'a malformed SOCKS password message')
    if (bytes.length < 2) return undefined
    const afterUser = 2 + (bytes[1] as number)
    if (bytes.length <= afterUser) return undefined
    const length = afterUser + 1 + (bytes[afterUser] as number)
    if (bytes.length < length) return undefined
    this.#caller = callerWith(
      bytes.toString('latin1', 2, afterUser),
      bytes.toString('latin1', afterUser + 1, length),
      this.#credentials,
    )
    if (this.#caller === undefined) return refuse(Buffer.of(1, 1), 'wrong credentials')
    this.#take(length, 'request')
    return { kind: 'more', answer: Buffer.of(1, 0) }
  }

  #request(): HandshakeStep | undefined {
    const bytes = this.#bytes
    if (bytes.length < 4) return undefined
    if (bytes[0] !== VERSION || bytes[2] !== 0) return refuse(socksReply(REP.failure), 'a malformed SOCKS request')
    const type = bytes[3] as number
    const size = type === 1 ? 4 : type === 4 ? 16 : type === 3 ? 1 + (bytes[4] ?? 0) : 0
    if (size === 0) return refuse(socksReply(REP.badAddress), 'an unknown type of SOCKS address')
    if (bytes.length < 5) return undefined
    const length = 4 + size + 2
    if (bytes.length < length) return undefined
    const port = bytes.readUInt16BE(4 + size)
    if (bytes[1] === UDP_ASSOCIATE) return this.#association(port)
    if (bytes[1] !== CONNECT)
      return refuse(socksReply(REP.badCommand), 'only CONNECT and UDP ASSOCIATE are supported; BIND is not')
    const host = addressText(type, bytes.subarray(4, 4 + size))
    if (host === '' || port === 0) return refuse(socksReply(REP.unreachable), 'a SOCKS request without a name or port')
    return this.#connect(host, port, bytes.subarray(length))
  }

  #connect(host: string, port: number, first: Buffer): Connect {
    return { kind: 'connect', caller: this.#caller as Caller, host, port, first, reply: socksAnswers }
  }

  /** `port`: the port from which the client will send, 0 when it does not know. */
  #association(port: number): Keep {
    const caller = this.#caller as Caller
    const take = (socket: Socket): void => {
      const address = this.#associate(caller, port, socket)
      if (address === undefined) endGracefully(socket, socksReply(REP.failure))
      else socket.write(socksReply(REP.succeeded, address))
    }
    return { kind: 'keep', take }
  }

  #take(length: number, next: 'password' | 'request'): void {
    this.#bytes = this.#bytes.subarray(length)
    this.#state = next
  }
}

const VERSION = 5
const BY_PASSWORD = 2
const CONNECT = 1
const UDP_ASSOCIATE = 3

/** RFC 1928 §6. */
const REP = {
  succeeded: 0,
  failure: 1,
  notAllowed: 2,
  unreachable: 4,
  refused: 5,
  expired: 6,
  badCommand: 7,
  badAddress: 8,
} as const

const REP_OF: Partial<Record<ErrorCode, number>> = {
  NOT_ALLOWED: REP.notAllowed,
  PATH_FORBIDDEN: REP.notAllowed,
  NAME_INVALID: REP.unreachable,
  SERVICE_UNKNOWN: REP.unreachable,
  NO_INSTANCE: REP.unreachable,
  PORT_UNKNOWN: REP.refused,
  FLOW_REFUSED: REP.refused,
  FLOW_UNREACHABLE: REP.unreachable,
  FLOW_TIMEOUT: REP.expired,
}

function socksAnswers(socket: Socket): FlowReply {
  return {
    connected: () => void socket.write(socksReply(REP.succeeded)),
    failed: (code) => endGracefully(socket, socksReply(REP_OF[code] ?? REP.failure)),
  }
}

function socksReply(rep: number, bound = { address: '0.0.0.0', port: 0 }): Buffer {
  const v4 = parseIPv4(bound.address)
  const address =
    v4 === undefined ? (parseIPv6(bound.address) ?? []).flatMap(bytesOf) : bytesOf(v4 >>> 16).concat(bytesOf(v4))
  return Buffer.of(VERSION, rep, 0, v4 === undefined ? 4 : 1, ...address, ...bytesOf(bound.port))
}

/** The low 16 bits, big-endian. */
function bytesOf(number: number): number[] {
  return [(number >>> 8) & 0xff, number & 0xff]
}

function addressText(type: number, bytes: Buffer): string {
  if (type === 1) return printIPv4(bytes.readUInt32BE(0))
  if (type === 3) return bytes.toString('latin1', 1)
  return printIPv6(Array.from({ length: 8 }, (_, i) => bytes.readUInt16BE(i * 2)))
}

/** A client that speaks something else, answered in its own language where there is one. */
function otherProtocol(first: number): Refuse {
  if (first === 4) {
    const rejected = Buffer.of(0, 0x5b, 0, 0, 0, 0, 0, 0)
    return refuse(rejected, 'SOCKS4 is not supported; use socks5h:// in the proxy URL')
  }
  if (first === TLS_HANDSHAKE)
    return refuse(TLS_ALERT, 'the SOCKS proxy does not use TLS; use socks5h:// in the proxy URL')
  if (first >= 0x41 && first <= 0x5a)
    return refuse(HTTP_ON_SOCKS, 'an HTTP request at the SOCKS proxy; use the HTTP port')
  return refuse(Buffer.of(VERSION, 0xff), 'not SOCKS5; use socks5h:// in the proxy URL')
}

/** The first byte of a ClientHello (RFC 8446 §5.1). */
const TLS_HANDSHAKE = 0x16
/** Alert, fatal, protocol_version. */
const TLS_ALERT = Buffer.of(0x15, 3, 3, 0, 2, 2, 70)

function refuse(answer: Buffer, reason: string): Refuse {
  return { kind: 'refuse', answer, reason }
}
