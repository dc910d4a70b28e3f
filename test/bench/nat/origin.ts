import { createSocket } from 'node:dgram'
import { readFileSync } from 'node:fs'
import { createServer, type Socket } from 'node:net'
import { createServer as createTlsServer } from 'node:tls'
import { ORIGIN_PORT, ORIGIN_TLS_PORT } from './station.ts'

/*
 * What every node of the matrix serves. The first byte of a connection, or of a datagram, says what is wanted:
 *
 *     e …          the rest comes back as it is
 *     g u32        so many bytes (datagrams: so many of DATAGRAM_BYTES); connections: 2³² − 1 for no end
 *     r …          for every REQUEST_BYTES an answer of ANSWER_BYTES
 */
export const ECHO = 'e'.charCodeAt(0)
export const GIVE = 'g'.charCodeAt(0)
export const REQUESTS = 'r'.charCodeAt(0)
/** RPC of TUNNELS.md §6.6. */
export const REQUEST_BYTES = 200
export const ANSWER_BYTES = 16_384
export const DATAGRAM_BYTES = 1_000
export const ENDLESS = 2 ** 32 - 1
/** Of datagrams: so many a millisecond, which is 16 Mbit/s. */
const DATAGRAMS_A_MS = 2

const chunk = Buffer.alloc(65_536, 'hedgerow')

/** Listens on all addresses, for callers without a mesh too. */
export async function serveOrigin(tls: string): Promise<void> {
  const server = createServer({ allowHalfOpen: true, noDelay: true }, serve)
  await new Promise<void>((resolve) => server.listen({ port: ORIGIN_PORT, host: '::', backlog: 512 }, resolve))
  serveDatagrams()
  if (tls === '') return
  const pem = readFileSync(tls)
  const secure = createTlsServer({ key: pem, cert: pem, minVersion: 'TLSv1.3', noDelay: true }, serve)
  secure.on('tlsClientError', () => undefined)
  await new Promise<void>((resolve) => secure.listen({ port: ORIGIN_TLS_PORT, host: '::' }, resolve))
}

function serve(socket: Socket): void {
  socket.on('error', () => socket.destroy())
  let head = Buffer.alloc(0)
  socket.on('data', function first(data: Buffer) {
    head = Buffer.concat([head, data])
    const [what] = head
    if (what === GIVE && head.length < 5) return
    socket.off('data', first)
    if (what === ECHO) {
      if (head.length > 1) socket.write(head.subarray(1))
      socket.pipe(socket)
    } else if (what === GIVE) give(socket, head.readUInt32BE(1))
    else if (what === REQUESTS) answer(socket, head.length - 1)
    else socket.destroy()
  })
}

function give(socket: Socket, bytes: number): void {
  let left = bytes === ENDLESS ? Infinity : bytes
  socket.resume().on('end', () => socket.end())
  const more = () => {
    while (left > 0 && !socket.destroyed) {
      const size = Math.min(left, chunk.length)
      left -= size
      if (!socket.write(chunk.subarray(0, size))) return
    }
    if (left === 0) socket.end()
  }
  socket.on('drain', more)
  more()
}

function answer(socket: Socket, early: number): void {
  let asked = early
  const answers = () => {
    for (; asked >= REQUEST_BYTES; asked -= REQUEST_BYTES) socket.write(chunk.subarray(0, ANSWER_BYTES))
  }
  socket.on('data', (data: Buffer) => {
    asked += data.length
    answers()
  })
  socket.on('end', () => socket.end())
  answers()
}

function serveDatagrams(): void {
  const socket = createSocket({ type: 'udp6' })
  socket.on('error', () => undefined)
  socket.on('message', (message, { port, address }) => {
    if (message[0] === ECHO) return socket.send(message.subarray(1), port, address)
    if (message[0] !== GIVE || message.length < 5) return
    let left = Math.min(message.readUInt32BE(1), 100_000)
    const timer = setInterval(() => {
      for (let i = 0; i < DATAGRAMS_A_MS && left > 0; i++, left--)
        socket.send(chunk.subarray(0, DATAGRAM_BYTES), port, address)
      if (left === 0) clearInterval(timer)
    }, 1)
  })
  socket.bind(ORIGIN_PORT)
}
