import { onAbort } from '../../src/core/kit/abort.ts'
import { BoundSocket, createServer, Socket, type Server } from 'node:net'
import {
  ANSWER_BYTES,
  decodeAnswer,
  encodeQuestion,
  type ObservedAt,
  type Question,
} from '../relay/wire/observation.ts'
import type { HostPort } from '../../src/core/kit/host-port.ts'

/**
 * One TCP port of ours that dials to several places and listens at the same time (SO_REUSEPORT): what an observer sees of it is
 * where a peer can dial it, while the observer's connection stays.
 */
export class PunchPort implements Disposable {
  readonly host: string
  readonly port: number
  readonly #sockets = new Set<Socket>()
  #first: BoundSocket | undefined
  #server: Server | undefined
  #isClosed = false

  /** `port`: one at which this process listens already, with SO_REUSEPORT; any other by default. */
  constructor(host: string, port = 0) {
    this.host = host
    this.#first = this.#bind(port)
    this.port = this.#first.address().port
  }

  /** Not connected yet: the caller listens first. Closed with the port, unless it is taken out with `keep`. */
  dial(to: HostPort): Socket {
    const handle = this.#first ?? this.#bind(this.port)
    this.#first = undefined
    const socket = new Socket({ handle, allowHalfOpen: true })
    this.#own(socket)
    socket.setNoDelay(true)
    socket.connect(to)
    return socket
  }

  /** Connections that others make to the port. */
  listen(taken: (socket: Socket) => void): void {
    this.#server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
      this.#own(socket)
      taken(socket)
    })
    this.#server.on('error', () => undefined) // without it, dials may do
    this.#server.listen(this.#bind(this.port))
  }

  /** The socket outlives the port. */
  keep(socket: Socket): Socket {
    this.#sockets.delete(socket)
    return socket
  }

  /** Asks an observer; the connection stays, and with it what NATs on the way know of this port. */
  ask(observer: HostPort, question: Question, signal: AbortSignal): Promise<ObservedAt> {
    return new Promise((resolve, reject) => {
      const socket = this.dial(observer)
      const bytes: Buffer[] = []
      const fail = () => reject(new Error('the observer did not answer'))
      const listener = onAbort(signal, fail)
      socket.once('connect', () => socket.write(encodeQuestion(question)))
      socket.on('data', (chunk: Buffer) => {
        bytes.push(chunk)
        const answer = decodeAnswer(Buffer.concat(bytes).subarray(0, ANSWER_BYTES))
        if (answer === undefined || answer.token !== question.token) return
        listener[Symbol.dispose]()
        resolve(answer)
      })
      socket.once('error', fail)
      socket.once('end', fail)
      socket.once('close', () => {
        listener[Symbol.dispose]()
        fail()
      })
    })
  }

  [Symbol.dispose](): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#first?.close()
    this.#server?.close()
    for (const socket of this.#sockets) socket.destroy()
  }

  #bind(port: number): BoundSocket {
    const { host } = this
    return new BoundSocket({ host, port, reusePort: true, ipv6Only: host.includes(':') })
  }

  #own(socket: Socket): void {
    this.#sockets.add(socket)
    socket.on('error', () => undefined)
    socket.once('close', () => this.#sockets.delete(socket))
  }
}
