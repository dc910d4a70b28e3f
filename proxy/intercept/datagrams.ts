import type { RemoteInfo, Socket } from 'node:dgram'
import { boundSocket, maySend } from '../socket/udp-socket.ts'
import type { DatagramSink } from '../flow/flow.ts'

/*
 * The UDP listener of one VIP and port:
 *
 *   client a:1 ─▶ ┌──────────┐ ─▶ flow (a, 1)        one flow for each client address and port
 *   client a:2 ─▶ │ VIP:port │ ─▶ flow (a, 2)        answers leave from VIP:port, so that the client's socket takes them
 *   client b:1 ─▶ └──────────┘ ─▶ flow (b, 1)
 *
 * The hot path of every datagram of a client: one look-up.
 */

/** The sender of a first datagram. */
export interface UdpSender {
  readonly protocol: 'udp'
  readonly address: string
  readonly port: number
  /** False when it could not be sent. */
  answer(payload: Buffer): boolean
  /** Its flow has ended; the next datagram begins another. */
  ended(): void
}

/** `undefined`: there is no room for this client now. */
export type Take = (client: UdpSender) => DatagramSink | undefined

export class DatagramListener {
  readonly #socket: Socket
  readonly #take: Take
  readonly #flows = new Map<string, DatagramSink>()
  #isClosed = false

  private constructor(socket: Socket, take: Take) {
    this.#socket = socket
    this.#take = take
  }

  /** Bound when it returns. @throws the system's error */
  static open({ address, port }: { address: string; port: number }, take: Take): DatagramListener {
    const socket = boundSocket({ address, port }, { reusePort: true }) // to be shared with the agent that takes over
    const listener = new DatagramListener(socket, take)
    socket.on('message', (payload, from) => listener.#received(payload, from))
    return listener
  }

  /** Clients that have a flow here. */
  get size(): number {
    return this.#flows.size
  }

  get port(): number {
    return this.#socket.address().port
  }

  /** Ends its flows, because nothing could be answered. */
  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#socket.close()
    for (const flow of this.#flows.values()) flow.end()
  }

  #received(payload: Buffer, { address, port }: RemoteInfo): void {
    const key = `${port} ${address}`
    const known = this.#flows.get(key)
    if (known !== undefined) return known.datagram(payload)
    if (port === 0) return // there is nowhere to answer to
    const flow = this.#take({
      protocol: 'udp',
      address,
      port,
      answer: (answer) => this.#send(answer, port, address),
      ended: () => void this.#flows.delete(key),
    })
    if (flow === undefined) return
    this.#flows.set(key, flow)
    flow.datagram(payload)
  }

  #send(payload: Buffer, port: number, address: string): boolean {
    if (this.#isClosed || !maySend(this.#socket, payload.length)) return false
    this.#socket.send(Buffer.from(payload), port, address) // a copy: what the kernel does not take at once is kept
    return true
  }
}
