import type { Socket } from 'node:net'
import type { Caller, FlowReply } from '../flow/flow.ts'

/*
 * The handshake of a proxy connection, free of I/O: bytes in, what to do out.
 *
 *   more ──▶ more ──▶ … ──▶ connect   carry the connection to a name
 *                      └──▶ keep      the connection means something by itself (UDP ASSOCIATE)
 *                      └──▶ refuse    answer and end
 */

export interface Handshake {
  push(chunk: Buffer): HandshakeStep
  /** The answer to a client that has not completed its request in time, or must make room for others. */
  giveUp(reason: string): Refuse
}

export type HandshakeStep = { kind: 'more'; answer?: Buffer } | Refuse | Connect | Keep

export interface Refuse {
  kind: 'refuse'
  answer: Buffer
  /** For the log: what was wrong, and what to do. */
  reason: string
}

export interface Connect {
  kind: 'connect'
  answer?: Buffer
  caller: Caller
  host: string
  port: number
  /** To be carried first: what came after the request, or the rewritten request itself. */
  first: Buffer
  /** Bytes that the client may send; absent: no limit. */
  allowance?: number
  reply(socket: Socket): FlowReply
}

export interface Keep {
  kind: 'keep'
  answer?: Buffer
  take(socket: Socket): void
}

/** Bytes of a handshake, gathered without copying all of them again for each chunk. */
export class GrowingBuffer {
  #buffer: Buffer = Buffer.alloc(0)
  #length = 0

  append(chunk: Buffer): void {
    if (this.#length + chunk.length > this.#buffer.length) {
      const larger = Buffer.allocUnsafe(Math.max(1_024, 2 * (this.#length + chunk.length)))
      this.#buffer.copy(larger, 0, 0, this.#length)
      this.#buffer = larger
    }
    this.#length += chunk.copy(this.#buffer, this.#length)
  }

  /** Good until the next `append`. */
  get bytes(): Buffer {
    return this.#buffer.subarray(0, this.#length)
  }
}
