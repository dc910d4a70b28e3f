import { randomBytes } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import type { Agent } from 'node:https'
import { Socket } from 'node:net'
import type { ConnectionOptions } from 'node:tls'
import { Duplex } from 'node:stream'
import { createWebSocketStream, WebSocket } from 'ws'
import { MeshError } from '../errors.ts'
import { onAbort } from './abort.ts'
import { ignore } from './ignore.ts'

/*
 * WebSockets that we open: text channels for control links, byte streams for relays. No compression, bounded messages. Those that
 * peers open are in websocket-acceptor.ts; nothing else uses `ws`.
 */

/** A channel of text messages. */
export interface Channel {
  /** Queues a message; never blocks. */
  send(text: string): void
  /** Bytes accepted by `send` and not written to the socket yet. */
  readonly backlog: number
  onText(listener: (text: string) => void): void
  /**
   * Calls the listener once, whatever the reason; at once when the channel is closed already. `isSilent`: the kernel has given up the
   * connection, since nothing answers there.
   */
  onClose(listener: (reason: string, isSilent?: boolean) => void): void
  /** Sends a close frame; the connection is cut after two seconds. */
  close(reason?: string): void
  /** One round trip, in milliseconds. @throws MeshError LINK_CLOSED */
  measure(): Promise<number>
  /** Whoever uses the channel watches it by its own messages: no pings any more. `probes`: our kernel asks an idle connection for a sign. */
  watched?(options: { probes: boolean }): void
  /** The network has changed: ends the channel when our own address is gone, or when nothing arrives within `withinMs`. */
  recheck?(isHere: (address: string) => boolean, withinMs: number): void
}

/** Larger lets a peer make us hold more; smaller does not fit a table of many instances. */
export const MAX_MESSAGE_BYTES = 16 * 1024 * 1024
const PING_MS = 5_000
/** Of a watched channel: a machine or a network that is gone is noticed after 2 + 2 × 1 s. Smaller costs packets at rest; larger places its instances late. */
const PROBES = { enable: true, initialDelay: 2_000, interval: 1_000, count: 2 } as const
/** Of a connection that the kernel gives up: its probes had no answer, or not even the next router could be reached for them. */
const UNANSWERED: ReadonlySet<string> = new Set(['ETIMEDOUT', 'EHOSTUNREACH', 'ENETUNREACH', 'EHOSTDOWN'])
/** A link is dead after this long without any inbound byte. */
const SILENCE_MS = 12_000
const options = { perMessageDeflate: false, maxPayload: MAX_MESSAGE_BYTES } as const

export interface DialOptions {
  tls: Pick<ConnectionOptions, 'ca' | 'cert' | 'key' | 'secureContext' | 'checkServerIdentity' | 'servername'>
  headers?: Record<string, string>
  /** The HTTP proxy on the way out, if there is one (kit/egress.ts). */
  egress?: Agent | undefined
  timeoutMs?: number
  /** Verifies the other side's certificate once the handshake is done; throwing ends the connection. */
  verify?: (socket: IncomingMessage['socket']) => void
}

export function dialText(url: string, dial: DialOptions, signal: AbortSignal): Promise<Channel> {
  return open(url, dial, channelOf, signal)
}

export function dialBytes(url: string, dial: DialOptions, signal: AbortSignal): Promise<Duplex> {
  return open(url, dial, streamOf, signal)
}

type Wrap<T> = (webSocket: WebSocket, socket?: Duplex) => T

/** `wrap` runs in the same turn as the opening, so that a message which arrives with it finds its listener. */
function open<T>(url: string, dial: DialOptions, wrap: Wrap<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(new MeshError('NOT_RUNNING', { address: url }, { cause: signal.reason }))
    const webSocket = new WebSocket(url, {
      ...options,
      ...dial.tls,
      minVersion: 'TLSv1.3',
      handshakeTimeout: dial.timeoutMs ?? 5_000,
      headers: dial.headers ?? {},
      ...(dial.egress === undefined ? {} : { agent: dial.egress }),
    })
    const giveUp = (cause: unknown) => {
      listener[Symbol.dispose]()
      webSocket.on('error', ignore)
      webSocket.terminate()
      reject(cause instanceof MeshError ? cause : new MeshError('NOT_RUNNING', { address: url }, { cause }))
    }
    const listener = onAbort(signal, giveUp)
    let socket: Duplex | undefined
    webSocket.once('upgrade', (response) => {
      ;({ socket } = response)
      try {
        dial.verify?.(response.socket)
      } catch (error) {
        giveUp(error)
      }
    })
    webSocket.once('unexpected-response', (_request, response) => {
      response.resume()
      giveUp(new MeshError('REQUEST_FAILED', { address: url, status: response.statusCode }))
    })
    webSocket.once('error', giveUp)
    webSocket.once('open', () => {
      listener[Symbol.dispose]()
      webSocket.off('error', giveUp)
      resolve(wrap(webSocket, socket))
    })
  })
}

/** A WebSocket that is open, as a channel of text messages; `socket` is the connection that it is on. */
export function channelOf(webSocket: WebSocket, socket?: Duplex): Channel {
  const localAddress = socket instanceof Socket ? socket.localAddress : undefined
  let receivedAt = performance.now()
  let closed: { reason: string; isSilent: boolean } | undefined
  const listeners: Array<(reason: string, isSilent: boolean) => void> = []
  let onText: ((text: string) => void) | undefined
  const early: string[] = []
  const received = () => {
    receivedAt = performance.now()
  }
  const beat = setInterval(() => {
    if (performance.now() - receivedAt > SILENCE_MS) return webSocket.terminate()
    if (webSocket.readyState === WebSocket.OPEN) webSocket.ping()
  }, PING_MS)
  beat.unref()
  const ended = (reason: string, isSilent: boolean) => {
    if (closed !== undefined) return
    closed = { reason, isSilent }
    clearInterval(beat)
    for (const listener of listeners) listener(reason, isSilent)
  }
  webSocket.on('ping', received).on('pong', received)
  webSocket.on('message', (message: Buffer, isBinary) => {
    received()
    if (isBinary) return webSocket.close(1003, 'text only')
    const text = message.toString('utf8')
    if (onText === undefined) early.push(text)
    else onText(text)
  })
  let isSilent = false
  socket?.on('error', ({ code = '' }: NodeJS.ErrnoException) => (isSilent ||= UNANSWERED.has(code))) // `ws` does not tell
  webSocket.on('error', (error) => ended(error.message, isSilent))
  webSocket.on('close', (code, reason) => ended(reason.length > 0 ? reason.toString('utf8') : `code ${code}`, isSilent))
  return {
    send: (text) => {
      if (webSocket.readyState === WebSocket.OPEN) webSocket.send(text)
    },
    get backlog() {
      return webSocket.bufferedAmount
    },
    onText: (listener) => {
      onText = listener
      for (const text of early.splice(0)) listener(text)
    },
    onClose: (listener) => {
      if (closed === undefined) listeners.push(listener)
      else listener(closed.reason, closed.isSilent)
    },
    close: (reason = '') => {
      webSocket.close(1000, reason.slice(0, 100))
      const cut = setTimeout(() => webSocket.terminate(), 2_000)
      cut.unref()
    },
    measure: () => roundTrip(webSocket),
    watched: ({ probes }) => {
      clearInterval(beat)
      if (probes && socket instanceof Socket) socket.setKeepAlive(PROBES)
    },
    recheck: (isHere, withinMs) => {
      if (localAddress !== undefined && !isHere(localAddress)) return webSocket.terminate()
      askForSign(webSocket, { receivedAt: () => receivedAt, withinMs })
    },
  }
}

/** Terminates the connection when nothing has been received by then. */
function askForSign(
  webSocket: WebSocket,
  { receivedAt, withinMs }: { receivedAt: () => number; withinMs: number },
): void {
  const askedAt = performance.now()
  if (webSocket.readyState === WebSocket.OPEN) webSocket.ping()
  const late = setTimeout(() => {
    if (receivedAt() < askedAt) webSocket.terminate()
  }, withinMs)
  late.unref()
}

function roundTrip(webSocket: WebSocket): Promise<number> {
  const mark = randomBytes(8) // other pings are in flight
  return new Promise((resolve, reject) => {
    const sentAt = performance.now()
    const settle = (act: () => void) => {
      webSocket.off('pong', ponged).off('close', closed)
      act()
    }
    const ponged = (pong: Buffer) => {
      if (pong.equals(mark)) settle(() => resolve(performance.now() - sentAt))
    }
    const closed = () => settle(() => reject(new MeshError('LINK_CLOSED')))
    webSocket.on('pong', ponged).on('close', closed)
    if (webSocket.readyState === WebSocket.OPEN) webSocket.ping(mark)
    else closed()
  })
}

/** A WebSocket that is open, as a stream of bytes. */
export function streamOf(webSocket: WebSocket): Duplex {
  const stream = createWebSocketStream(webSocket, { highWaterMark: 256 * 1024 })
  stream.on('error', ignore) // the reader sees 'close'; an error without a listener would end the process
  return stream
}
