import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import { type WebSocket, WebSocketServer } from 'ws'
import { endGracefully } from './end-gracefully.ts'
import { type Channel, channelOf, MAX_MESSAGE_BYTES, streamOf } from './websocket.ts'

/*
 * WebSockets that peers open, and how much these may make us hold:
 *
 *     HTTP upgrade ─▶ who is it? (the caller) ─▶ accept ─▶ channel or stream
 *                              └─▶ refuseUpgrade          connections and unfinished messages are counted for each peer
 */

/** An HTTP upgrade to a WebSocket by a peer that was authenticated. */
export interface WebSocketUpgrade {
  request: IncomingMessage
  socket: Duplex
  head: Buffer
  /** Whose connection it is; its limits are counted under this name. */
  peer: string
}

/** What an acceptor lets peers send and hold. */
export interface WebSocketLimits {
  /** One message. */
  messageBytes: number
  /** What may arrive before the first message is complete; `messageBytes` when absent. */
  firstMessageBytes?: number
  /** Connections of one peer: for one more, its oldest is closed. `Infinity`: they are bounded elsewhere, and nothing is counted. */
  connections: number
  /** Unfinished messages of one peer, over all its connections: the connection that goes beyond is closed. */
  unfinishedBytes: number
}

/** Control links. A peer has one, and a second one while it reconnects; its first message is a greeting. */
export const LINK_LIMITS: WebSocketLimits = {
  messageBytes: MAX_MESSAGE_BYTES,
  firstMessageBytes: 1024 * 1024,
  connections: 4,
  unfinishedBytes: 2 * MAX_MESSAGE_BYTES,
}

/** Accepts WebSockets on HTTP upgrades; the caller has authenticated the peer. */
export class WebSocketAcceptor {
  readonly #server: WebSocketServer
  readonly #limits: WebSocketLimits
  readonly #peers = new Map<string, Set<Inbound>>()

  constructor(limits: WebSocketLimits = LINK_LIMITS) {
    this.#limits = limits
    this.#server = new WebSocketServer({
      noServer: true,
      clientTracking: false,
      perMessageDeflate: false,
      maxPayload: limits.messageBytes,
    })
  }

  acceptText(upgrade: WebSocketUpgrade, onChannel: (channel: Channel) => void): void {
    this.#accept(upgrade, (webSocket) => onChannel(channelOf(webSocket, upgrade.socket)))
  }

  acceptBytes(upgrade: WebSocketUpgrade, onStream: (stream: Duplex) => void): void {
    this.#accept(upgrade, (webSocket) => onStream(streamOf(webSocket)))
  }

  #accept({ request, socket, head, peer }: WebSocketUpgrade, accepted: (webSocket: WebSocket) => void): void {
    this.#server.handleUpgrade(request, socket, head, (webSocket) => {
      if (Number.isFinite(this.#limits.connections)) this.#limit(webSocket, socket, peer)
      accepted(webSocket)
    })
  }

  /** Counts what arrives before `ws` has it, so that a message which never ends is noticed. */
  #limit(webSocket: WebSocket, socket: Duplex, peer: string): void {
    const { connections, messageBytes, firstMessageBytes = messageBytes } = this.#limits
    const all = this.#peers.get(peer) ?? new Set()
    const inbound: Inbound = { webSocket, unfinishedBytes: 0, hasMessage: false }
    this.#peers.set(peer, all.add(inbound))
    const cut = (one: Inbound) => {
      all.delete(one) // what it holds is free now
      one.webSocket.terminate()
    }
    for (const oldest of all) {
      if (all.size <= connections) break
      cut(oldest)
    }
    socket.prependListener('data', (chunk: Buffer) => {
      inbound.unfinishedBytes += chunk.length
      const isFirstTooLong = !inbound.hasMessage && inbound.unfinishedBytes > firstMessageBytes + FRAMING_BYTES
      if (isFirstTooLong || this.#isTooMuch(all)) cut(inbound)
    })
    webSocket.on('message', () => {
      inbound.unfinishedBytes = 0
      inbound.hasMessage = true
    })
    webSocket.once('close', () => {
      all.delete(inbound)
      if (all.size === 0 && this.#peers.get(peer) === all) this.#peers.delete(peer)
    })
  }

  #isTooMuch(all: ReadonlySet<Inbound>): boolean {
    let bytes = 0
    for (const { unfinishedBytes } of all) bytes += unfinishedBytes
    return bytes > this.#limits.unfinishedBytes
  }
}

/** A connection that a peer opened. */
interface Inbound {
  readonly webSocket: WebSocket
  /** Received since the end of the last message. */
  unfinishedBytes: number
  hasMessage: boolean
}

/** Frame headers and pings that may come with a first message. */
const FRAMING_BYTES = 16 * 1024

/** Refuses an upgrade with a plain HTTP answer. */
export function refuseUpgrade(socket: Duplex, status: string, reason: string): void {
  endGracefully(
    socket,
    `HTTP/1.1 ${status}\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: ${Buffer.byteLength(reason)}\r\n\r\n${reason}`,
  )
}
