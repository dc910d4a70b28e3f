import type { Server, Socket } from 'node:net'
import { sourceOf } from './admission.ts'
import { ignore } from './ignore.ts'
import { TokenBucket } from './token-bucket.ts'

/*
 * Connections enter a TLS server at a rate: each handshake takes about a millisecond of the one thread that also carries bytes,
 * and after a restart all clients come at once.
 *
 *     connection ─▶ waits for the client's first bytes: a silent one costs no handshake (and see kit/admission.ts)
 *                ─▶ enters at once, while the rate allows
 *                └▶ waits in the queue of its source ─▶ sources take turns, so that one that floods waits for itself
 *
 * A waiting connection costs a descriptor and its first bytes, which TLS reads when it enters.
 */

export interface HandshakeRateOptions {
  /** Handshakes. Smaller: it takes longer until all clients are back after a restart; larger: less time for the others. */
  perSecond: number
  /** How long a client has for its first byte. */
  silentMs?: number
  /** How long a client waits in a queue: one that has waited longer has given up. */
  waitMs?: number
}

/** Limits the rate at which connections enter a server's TLS. */
export function limitHandshakes(server: Server, options: HandshakeRateOptions): void {
  const [startTls] = server.listeners('connection') as ((socket: Socket) => void)[]
  if (startTls === undefined) throw new Error('the server takes no connections')
  const { silentMs = 5_000 } = options
  const queue = new HandshakeQueue(options, (socket) => startTls.call(server, socket))
  server.off('connection', startTls)
  server.prependListener('connection', (socket: Socket) => whenReadable(socket, silentMs, () => queue.join(socket)))
  server.on('close', () => queue.close())
}

/** Calls `act` when the first bytes are there, which stay in the socket; a socket without any is closed. */
function whenReadable(socket: Socket, silentMs: number, act: () => void): void {
  const end = () => socket.destroy()
  const timer = setTimeout(end, silentMs)
  const readable = () => {
    clearTimeout(timer)
    socket.off('error', end).off('readable', readable)
    if (socket.readableLength === 0) return end() // the client has ended without a byte
    act()
  }
  socket.on('error', end).on('readable', readable)
  socket.once('close', () => clearTimeout(timer))
}

interface Waiting {
  socket: Socket
  onClose: () => void
  until: number
}

class HandshakeQueue {
  readonly #enter: (socket: Socket) => void
  readonly #bucket: TokenBucket
  readonly #waitMs: number
  /** By source, in the order of their turns. */
  readonly #queues = new Map<string, Set<Waiting>>()
  #waiting = 0
  #timer: NodeJS.Timeout | undefined

  constructor({ perSecond, waitMs = 5_000 }: HandshakeRateOptions, enter: (socket: Socket) => void) {
    this.#enter = enter
    this.#bucket = new TokenBucket({ perSecond, burst: Math.max(1, perSecond / 8) })
    this.#waitMs = waitMs
  }

  join(socket: Socket): void {
    if (this.#waiting === 0 && this.#bucket.waitMs === 0) {
      this.#bucket.take(1)
      return this.#enter(socket)
    }
    const source = sourceOf(socket)
    const queue = this.#queues.get(source) ?? new Set()
    this.#queues.set(source, queue)
    const onClose = () => this.#leave(source, waiting)
    const waiting: Waiting = { socket, onClose, until: performance.now() + this.#waitMs }
    queue.add(waiting)
    this.#waiting += 1
    socket.on('error', ignore).once('close', onClose)
    this.#timer ??= setTimeout(() => this.#next(), this.#bucket.waitMs)
  }

  close(): void {
    clearTimeout(this.#timer)
    for (const queue of this.#queues.values()) for (const { socket } of queue) socket.destroy()
  }

  #next(): void {
    this.#timer = undefined
    while (this.#waiting > 0 && this.#bucket.waitMs === 0) {
      const [source, queue] = this.#queues.entries().next().value as [string, Set<Waiting>]
      const [waiting] = [...queue.values().take(1)] as [Waiting]
      this.#leave(source, waiting)
      this.#queues.delete(source)
      if (queue.size > 0) this.#queues.set(source, queue) // at the end: the other sources first
      if (waiting.until < performance.now()) {
        waiting.socket.destroy()
        continue
      }
      this.#bucket.take(1)
      this.#enter(waiting.socket)
    }
    if (this.#waiting > 0) this.#timer = setTimeout(() => this.#next(), Math.max(1, this.#bucket.waitMs))
  }

  #leave(source: string, waiting: Waiting): void {
    const queue = this.#queues.get(source)
    if (queue?.delete(waiting) !== true) return
    this.#waiting -= 1
    waiting.socket.off('close', waiting.onClose).off('error', ignore)
    if (queue.size === 0) this.#queues.delete(source)
  }
}
