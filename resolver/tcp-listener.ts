import { once } from 'node:events'
import { createServer, type Socket } from 'node:net'
import { closeWhenIdle } from '../src/core/kit/close-when-idle.ts'
import { Lifetime } from '../src/core/kit/lifetime.ts'
import { bindShared, type SharedAddress } from '../src/core/kit/bind-shared.ts'
import type { Server } from './resolv-conf.ts'
import { HEADER } from './numbers.ts'
import { QUERY_LIMIT } from './wire.ts'

/*
 *   length(2) · message · length(2) · message …          RFC 1035 §4.2.2; questions may be pipelined (RFC 7766 §6.2.1.1),
 *                                                        replies go out as they come, matched by id
 */

export interface TcpListenerOptions extends SharedAddress {
  /** At once; one more, and the one that has asked nothing for longest is cut off. */
  connections: number
  idleMs: number
}

export interface Serving {
  /** Whether this source may ask. */
  admits(address: string): boolean
  respond: Respond
}

type Respond = (packet: Buffer, from: Server) => Buffer | undefined | Promise<Buffer | undefined>

/** Questions of one connection that wait; until one is answered no more are read. */
const PIPELINE_LIMIT = 64
/** Replies that nobody reads. */
const UNREAD_BYTES = 256 * 1024

/** The TCP side of the resolver. */
export class TcpListener {
  readonly #life: Lifetime
  readonly #idleMs: number
  #serving: Serving | undefined

  /** @throws what `listen` reports. */
  static start(options: TcpListenerOptions): Promise<TcpListener> {
    return Lifetime.open(async (life) => {
      const server = createServer({ allowHalfOpen: true, noDelay: true })
      await new Promise<void>((resolve, reject) => {
        server.once('error', reject)
        server.listen(bindShared(options), () => {
          server.off('error', reject)
          resolve()
        })
      })
      server.on('error', () => undefined) // accepting failed (no descriptors): that client tries again
      /** Who has asked last is last: the first has said nothing for longest. */
      const open = new Set<Socket>()
      const listener = new TcpListener(options.idleMs, life)
      server.on('connection', (socket) => {
        const serving = listener.#serving
        if (serving === undefined || !serving.admits(socket.remoteAddress ?? '')) {
          socket.destroy()
          return
        }
        const [longest] = open
        if (open.size >= options.connections) longest?.destroy()
        open.add(socket)
        socket.once('close', () => open.delete(socket))
        const asked = () => {
          open.delete(socket)
          open.add(socket)
        }
        converse(socket, serving.respond, asked, listener.#idleMs)
      })
      life.defer(async () => {
        const closed = once(server, 'close')
        await closeWhenIdle([server], 'connection')
        for (const socket of open) socket.destroy()
        await closed
      })
      return listener
    })
  }

  private constructor(idleMs: number, life: Lifetime) {
    this.#idleMs = idleMs
    this.#life = life
  }

  /** Until then connections are ended at once. */
  serve(serving: Serving): void {
    this.#serving = serving
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }
}

function converse(socket: Socket, respond: Respond, asked: () => void, idleMs: number): void {
  const from = { address: socket.remoteAddress ?? '', port: socket.remotePort ?? 0 }
  let pending: Buffer = Buffer.alloc(0)
  let waiting = 0
  let hasEnded = false
  // Counts from the last whole question: single bytes do not keep a connection.
  const idle = setTimeout(() => socket.destroy(), idleMs)

  const send = (reply: Buffer | undefined) => {
    if (reply === undefined || socket.destroyed) return
    const framed = Buffer.allocUnsafe(reply.length + 2)
    framed.writeUInt16BE(reply.length, 0)
    reply.copy(framed, 2)
    socket.write(framed)
    if (socket.writableLength > UNREAD_BYTES) socket.destroy()
  }
  const answered = (reply: Buffer | undefined) => {
    waiting--
    send(reply)
    read()
  }
  const read = () => {
    while (waiting < PIPELINE_LIMIT && pending.length >= 2 && !socket.destroyed) {
      const end = 2 + pending.readUInt16BE(0)
      // No question is that short or that long; empty messages would also keep the connection for nothing.
      if (end < 2 + HEADER || end > 2 + QUERY_LIMIT) socket.destroy()
      if (pending.length < end || socket.destroyed) break
      const packet = pending.subarray(2, end)
      pending = pending.subarray(end)
      idle.refresh()
      asked()
      const reply = respond(packet, from)
      if (reply instanceof Promise) {
        waiting++
        void reply.then(answered)
      } else {
        send(reply)
      }
    }
    if (waiting >= PIPELINE_LIMIT) socket.pause()
    else if (socket.isPaused()) socket.resume()
    if (hasEnded && waiting === 0) socket.end()
  }

  socket.on('data', (chunk: Buffer) => {
    pending = pending.length === 0 ? chunk : Buffer.concat([pending, chunk])
    read()
  })
  socket.on('end', () => {
    hasEnded = true
    read()
  })
  socket.on('error', () => socket.destroy())
  socket.on('close', () => clearTimeout(idle))
}
