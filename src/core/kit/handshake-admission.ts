import type { Server, Socket } from 'node:net'
import { TokenBucket } from './token-bucket.ts'

/*
 * Connections enter a TLS server at a rate: each handshake costs about a millisecond of the one thread that also carries
 * bytes, and everybody comes at once after a restart.
 *
 *     connection ─▶ at once, while the rate allows
 *                └▶ waits in the queue of its address ─▶ addresses take turns, so that one that floods waits for itself
 *                └▶ closed, when too many wait
 *
 * Who waits costs a descriptor and its first bytes; they are read when it enters.
 */

export interface TurnstileOptions {
  /** Handshakes. Smaller: longer until all are back after a restart; larger: less time left for those who are in. */
  perSecond: number
  /** Waiting, of all and of one address. */
  most?: number
  mostOfOne?: number
  /** Who has waited so long has given up. */
  patienceMs?: number
}

/** Puts a turnstile before a server's TLS. */
export function turnstile(server: Server, options: TurnstileOptions): void {
  const [secure] = server.listeners('connection') as ((socket: Socket) => void)[]
  if (secure === undefined) throw new Error('the server takes no connections')
  const line = new Line(options, (socket) => secure.call(server, socket))
  server.off('connection', secure)
  server.prependListener('connection', (socket: Socket) => line.join(socket))
  server.on('close', () => line.close())
}

class Line {
  readonly #enter: (socket: Socket) => void
  readonly #bucket: TokenBucket
  readonly #limits: Required<Omit<TurnstileOptions, 'perSecond'>>
  /** By address, in the order of their turns. */
  readonly #queues = new Map<string, Set<Waiting>>()
  #waiting = 0
  #timer: NodeJS.Timeout | undefined

  constructor(options: TurnstileOptions, enter: (socket: Socket) => void) {
    const { perSecond, most = 4_096, mostOfOne = 1_024, patienceMs = 5_000 } = options
    this.#enter = enter
    this.#bucket = new TokenBucket({ perSecond, burst: Math.max(1, perSecond / 8) })
    this.#limits = { most, mostOfOne, patienceMs }
  }

  join(socket: Socket): void {
    if (this.#waiting === 0 && this.#bucket.waitMs === 0) {
      this.#bucket.take(1)
      return this.#enter(socket)
    }
    const address = socket.remoteAddress ?? ''
    const queue = this.#queues.get(address) ?? new Set()
    if (this.#waiting >= this.#limits.most || queue.size >= this.#limits.mostOfOne) return void socket.destroy()
    this.#queues.set(address, queue)
    const left = () => this.#leave(address, waiting)
    const waiting: Waiting = { socket, left, until: performance.now() + this.#limits.patienceMs }
    queue.add(waiting)
    this.#waiting += 1
    socket.on('error', ignore).once('close', left)
    this.#timer ??= setTimeout(() => this.#next(), this.#bucket.waitMs)
  }

  close(): void {
    clearTimeout(this.#timer)
    for (const queue of this.#queues.values()) for (const { socket } of queue) socket.destroy()
  }

  #next(): void {
    this.#timer = undefined
    while (this.#waiting > 0 && this.#bucket.waitMs === 0) {
      const [address, queue] = this.#queues.entries().next().value as [string, Set<Waiting>]
      const [waiting] = [...queue.values().take(1)] as [Waiting]
      this.#leave(address, waiting)
      this.#queues.delete(address)
      if (queue.size > 0) this.#queues.set(address, queue) // at the end: the others first
      if (waiting.until < performance.now()) {
        waiting.socket.destroy()
        continue
      }
      this.#bucket.take(1)
      this.#enter(waiting.socket)
    }
    if (this.#waiting > 0) this.#timer = setTimeout(() => this.#next(), Math.max(1, this.#bucket.waitMs))
  }

  #leave(address: string, waiting: Waiting): void {
    const queue = this.#queues.get(address)
    if (queue?.delete(waiting) !== true) return
    this.#waiting -= 1
    waiting.socket.off('close', waiting.left).off('error', ignore)
    if (queue.size === 0) this.#queues.delete(address)
  }
}

interface Waiting {
  socket: Socket
  left: () => void
  until: number
}

function ignore(): void {
  // its end follows
}
