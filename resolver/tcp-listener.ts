import { once } from 'node:events'
import { createServer, type Server as TcpServer, type Socket } from 'node:net'
import { Admission } from '../src/core/kit/admission.ts'
import { bindShared, type SharedAddress } from '../src/core/kit/bind-shared.ts'
import { closeWhenIdle } from '../src/core/kit/close-when-idle.ts'
import { endGracefully } from '../src/core/kit/end-gracefully.ts'
import { type Ends, endsOf } from '../src/core/kit/local-users.ts'
import type { Log } from '../src/core/kit/log.ts'
import { Lifetime } from '../src/core/kit/lifetime.ts'
import { CODE, HEADER } from './numbers.ts'
import type { Server } from './resolv-conf.ts'
import { QUERY_LIMIT } from './wire.ts'

/*
 *   length(2) · message · length(2) · message …          RFC 1035 §4.2.2; questions may be pipelined (RFC 7766 §6.2.1.1),
 *                                                        replies go out as they come, matched by id
 */

export interface TcpListenerOptions extends SharedAddress {
  /** At a time; one more, and of the source that has the most the one that has been silent for longest is closed. */
  connections: number
  idleMs: number
}

/** Who asks. */
export interface Client extends Server {
  /** Absent: by UDP. */
  readonly connection?: Ends
}

/** How the questions of a listener are answered. */
export interface Serving {
  /** Whether this source may ask. */
  admits(address: string): boolean
  respond(packet: Buffer, from: Client): Buffer | undefined | Promise<Buffer | undefined>
}

/** Questions of one connection that may wait; until one is answered, no more are read. */
const PIPELINE_LIMIT = 64
/**
 * Questions of one connection in one turn of the event loop, about 1 ms; the system hands over 2 MB in one, which are 50,000. Larger: other
 * clients, and flows, wait for longer.
 */
const QUESTIONS_AT_ONCE = 64
/** One line for all clients that do not speak DNS. Smaller: a wrong program fills the log. */
const LOG_MS = 10_000
/** Replies that the client has not read. Larger: a client that does not read takes more memory. */
const UNREAD_BYTES = 256 * 1024

/** The TCP side of the resolver. */
export class TcpListener implements AsyncDisposable {
  readonly #life: Lifetime
  readonly #options: TcpListenerOptions
  /** A question makes a connection the newest of its source. */
  readonly #admission: Admission
  readonly #open = new Set<Socket>()
  #serving: Serving | undefined
  #log: Log | undefined
  #malformed = 0
  #loggedAt = Number.NEGATIVE_INFINITY

  private constructor(life: Lifetime, options: TcpListenerOptions) {
    this.#life = life
    this.#options = options
    this.#admission = new Admission({ most: options.connections })
  }

  /** @throws the system's error, for example EADDRINUSE */
  static start(options: TcpListenerOptions): Promise<TcpListener> {
    return Lifetime.open(async (life) => {
      const listener = new TcpListener(life, options)
      const server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) => listener.#admit(socket))
      server.listen(bindShared(options))
      await once(server, 'listening')
      server.on('error', () => undefined) // accepting failed (no descriptors): that client tries again
      life.defer(() => listener.#close(server))
      return listener
    })
  }

  /** Until this is called, connections are closed at once. */
  serve(serving: Serving, log: Log): void {
    this.#serving = serving
    this.#log = log
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }

  #admit(socket: Socket): void {
    const serving = this.#serving
    if (serving === undefined || !serving.admits(socket.remoteAddress ?? '')) return void socket.destroy()
    const admitted = this.#admission.enter(socket, socket)
    this.#open.add(socket)
    socket.once('close', () => this.#open.delete(socket))
    const connection = new DnsConnection(socket, serving, this.#options.idleMs, {
      question: () => admitted.silent(),
      malformed: (from) => this.#isNoDns(from),
    })
    connection.start()
  }

  #isNoDns({ address }: Server): void {
    this.#malformed += 1
    const now = performance.now()
    if (this.#log === undefined || now - this.#loggedAt < LOG_MS) return
    this.#log.warn('a client of the name server does not speak DNS', { address, count: this.#malformed })
    this.#loggedAt = now
    this.#malformed = 0
  }

  async #close(server: TcpServer): Promise<void> {
    const closed = once(server, 'close')
    await closeWhenIdle([server], 'connection')
    for (const socket of this.#open) socket.destroy()
    await closed
  }
}

interface ConnectionOwner {
  /** A whole question has come. */
  question(): void
  /** The connection ends, since what comes is no DNS. */
  malformed(from: Server): void
}

/** The questions and replies of one connection. */
class DnsConnection {
  readonly #socket: Socket
  readonly #serving: Serving
  readonly #from: Client
  /** Restarted by each whole question, so that single bytes do not keep a connection. */
  readonly #idle: NodeJS.Timeout
  readonly #owner: ConnectionOwner
  #pending: Buffer = Buffer.alloc(0)
  #waiting = 0
  #hasEnded = false
  /** Others have their turn. */
  #isResting = false
  /** What comes is no DNS: nothing more is read or answered. */
  #isOver = false

  constructor(socket: Socket, serving: Serving, idleMs: number, owner: ConnectionOwner) {
    this.#socket = socket
    this.#serving = serving
    this.#owner = owner
    this.#from = {
      address: socket.remoteAddress ?? '',
      port: socket.remotePort ?? 0,
      connection: endsOf(socket),
    }
    this.#idle = setTimeout(() => socket.destroy(), idleMs)
  }

  start(): void {
    const socket = this.#socket
    socket.on('data', (chunk: Buffer) => {
      if (this.#isOver) return
      this.#pending = this.#pending.length === 0 ? chunk : Buffer.concat([this.#pending, chunk])
      this.#read()
    })
    socket.on('end', () => {
      this.#hasEnded = true
      this.#read()
    })
    socket.on('error', () => socket.destroy())
    socket.on('close', () => clearTimeout(this.#idle))
  }

  #read(): void {
    if (this.#isResting) return
    let left = QUESTIONS_AT_ONCE
    for (; left > 0 && this.#waiting < PIPELINE_LIMIT && !this.#socket.destroyed && !this.#isOver; left--) {
      const packet = this.#nextQuestion()
      if (packet === undefined) break
      this.#idle.refresh()
      this.#owner.question()
      this.#answer(packet)
    }
    if (this.#isOver) return
    if (left === 0) return this.#rest()
    if (this.#waiting >= PIPELINE_LIMIT) this.#socket.pause()
    else if (this.#socket.isPaused()) this.#socket.resume()
    if (this.#hasEnded && this.#waiting === 0) this.#socket.end()
  }

  #rest(): void {
    this.#isResting = true
    this.#socket.pause()
    setImmediate(() => {
      this.#isResting = false
      this.#read()
    })
  }

  #nextQuestion(): Buffer | undefined {
    if (this.#pending.length < 2) return undefined
    const end = 2 + this.#pending.readUInt16BE(0)
    if (end < 2 + HEADER || end > 2 + QUERY_LIMIT) return this.#refuse(end)
    if (this.#pending.length < end) return undefined
    const packet = this.#pending.subarray(2, end)
    this.#pending = this.#pending.subarray(end)
    return packet
  }

  /**
   * No question is that short or that long: a program that speaks something else, most often HTTP. Told as far as there is an id
   * to tell it with (RFC 1035 §4.1.1); nothing after it can be read, so the connection ends.
   */
  #refuse(end: number): undefined {
    if (this.#pending.length < Math.min(end, 4)) return undefined // an id may still come
    this.#owner.malformed(this.#from)
    endGracefully(this.#socket, end < 4 ? undefined : formatError(this.#pending.readUInt16BE(2)))
    this.#isOver = true
    return undefined
  }

  #answer(packet: Buffer): void {
    const reply = this.#serving.respond(packet, this.#from)
    if (!(reply instanceof Promise)) return this.#send(reply)
    this.#waiting++
    void reply.then((late) => {
      this.#waiting--
      this.#send(late)
      this.#read()
    })
  }

  #send(reply: Buffer | undefined): void {
    if (reply === undefined || this.#socket.destroyed || this.#socket.writableEnded) return
    const framed = Buffer.allocUnsafe(reply.length + 2)
    framed.writeUInt16BE(reply.length, 0)
    reply.copy(framed, 2)
    this.#socket.write(framed)
    if (this.#socket.writableLength > UNREAD_BYTES) this.#socket.destroy()
  }
}

/** A header alone, with the length before it: the answer to something that has no question in it. */
function formatError(id: number): Buffer {
  const framed = Buffer.alloc(2 + HEADER)
  framed.writeUInt16BE(HEADER, 0)
  framed.writeUInt16BE(id, 2)
  framed.writeUInt16BE(0x8000 | CODE.FORMERR, 4) // QR
  return framed
}
