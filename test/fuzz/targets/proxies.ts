import { HelloPeek, RequestPeek } from '../../../proxy/gateway/peek.ts'
import { HttpHandshake } from '../../../proxy/intercept/http.ts'
import { ResponseStart } from '../../../proxy/intercept/http-response.ts'
import type { Handshake } from '../../../proxy/intercept/handshake.ts'
import { SocksHandshake } from '../../../proxy/intercept/socks.ts'
import { readPacket } from '../../../proxy/intercept/socks-udp.ts'
import type { FuzzTarget } from '../target.ts'

const SECRET = 'hush'
const credentials = (user: string) => (user === 'node' ? SECRET : undefined)
const AUTHORIZATION = `Proxy-Authorization: Basic ${Buffer.from(`node:${SECRET}`).toString('base64')}`
const NAME = 'shop.acme.cart.prod.any.rr.local'

/** The same bytes at once and in pieces must come to the same end. */
function endOf(begin: () => Handshake, bytes: Buffer, known = ''): string {
  const whole = outcome(begin(), [bytes], known)
  const pieces = Array.from({ length: Math.ceil(bytes.length / 7) }, (_, i) => bytes.subarray(i * 7, i * 7 + 7))
  const cut = outcome(begin(), pieces, known)
  if (whole !== cut) throw new Error(`at once: ${whole}; in pieces: ${cut}`)
  return whole
}

/** `known`: what may be connected to although the bytes do not hold it. */
function outcome(handshake: Handshake, chunks: readonly Buffer[], known: string): string {
  for (const chunk of chunks) {
    const step = handshake.push(chunk)
    if (step.kind === 'refuse') return `refused: ${step.reason.replaceAll(/\d+/g, 'N')}`
    if (step.kind === 'keep') return 'kept'
    if (step.kind === 'connect') {
      if (!known.includes(step.host) && !bytesHold(chunks, step.host))
        throw new Error('connects to what was not asked for')
      return `connects to ${step.host === NAME ? 'the name' : 'another host'}${step.allowance === undefined ? '' : ', bounded'}`
    }
  }
  return 'more'
}

function bytesHold(chunks: readonly Buffer[], host: string): boolean {
  const isLiteral = /^[\d.]+$|:/.test(host) // SOCKS sends addresses as bytes
  return isLiteral || Buffer.concat(chunks).includes(Buffer.from(host, 'latin1'))
}

export const httpHead: FuzzTarget = {
  name: 'http-head',
  seeds: [
    `CONNECT ${NAME}:80 HTTP/1.1\r\nHost: x\r\n${AUTHORIZATION}\r\n\r\nfirst bytes`,
    `GET http://${NAME}/a?b HTTP/1.1\r\nHost: x\r\n${AUTHORIZATION}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n`,
    `POST http://[::1]:80/ HTTP/1.0\r\n${AUTHORIZATION}\r\nContent-Length: 3\r\n\r\nabc`,
    `PUT http://${NAME} HTTP/1.1\r\n${AUTHORIZATION}\r\nTransfer-Encoding: chunked\r\n\r\n`,
  ].map((text) => Buffer.from(text, 'latin1')),
  run: (bytes) => endOf(() => new HttpHandshake(credentials), bytes),
}

const PUBLISHED = {
  listen: { host: '127.0.0.1', port: 443 },
  hosts: { 'shop.example.com': { name: NAME, port: 443 }, '*.example.org': { name: NAME, port: 80 } },
  certificates: [],
  alpn: [],
  proxyProtocol: false,
}
const PUBLIC = `${NAME} shop.example.com`

/** What OpenSSL's `s_client -servername shop.example.com` sends, in one record and in three. */
const HELLO = (() => {
  const name = Buffer.from('shop.example.com')
  const u16 = (number: number) => Buffer.of(number >> 8, number & 255)
  const sni = Buffer.concat([u16(0), u16(name.length + 5), u16(name.length + 3), Buffer.of(0), u16(name.length), name])
  const versions = Buffer.from('002b0003020304', 'hex')
  const extensions = Buffer.concat([versions, sni])
  const body = Buffer.concat([
    u16(0x0303),
    Buffer.alloc(32, 7),
    Buffer.of(0),
    Buffer.from('00021301', 'hex'),
    Buffer.of(1, 0),
    u16(extensions.length),
    extensions,
  ])
  return Buffer.concat([Buffer.of(1, 0), u16(body.length), body])
})()

function records(bytes: Buffer, size: number): Buffer {
  const parts = Array.from({ length: Math.ceil(bytes.length / size) }, (_, i) =>
    bytes.subarray(i * size, (i + 1) * size),
  )
  return Buffer.concat(parts.flatMap((part) => [Buffer.of(22, 3, 1, part.length >> 8, part.length & 255), part]))
}

export const clientHello: FuzzTarget = {
  name: 'client-hello',
  seeds: [records(HELLO, 16_384), records(HELLO, 40), Buffer.concat([records(HELLO, 3), Buffer.from('more')])],
  run: (bytes) => endOf(() => new HelloPeek({ ...PUBLISHED, protocol: 'tls' }), bytes, PUBLIC),
}

export const requestHost: FuzzTarget = {
  name: 'request-host',
  seeds: [
    'GET / HTTP/1.1\r\nHost: shop.example.com:80\r\n\r\nbody',
    'GET http://a.example.org/x HTTP/1.1\r\nHost: other\r\n\r\n',
    'GET / HTTP/1.0\r\n\r\n',
    'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
  ].map((text) => Buffer.from(text, 'latin1')),
  run: (bytes) => endOf(() => new RequestPeek({ ...PUBLISHED, protocol: 'http' }), bytes, PUBLIC),
}

const GREETING = Buffer.concat([Buffer.of(5, 1, 2, 1, 4), Buffer.from('node'), Buffer.of(4), Buffer.from(SECRET)])

export const socksHandshake: FuzzTarget = {
  name: 'socks-handshake',
  seeds: [
    Buffer.concat([GREETING, Buffer.of(5, 1, 0, 3, NAME.length), Buffer.from(NAME), Buffer.of(0, 80)]),
    Buffer.concat([GREETING, Buffer.of(5, 3, 0, 1, 0, 0, 0, 0, 0, 0)]),
    Buffer.from('0401005000000001ff00', 'hex'),
  ],
  run: (bytes) => endOf(() => new SocksHandshake(credentials), bytes),
}

export const socksDatagram: FuzzTarget = {
  name: 'socks-datagram',
  seeds: [
    Buffer.concat([Buffer.of(0, 0, 0, 3, NAME.length), Buffer.from(NAME), Buffer.of(0, 53), Buffer.from('payload')]),
    Buffer.of(0, 0, 0, 1, 127, 30, 1, 0, 0, 53, 1),
  ],
  run(bytes) {
    const packet = readPacket(bytes)
    if (packet === undefined) return 'refused'
    if (packet.head.length + packet.payload.length !== bytes.length) throw new Error('bytes were lost')
    return 'accepted'
  },
}

export const httpAnswer: FuzzTarget = {
  name: 'http-answer',
  seeds: ['HTTP/1.1 200 OK\r\n', 'HTTP/1.1 101 Switching Protocols\r\n', 'HTTP/1.0 404 x'].map((text) =>
    Buffer.from(text),
  ),
  run(bytes) {
    const start = new ResponseStart((reason) => Buffer.from(reason))
    for (const byte of bytes) {
      const { kind } = start.push(Buffer.of(byte))
      if (kind !== 'undecided') return kind
    }
    return 'undecided'
  },
}
