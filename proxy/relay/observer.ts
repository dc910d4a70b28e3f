import { randomBytes } from 'node:crypto'
import { createSocket, type RemoteInfo, type Socket as UdpSocket } from 'node:dgram'
import { lookup } from 'node:dns/promises'
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net'
import { MeshError } from '../../src/core/errors.ts'
import { closeWhenIdle } from '../../src/core/kit/close-when-idle.ts'
import { Lifetime } from '../../src/core/kit/lifetime.ts'
import type { Log } from '../../src/core/kit/log.ts'
import { TokenBucket } from '../../src/core/kit/token-bucket.ts'
import { ASK, decodeQuestion, encodeAnswer, QUESTION_BYTES, type Question } from './wire/observation.ts'
import { unmapped } from '../../src/core/kit/host-port.ts'
import { background } from '../../src/core/kit/background.ts'

export interface ObserverOptions {
  host: string
  /** Of the two ports; any others when they are taken, or 0. */
  port: number
  /** A connection that has not asked by then, or does not take the answer, is cut. */
  questionMs?: number
}

/** Questions of one node: a look at its network, by both families, takes some twenty. */
const PER_SECOND = 5
const AT_ONCE = 30
/** Connections at once, each for one question; one more, and the one that takes longest is cut off. */
const MAX_CONNECTIONS = 256
/** From the connection on: single bytes do not keep it. */
const QUESTION_MS = 5_000
/** Whether a node is reached from elsewhere: one SYN, and the one that the system sends after a second. */
const REACH_MS = 1_500

/**
 * Tells nodes where it sees them, on two ports for TCP and the same two for UDP (observation.ts): what they see different on
 * the two is what their NAT makes different for each peer. Answers only nodes that listen at the relay now.
 */
export class Observer implements AsyncDisposable {
  readonly #cookies = new Map<string, TokenBucket>()
  readonly #life: Lifetime
  readonly #questionMs: number
  readonly #connections = new Set<Socket>()
  #udp: readonly UdpSocket[] = []
  /** Nobody has written to it: what it sends comes through NATs that let strangers' ports in. */
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
      for (const socket of observer.#udp) socket.on('error', (error) => log.warn('the observer lost a port', { error }))
      return observer
    })
  }

  get ports(): readonly [number, number] {
    return this.#ports
  }

  /** What a node needs to ask; good until `forget`. */
  admit(): { ports: [number, number]; cookie: string } {
    const cookie = randomBytes(16).toString('hex')
    this.#cookies.set(cookie, new TokenBucket({ perSecond: PER_SECOND, burst: AT_ONCE }))
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
      server.listen(port, host, () =>
        resolve({
          port: (server.address() as AddressInfo).port,
          [Symbol.asyncDispose]: () => closeWhenIdle([server], 'connection'),
        }),
      )
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
        resolve({
          socket,
          [Symbol.asyncDispose]: () => new Promise<void>((closed) => socket.close(() => closed())),
        })
      })
    })
  }

  /** One datagram for one datagram, and no longer. */
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
    const [longest] = this.#connections
    if (this.#connections.size >= MAX_CONNECTIONS) longest?.destroy()
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
      void background.run('answer to an observer question', () => this.#tell(socket, this.#questionIn(got)))
    })
  }

  async #tell(socket: Socket, question: Question | undefined): Promise<void> {
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

/** Ports above the relay's own where its observer is, when they are free; a firewall before a relay should let them in. */
const ABOVE = 100

/** Starts the observer that belongs to a relay at that address. @throws MeshError LISTEN_FAILED */
export async function startObserver(
  relay: { announce(observer: Observer): void },
  { host, port }: ObserverOptions,
  log: Log,
): Promise<Observer> {
  const { address } = await lookup(host)
  const observer = await Observer.start({ host: address, port: port === 0 || port > 65_000 ? 0 : port + ABOVE }, log)
  relay.announce(observer)
  return observer
}

/** Only ever towards where an open connection comes from, so nobody can point it at somebody else. */
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
