import type { Socket } from 'node:dgram'
import { lookup } from 'node:dns'
import { isIP } from 'node:net'
import { type DialOptions, type Endpoint, isLinkLocal, REFUSAL_OF } from './dial.ts'
import type { DatagramStream, DatagramStreamEvents, Refusal } from '../tunnel/contract.ts'
import { maySend, RECEIVE_BYTES, udpSocket } from './udp-socket.ts'

export interface OpenTold {
  opened(socket: Socket): void
  failed(refusal: Refusal, reason: string): void
}

/**
 * Opens a connected socket to an instance, of one flow alone, so that no two clients can be confused. Tells one outcome, not
 * before it returns, unless the returned function (give up) comes first. `opened` says that datagrams can be sent there, not that a program
 * listens: only an ICMP error tells that it does not.
 */
export function openInstanceSocket(endpoint: Endpoint, options: DialOptions, told: OpenTold): () => void {
  const { host, port } = endpoint
  let isOver = false
  let socket: Socket | undefined
  const fail = (refusal: Refusal, reason: string): void => {
    if (isOver) return
    isOver = true
    socket?.close()
    told.failed(refusal, reason)
  }
  const failed = ({ code = '', message }: NodeJS.ErrnoException): void =>
    fail(REFUSAL_OF[code] ?? 'unreachable', code === '' ? message : code)
  const open = (address: string, from: string | undefined): void => {
    if (isOver) return
    if (isLinkLocal(address) || options.forbids?.(address, port) === true)
      return fail('not-here', `no flow may reach ${address}:${port}`)
    const opening = udpSocket(address)
    socket = opening
    opening.once('error', (error: NodeJS.ErrnoException) => {
      if (from === undefined || !COURTESY.has(error.code ?? '')) return failed(error)
      opening.close()
      open(address, undefined) // who calls is a courtesy, the call is not
    })
    opening.once('connect', () => {
      if (isOver) return
      isOver = true
      opening.removeAllListeners('error')
      told.opened(opening)
    })
    if (from !== undefined) opening.bind({ address: from, port: 0, exclusive: true })
    if (socket === opening && !isOver) opening.connect(port, address)
  }
  const begin = (address: string): void =>
    open(address, options.from !== undefined && address.startsWith('127.') ? options.from : undefined)
  if (isIP(host) !== 0) queueMicrotask(() => begin(host))
  else {
    const { timeoutMs } = options
    const timer = setTimeout(() => fail('timeout', `${host} was not found in ${timeoutMs} ms`), timeoutMs)
    lookup(host, (error, address) => {
      clearTimeout(timer)
      if (error === null) begin(address)
      else failed(error)
    })
  }
  return () => {
    if (isOver) return
    isOver = true
    socket?.close()
  }
}

/** The caller's address is not ours after all, or has no port left. */
const COURTESY: ReadonlySet<string> = new Set(['EADDRNOTAVAIL', 'EADDRINUSE'])

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

  /** Errors of one send, and ICMP errors of earlier ones, whichever call hears of them first. */
  readonly #sent = (error: NodeJS.ErrnoException | null): void => {
    if (error !== null) this.#failed(error)
  }

  #failed({ code = '' }: NodeJS.ErrnoException): void {
    if (this.#isClosed || !GONE.has(code)) return // the others are about one datagram, which is lost
    this.end()
    this.#events.reset()
  }
}

/** Nobody is there: another instance should be asked. */
const GONE: ReadonlySet<string> = new Set(['ECONNREFUSED', 'EHOSTUNREACH', 'ENETUNREACH', 'EHOSTDOWN', 'ENETDOWN'])
