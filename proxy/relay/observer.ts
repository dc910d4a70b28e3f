import { randomBytes } from 'node:crypto'
import { createSocket, type RemoteInfo, type Socket as UdpSocket } from 'node:dgram'
import { lookup } from 'node:dns/promises'
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net'
import { MeshError } from '../../src/core/errors.ts'
import { Admission, sourceOf } from '../../src/core/kit/admission.ts'
import { closeWhenIdle } from '../../src/core/kit/close-when-idle.ts'
import { keepAccepting } from '../../src/core/kit/keep-accepting.ts'
import { Lifetime } from '../../src/core/kit/lifetime.ts'
import type { Log } from '../../src/core/kit/log.ts'
import { TokenBucket } from '../../src/core/kit/token-bucket.ts'
import { ASK, decodeQuestion, encodeAnswer, QUESTION_BYTES, type Question } from './wire/observation.ts'
import { unmapped } from '../../src/core/kit/host-port.ts'
import { background } from '../../src/core/kit/background.ts'

export interface ObserverOptions {
  host: string
  /** The first of the two ports; any two when they are taken, or when it is 0. */
  port: number
  /** A connection that has not asked by then, or does not read the answer, is cut. */
  questionMs?: number
}

/** Questions of one node: one discovery of its NAT, in both address families, takes about twenty. */
const PER_SECOND = 5
const BURST = 30
/** Connections at the same time, each for one question; for one more, the oldest of the busiest source is cut. */
const MAX_CONNECTIONS = 256
/** Counted from the connection on, so that single bytes do not extend it. */
const QUESTION_MS = 5_000
/** Whether a node can be reached from another port: one SYN, and the one that the system sends after a second. */
const REACH_MS = 1_500

/**
 * Answers at which address it sees a node, on two TCP ports and on the UDP ports of the same numbers (wire/observation.ts): where
 * the two answers differ, the node's NAT maps each peer differently. Answers only nodes that listen at the relay now.
 */
export class Observer implements AsyncDisposable {
  readonly #cookies = new Map<string, TokenBucket>()
  readonly #life: Lifetime
  readonly #questionMs: number
  readonly #connections = new Set<Socket>()
  readonly #admission = new Admission({ most: MAX_CONNECTIONS })
  #udp: readonly UdpSocket[] = []
  /** Nobody has sent to this port: what it sends shows which NATs let other ports in. */
  #third: UdpSocket | undefined
  #ports: [number, number] = [0, 0]

  private constructor(life: Lifetime, questionMs: number) {
    this.#life = life
    this.#questionMs = questionMs
  }

  /** @throws MeshError LISTEN_FAILED */
  static start({ host, port, questionMs = QUESTION_MS }: ObserverOptions, log: Log): Promise<Observer> {
    return Lifetime.open(async (life) => {
      const observer = new Observer(life, questionMs)
      await observer.#open(host, port).catch(() => observer.#open(host, 0))
      for (const socket of observer.#udp) socket.on('error', (error) => log.warn('an observer port failed', { error }))
      return observer
    })
  }

  get ports(): readonly [number, number] {
    return this.#ports
  }

  /** What a node needs for its questions; valid until `forget`. */
  admit(): { ports: [number, number]; cookie: string } {
    const cookie = randomBytes(16).toString('hex')
    this.#cookies.set(cookie, new TokenBucket({ perSecond: PER_SECOND, burst: BURST }))
    return { ports: this.#ports, cookie }
  }

  forget(cookie: string): void {
    this.#cookies.delete(cookie)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#connections) socket.destroy()
    await this.#life.close()
  }

  async #open(host: string, port: number): Promise<void> {
    const opened = new Lifetime()
    try {
      const ports: number[] = []
      const sockets: UdpSocket[] = []
      for (const wanted of port === 0 ? [0, 0] : [port, port + 1]) {
        const server = opened.use(await this.#listen(host, wanted))
        ports.push(server.port)
        sockets.push(opened.use(await this.#bind(host, server.port)).socket)
      }
      this.#third = opened.use(await this.#bind(host, 0)).socket
      this.#ports = ports as [number, number]
      this.#udp = [...sockets, this.#third]
      this.#life.use(opened)
    } catch (error) {
      await opened.close()
      throw error
    }
  }

  #listen(host: string, port: number): Promise<{ port: number } & AsyncDisposable> {
    return new Promise((resolve, reject) => {
      const server: Server = createServer({ noDelay: true }, (socket) => this.#take(socket))
      server.once('error', (cause) => reject(new MeshError('LISTEN_FAILED', { address: `${host}:${port}` }, { cause })))
      server.listen(port, host, () => {
        keepAccepting(server)
        resolve({
          port: (server.address() as AddressInfo).port,
          [Symbol.asyncDispose]: () => closeWhenIdle([server], 'connection'),
        })
      })
    })
  }

  #bind(host: string, port: number): Promise<{ socket: UdpSocket } & AsyncDisposable> {
    return new Promise((resolve, reject) => {
      const socket = createSocket({ type: host.includes(':') ? 'udp6' : 'udp4' })
      socket.once('error', (cause) => {
        socket.close()
        reject(new MeshError('LISTEN_FAILED', { address: `${host}:${port}/udp` }, { cause }))
      })
      socket.on('message', (bytes, from) => this.#answer(socket, bytes, from))
      socket.bind({ address: host, port, exclusive: true }, () => {
        socket.removeAllListeners('error')
        keepAccepting(socket)
        resolve({
          socket,
          [Symbol.asyncDispose]: () => new Promise<void>((closed) => socket.close(() => closed())),
        })
      })
    })
  }

  /** One datagram for one datagram, and no longer than it (SEC-22). */
  #answer(socket: UdpSocket, bytes: Buffer, { address, port }: RemoteInfo): void {
    const question = this.#questionIn(bytes)
    if (question === undefined) return
    const from = question.ask === ASK.elsewhere ? this.#third : socket
    from?.send(
      encodeAnswer({ host: address, port, token: question.token, heard: undefined }),
      port,
      address,
      () => undefined,
    )
  }

  #take(socket: Socket): void {
    this.#admission.enter(socket, sourceOf(socket))
    this.#connections.add(socket)
    socket.on('error', () => socket.destroy())
    const late = setTimeout(() => socket.destroy(), this.#questionMs)
    socket.once('close', () => {
      clearTimeout(late)
      this.#connections.delete(socket)
    })
    let got = Buffer.alloc(0)
    socket.on('data', (chunk) => {
      got = Buffer.concat([got, chunk.subarray(0, QUESTION_BYTES - got.length)])
      if (got.length < QUESTION_BYTES) return
      socket.pause()
      void background.run('answer to an observer question', () => this.#reply(socket, this.#questionIn(got)))
    })
  }

  async #reply(socket: Socket, question: Question | undefined): Promise<void> {
    const { remoteAddress: host, remotePort: port } = socket
    if (question === undefined || host === undefined || port === undefined) return void socket.destroy()
    const heard = question.ask === ASK.elsewhere ? await isReached(host, port) : undefined
    socket.end(encodeAnswer({ host, port, token: question.token, heard }))
  }

  #questionIn(bytes: Buffer): Question | undefined {
    const question = decodeQuestion(bytes)
    if (question === undefined) return undefined
    return this.#cookies.get(question.cookie)?.tryTake() === true ? question : undefined
  }
}

/** The observer's ports are the relay's port + 100 and + 101, if they are free; a firewall in front must let them in. */
const OFFSET = 100

/** Starts the observer that belongs to a relay at that address. @throws MeshError LISTEN_FAILED */
export async function startObserver(
  relay: { announce(observer: Observer): void },
  { host, port }: ObserverOptions,
  log: Log,
): Promise<Observer> {
  const { address } = await lookup(host)
  const observer = await Observer.start({ host: address, port: port === 0 || port > 65_000 ? 0 : port + OFFSET }, log)
  relay.announce(observer)
  return observer
}

/** Dials only the address that an open connection comes from, so that nobody can direct it at somebody else. */
function isReached(host: string, port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host: unmapped(host), port, autoSelectFamily: false })
    const late = setTimeout(() => over(false), REACH_MS)
    const over = (isReached: boolean) => {
      clearTimeout(late)
      socket.on('error', () => undefined).destroy()
      resolve(isReached)
    }
    socket.once('connect', () => over(true))
    socket.once('error', () => over(false))
  })
}
