import type { Socket } from 'node:dgram'
import { lookup } from 'node:dns'
import { isIP } from 'node:net'
import { ownListeners } from '../../src/core/kit/own-listeners.ts'
import { type DialOptions, type Endpoint, isLinkLocal, NO_LOCAL_ADDRESS, REFUSAL_OF } from './dial.ts'
import type { DatagramStream, DatagramStreamEvents, Refusal } from '../tunnel/contract.ts'
import { maySend, RECEIVE_BYTES, udpSocket } from './udp-socket.ts'

export interface OpenEvents {
  opened(socket: Socket): void
  failed(refusal: Refusal, reason: string): void
}

/**
 * Opens a connected socket to an instance, for one flow alone, so that no two clients can be confused. Reports one outcome,
 * not before it returns, unless the returned function (give up) is called before. `opened` means that datagrams can be sent
 * there, not that a program listens: only an ICMP error tells that none does.
 */
export function openInstanceSocket(endpoint: Endpoint, options: DialOptions, events: OpenEvents): () => void {
  const dial = new UdpDial(endpoint, options, events)
  dial.start()
  return () => dial.abandon()
}

class UdpDial {
  readonly #endpoint: Endpoint
  readonly #options: DialOptions
  readonly #events: OpenEvents
  #socket: Socket | undefined
  #timer: NodeJS.Timeout | undefined
  #isSettled = false

  constructor(endpoint: Endpoint, options: DialOptions, events: OpenEvents) {
    this.#endpoint = endpoint
    this.#options = options
    this.#events = events
  }

  start(): void {
    const { host } = this.#endpoint
    const { timeoutMs } = this.#options
    if (isIP(host) !== 0) return queueMicrotask(() => this.#begin(host))
    this.#timer = setTimeout(() => this.#fail('timeout', `${host} was not found in ${timeoutMs} ms`), timeoutMs)
    lookup(host, (error, address) => {
      clearTimeout(this.#timer)
      if (error === null) this.#begin(address)
      else this.#failed(error)
    })
  }

  abandon(): void {
    if (this.#settle()) this.#socket?.close()
  }

  #begin(address: string): void {
    const { from } = this.#options
    const { seesVips = false } = this.#endpoint
    this.#open(address, from !== undefined && (seesVips || address.startsWith('127.')) ? from : undefined)
  }

  #open(address: string, from: string | undefined): void {
    const { port } = this.#endpoint
    if (this.#isSettled) return
    if (isLinkLocal(address) || this.#options.forbids?.(address, port, 'udp') === true)
      return this.#fail('not-here', `no flow may reach ${address}:${port}`)
    const socket = ownListeners.unlisted(() => udpSocket(address))
    this.#socket = socket
    socket.once('error', (error: NodeJS.ErrnoException) => {
      if (from === undefined || !NO_LOCAL_ADDRESS.has(error.code ?? '')) return this.#failed(error)
      socket.close()
      this.#open(address, undefined) // better an instance that does not see its caller's address than none
    })
    socket.once('connect', () => {
      if (!this.#settle()) return
      socket.removeAllListeners('error')
      this.#events.opened(socket)
    })
    if (from !== undefined) socket.bind({ address: from, port: 0, exclusive: true })
    if (this.#socket === socket && !this.#isSettled) socket.connect(port, address)
  }

  #failed({ code = '', message }: NodeJS.ErrnoException): void {
    this.#fail(REFUSAL_OF[code] ?? 'unreachable', code === '' ? message : code)
  }

  #fail(refusal: Refusal, reason: string): void {
    if (!this.#settle()) return
    this.#socket?.close()
    this.#events.failed(refusal, reason)
  }

  /** True the first time. */
  #settle(): boolean {
    const isFirst = !this.#isSettled
    this.#isSettled = true
    clearTimeout(this.#timer)
    return isFirst
  }
}

/** A connected socket as a DatagramStream: the far side of a UDP flow on the instance's node. */
export class InstanceSocket implements DatagramStream {
  readonly #socket: Socket
  readonly #events: DatagramStreamEvents
  #isClosed = false

  constructor(socket: Socket, events: DatagramStreamEvents) {
    this.#socket = socket
    this.#events = events
    socket.setRecvBufferSize(RECEIVE_BYTES)
    socket.on('message', (payload) => events.datagram(payload))
    socket.on('error', (error: NodeJS.ErrnoException) => this.#failed(error))
  }

  send(payload: Buffer): boolean {
    if (this.#isClosed || !maySend(this.#socket, payload.length)) return false
    this.#socket.send(Buffer.from(payload), this.#sent) // a copy: what the kernel does not take at once is kept
    return true
  }

  end(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#socket.close()
  }

  reset(): void {
    this.end()
  }

  /** Errors of one send, and ICMP errors of earlier ones: the system reports those to whichever call comes first. */
  readonly #sent = (error: NodeJS.ErrnoException | null): void => {
    if (error !== null) this.#failed(error)
  }

  #failed({ code = '' }: NodeJS.ErrnoException): void {
    if (this.#isClosed || !GONE.has(code)) return // other errors are about one datagram, which is lost
    this.end()
    this.#events.reset()
  }
}

/** Nothing listens there: another instance should be tried. */
const GONE: ReadonlySet<string> = new Set(['ECONNREFUSED', 'EHOSTUNREACH', 'ENETUNREACH', 'EHOSTDOWN', 'ENETDOWN'])
