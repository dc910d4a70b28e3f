import type { Socket } from 'node:net'
import { endGracefully } from '../../src/core/kit/end-gracefully.ts'
import type { Connect, Handshake } from './handshake.ts'

/** What becomes of a client's handshake. */
export interface ProxyClientOwner {
  received(bytes: number): void
  connect(request: Connect): void
  refused(reason: string): void
  /** Called once, in any case, with the bytes that were received. */
  ended(bytes: number): void
}

/** A connection to a proxy, until its request is complete. */
export class ProxyClient {
  readonly #socket: Socket
  readonly #handshake: Handshake
  readonly #owner: ProxyClientOwner
  readonly #timer: NodeJS.Timeout
  readonly #onData = (chunk: Buffer): void => this.#push(chunk)
  readonly #onEnd = (): void => this.destroy()
  readonly #onClose = (): void => this.#end()
  #bytes = 0
  #hasEnded = false

  constructor(socket: Socket, handshake: Handshake, limitMs: number, owner: ProxyClientOwner) {
    this.#socket = socket
    this.#handshake = handshake
    this.#owner = owner
    this.#timer = setTimeout(() => this.giveUp('the request was not complete in time'), limitMs)
    socket.on('data', this.#onData)
    socket.on('end', this.#onEnd)
    socket.on('close', this.#onClose)
  }

  /** Answers as the protocol allows, and ends the connection. */
  giveUp(reason: string): void {
    this.#refuse(this.#handshake.giveUp(reason))
  }

  destroy(): void {
    this.#socket.destroy()
  }

  #push(chunk: Buffer): void {
    const next = this.#handshake.push(chunk)
    if (next.kind === 'refuse') return this.#refuse(next)
    if (next.answer !== undefined) this.#socket.write(next.answer)
    if (next.kind === 'more') {
      this.#bytes += chunk.length
      this.#owner.received(chunk.length)
      return
    }
    if (next.kind === 'connect') this.#socket.pause()
    this.#end()
    if (next.kind === 'keep') return next.take(this.#socket)
    if (next.first.length > 0) this.#socket.unshift(next.first)
    this.#owner.connect(next)
  }

  #refuse({ answer, reason }: { answer: Buffer; reason: string }): void {
    this.#end()
    this.#owner.refused(reason)
    endGracefully(this.#socket, answer)
  }

  #end(): void {
    if (this.#hasEnded) return
    this.#hasEnded = true
    clearTimeout(this.#timer)
    this.#socket.removeListener('data', this.#onData)
    this.#socket.removeListener('end', this.#onEnd)
    this.#socket.removeListener('close', this.#onClose)
    this.#owner.ended(this.#bytes)
  }
}
