import { BoundSocket, createServer, Socket, type Server } from 'node:net'
import { onAbort } from '../../src/core/kit/abort.ts'
import type { HostPort } from '../../src/core/kit/host-port.ts'
import { ignore } from '../../src/core/kit/ignore.ts'
import {
  ANSWER_BYTES,
  decodeAnswer,
  encodeQuestion,
  type ObservedAt,
  type Question,
} from '../relay/wire/observation.ts'

/**
 * One local TCP port that dials several addresses and listens at the same time (SO_REUSEPORT): the address at which an observer
 * sees it is where a peer can dial it, for as long as the connection to the observer stays open.
 */
export class SharedPort implements Disposable {
  readonly host: string
  readonly port: number
  readonly #sockets = new Set<Socket>()
  #first: BoundSocket | undefined
  #server: Server | undefined
  #isClosed = false

  /** `port`: one at which this process already listens with SO_REUSEPORT; 0 for any free one. */
  constructor(host: string, port = 0) {
    this.host = host
    this.#first = this.#bind(port)
    this.port = this.#first.address().port
  }

  /** The socket is still connecting when it is returned; it is closed with this port, unless `keep` has taken it out. */
  dial(to: HostPort): Socket {
    const handle = this.#first ?? this.#bind(this.port)
    this.#first = undefined
    const socket = new Socket({ handle, allowHalfOpen: true })
    this.#own(socket)
    socket.setNoDelay(true)
    socket.connect(to)
    return socket
  }

  /** Accepts the connections that others make to the port. */
  listen(onConnection: (socket: Socket) => void): void {
    this.#server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
      this.#own(socket)
      onConnection(socket)
    })
    this.#server.on('error', ignore) // dialling may still work
    this.#server.listen(this.#bind(this.port))
  }

  /** The socket outlives the port. */
  keep(socket: Socket): Socket {
    this.#sockets.delete(socket)
    return socket
  }

  /** Asks an observer where it sees this port. The connection stays open, and with it the mapping in the NATs on the way. */
  query(observer: HostPort, question: Question, signal: AbortSignal): Promise<ObservedAt> {
    const { promise, resolve, reject } = Promise.withResolvers<ObservedAt>()
    const fail = () => reject(new Error('the observer did not answer'))
    const socket = this.dial(observer)
    const bytes: Buffer[] = []
    socket.once('connect', () => socket.write(encodeQuestion(question)))
    socket.on('data', (chunk: Buffer) => {
      bytes.push(chunk)
      const answer = decodeAnswer(Buffer.concat(bytes).subarray(0, ANSWER_BYTES))
      if (answer?.token === question.token) resolve(answer)
    })
    for (const event of ['error', 'end', 'close']) socket.once(event, fail)
    const listener = onAbort(signal, fail)
    return promise.finally(() => listener[Symbol.dispose]())
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
    socket.on('error', ignore)
    socket.once('close', () => this.#sockets.delete(socket))
  }
}
