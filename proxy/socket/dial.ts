import { connect, isIP, isIPv4, type Socket } from 'node:net'
import { interfacesHere } from '../../src/core/kit/interfaces.ts'
import { OWN_PROXY_HEADER } from '../../src/core/kit/proxy-header.ts'
import type { Refusal } from '../tunnel/contract.ts'
import { unmapped } from '../../src/core/kit/host-port.ts'

/** Where an instance of this node listens. */
export interface Endpoint {
  host: string
  port: number
  /** The instance reads this header about its caller before the caller's first byte; absent: it gets none. */
  proxyProtocol?: 'v2'
  /** The VIPs of this node lead back from there, although it is no address of this machine (a container). */
  seesVips?: boolean
}

/** Whether it is one of these. */
export function isAmong(endpoint: Pick<Endpoint, 'host' | 'port'> | undefined, others: readonly Endpoint[]): boolean {
  return endpoint !== undefined && others.some(({ host, port }) => host === endpoint.host && port === endpoint.port)
}

export interface DialOptions {
  timeoutMs: number
  /** The caller's own VIP, so that the instance sees who calls; used where the instance answers to this machine only. */
  from?: string | undefined
  /** The PROXY header with the caller; used only for an endpoint that asks for it. */
  introduce?: ((localPort: number) => Buffer) | undefined
  /** Addresses no flow may reach, the agent's own ports above all (SEC-23). */
  forbids?: ((address: string, port: number, protocol: 'tcp' | 'udp') => boolean) | undefined
}

export interface DialEvents {
  connected(socket: Socket): void
  failed(refusal: Refusal, reason: string): void
}

/** Connects to an instance; reports exactly one outcome, unless the returned function (give up) is called before. */
export function dialInstance(endpoint: Endpoint, options: DialOptions, events: DialEvents): () => void {
  const dial = new TcpDial(endpoint, options, events)
  dial.start()
  return () => dial.abandon()
}

class TcpDial {
  readonly #endpoint: Endpoint
  readonly #options: DialOptions
  readonly #events: DialEvents
  #socket: Socket | undefined
  #timer: NodeJS.Timeout | undefined
  /** The local address of the connection that is being made. */
  #from: string | undefined

  constructor(endpoint: Endpoint, options: DialOptions, events: DialEvents) {
    this.#endpoint = endpoint
    this.#options = options
    this.#events = events
  }

  start(): void {
    const { host, port, seesVips = false } = this.#endpoint
    const { from, timeoutMs } = this.#options
    if (isIP(host) !== 0 && this.#isForbidden(host)) {
      queueMicrotask(() => this.#events.failed('not-here', `no flow may reach ${host}:${port}`))
      return
    }
    const late = (): void => this.#fail('timeout', `no answer from ${host}:${port} in ${timeoutMs} ms`)
    this.#timer = setTimeout(late, timeoutMs)
    this.#connect(from !== undefined && isIPv4(host) && (seesVips || isThisMachine(host)) ? from : undefined)
  }

  abandon(): void {
    this.#settle()
    this.#socket?.destroy()
  }

  #connect(from: string | undefined): void {
    const { host, port } = this.#endpoint
    const local = from === undefined ? {} : { localAddress: from }
    this.#from = from
    this.#socket = connect({ host, port, allowHalfOpen: true, noDelay: true, ...local })
    this.#socket.on('connect', this.#onConnect)
    this.#socket.on('error', this.#onError)
  }

  readonly #onConnect = (): void => {
    const socket = this.#socket as Socket
    const { host, port, proxyProtocol } = this.#endpoint
    // The name may have led anywhere: only now is it known where.
    const address = isSure(host) ? host : (socket.remoteAddress ?? '')
    if (address !== host && this.#isForbidden(address))
      return this.#fail('not-here', `no flow may reach ${address}:${port}`)
    this.#settle()
    socket.pause()
    if (proxyProtocol !== undefined) {
      socket.write(this.#options.introduce?.(socket.localPort ?? 0) ?? OWN_PROXY_HEADER)
    }
    this.#events.connected(socket)
  }

  readonly #onError = (error: NodeJS.ErrnoException): void => {
    if (this.#mayRetry(error)) return
    this.#fail(REFUSAL_OF[error.code ?? ''] ?? 'unreachable', error.code ?? error.message)
  }

  /**
   * An instance that does not see its caller's address is better than none: without a free port there, dials again from the
   * plain address. That one is bound too, since the system gives connections without an address of their own no port that
   * is bound to any other.
   */
  #mayRetry({ code }: NodeJS.ErrnoException): boolean {
    const { host, seesVips = false } = this.#endpoint
    const plain = seesVips ? undefined : host.startsWith('127.') ? '127.0.0.1' : host
    if (this.#from === undefined || this.#from === plain || !NO_LOCAL_ADDRESS.has(code ?? '')) return false
    this.#leaveSocket()
    this.#socket?.destroy()
    this.#connect(plain)
    return true
  }

  #fail(refusal: Refusal, reason: string): void {
    this.#settle()
    this.#socket?.destroy()
    this.#events.failed(refusal, reason)
  }

  #settle(): void {
    clearTimeout(this.#timer)
    this.#leaveSocket()
  }

  /** The socket keeps nothing of this dial from here on. */
  #leaveSocket(): void {
    this.#socket?.removeListener('connect', this.#onConnect)
    this.#socket?.removeListener('error', this.#onError)
    this.#socket?.on('error', ignore)
  }

  #isForbidden(address: string): boolean {
    return isLinkLocal(address) || this.#options.forbids?.(address, this.#endpoint.port, 'tcp') === true
  }
}

/** A connection to it leads there: nobody needs to ask the system where. 0.0.0.0 leads to this machine, and IPv6 has many spellings. */
function isSure(host: string): boolean {
  return isIPv4(host) && !host.startsWith('0.')
}

/** The caller's address is not ours after all, or has no port left. */
export const NO_LOCAL_ADDRESS: ReadonlySet<string> = new Set(['EADDRNOTAVAIL', 'EADDRINUSE'])

/** A function of its own: it stays with the socket, and a closure would keep the dial. */
function ignore(): void {
  // 'close' follows and is what counts
}

/** What the system's errors mean; all others (EHOSTUNREACH, ENETUNREACH, …): unreachable. */
export const REFUSAL_OF: Readonly<Record<string, Refusal>> = {
  ECONNREFUSED: 'refused',
  ECONNRESET: 'refused',
  ETIMEDOUT: 'timeout',
  EMFILE: 'overloaded',
  ENFILE: 'overloaded',
}

/** 169.254.0.0/16 (cloud metadata) and fe80::/10. */
export function isLinkLocal(address: string): boolean {
  const plain = unmapped(address.toLowerCase())
  return plain.startsWith('169.254.') || /^fe[89ab][0-9a-f]:/.test(plain)
}

/** How long the list of interfaces is kept; reading it costs some 50 µs. Larger: a new address is noticed later. */
const INTERFACES_KEPT_MS = 1_000

let own = new Set<string>()
let until = 0

/** An address that ends on this machine: loopback, or one of an interface. */
export function isThisMachine(address: string): boolean {
  if (/^(?:127\.|::1$|0\.0\.0\.0$|::$|::ffff:127\.)/.test(address)) return true
  const now = performance.now()
  if (now >= until) {
    own = new Set(Object.values(interfacesHere()).flatMap((found = []) => found.map(({ address }) => address)))
    until = now + INTERFACES_KEPT_MS
  }
  return own.has(address)
}
