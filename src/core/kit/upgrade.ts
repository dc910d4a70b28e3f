import type { IncomingMessage } from 'node:http'
import { request } from 'node:https'
import type { Duplex } from 'node:stream'
import { MeshError } from '../errors.ts'
import type { DialOptions } from './websocket.ts'

/*
 * A byte stream made from an HTTP request (RFC 9110 §7.8): after `101` the connection belongs to the two ends. It takes half the
 * processor time of a WebSocket, which masks and frames every message.
 */

/** The protocol to which both ends switch. */
const PROTOCOL = 'hedgerow-bytes'

/**
 * Dials `https://…` or `wss://…` and switches the connection over.
 * @throws MeshError REQUEST_FAILED with the status when the other end answers instead of switching, NOT_RUNNING otherwise
 */
export function dialUpgrade(address: string, dial: DialOptions, signal: AbortSignal): Promise<Duplex> {
  const { promise, resolve, reject } = Promise.withResolvers<Duplex>()
  const limit = AbortSignal.any([signal, AbortSignal.timeout(dial.timeoutMs ?? 5_000)])
  const fail = (cause: unknown) =>
    reject(cause instanceof MeshError ? cause : new MeshError('NOT_RUNNING', { address }, { cause }))
  const sent = request(address.replace(/^ws/, 'http'), {
    ...dial.tls,
    minVersion: 'TLSv1.3',
    agent: dial.egress ?? false,
    signal: limit,
    headers: { ...dial.headers, connection: 'Upgrade', upgrade: PROTOCOL },
  })
  sent.on('error', fail)
  sent.once('response', (response) => {
    response.resume()
    fail(new MeshError('REQUEST_FAILED', { address, status: response.statusCode }))
    sent.destroy()
  })
  sent.once('upgrade', (_response, socket, head) => {
    socket.on('error', () => socket.destroy()) // the reader sees 'close'
    try {
      dial.verify?.(socket)
    } catch (error) {
      socket.destroy()
      return fail(error)
    }
    if (head.length > 0) socket.unshift(head)
    resolve(socket)
  })
  sent.end()
  return promise
}

/** Whether the request is for a byte stream; any other upgrade is a WebSocket, or unknown. */
export function asksForBytes({ headers }: IncomingMessage): boolean {
  return headers.upgrade?.toLowerCase() === PROTOCOL
}

/** Switches an accepted connection over. */
export function acceptUpgrade(socket: Duplex, head: Buffer): Duplex {
  socket.on('error', () => socket.destroy())
  socket.write(`HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: ${PROTOCOL}\r\n\r\n`)
  if (head.length > 0) socket.unshift(head)
  return socket
}
