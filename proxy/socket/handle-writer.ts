import type { Socket } from 'node:net'
import { getSystemErrorName } from 'node:util'

/*
 * Writes to what is beneath a socket, its handle, without the stream in between: that costs each write some 4 µs (what a
 * WritableState remembers, a request, a tick, callbacks). libuv keeps the order, whoever writes.
 *
 *     write(bytes) ──▶ the kernel took all of it in the call ─▶ true
 *                  └─▶ it did not, or the handle is TLS       ─▶ false: the bytes are in use until `written`
 *
 * `process.binding('stream_wrap')` is how a request for a write is made. Where Node has it no longer, or the socket has no handle,
 * `of` finds nothing and `socket.write` does the same, slower. Guarded by `npm run bench -- --only 'requests|connections'`.
 */
interface WriteRequest {
  handle: Handle
  async: boolean
  oncomplete: (status: number) => void
}

interface Handle {
  /** A negative number is an error of libuv's. */
  writeBuffer(request: WriteRequest, bytes: Buffer): number
}

interface Binding {
  WriteWrap: new () => WriteRequest
  /** What the last write has said. */
  streamBaseState: ArrayLike<number>
  kLastWriteWasAsync: number
}

const binding = findBinding()
/** Whoever is written in the call leaves its request as new. */
let spare: WriteRequest | undefined

export class HandleWriter {
  readonly #socket: Socket
  readonly #handle: Handle
  readonly #binding: Binding
  readonly #written: () => void
  #isWriting = false

  private constructor(socket: Socket, handle: Handle, found: Binding, written: () => void) {
    this.#socket = socket
    this.#handle = handle
    this.#binding = found
    this.#written = written
  }

  /** `written`: what `write` has said false to is with the kernel, or the socket is closed; at the earliest in the next turn. */
  static of(socket: Socket, written: () => void): HandleWriter | undefined {
    const { _handle: handle } = socket as unknown as { _handle?: Partial<Handle> | null }
    if (binding === undefined || typeof handle?.writeBuffer !== 'function') return undefined
    return new HandleWriter(socket, handle as Handle, binding, written)
  }

  /** The last write is not done yet; `write` may not be called. */
  get isWriting(): boolean {
    return this.#isWriting
  }

  /** Whether nothing that was written to the stream waits in it, and more may be written. */
  get isFree(): boolean {
    const { writableLength, connecting, destroyed, writableEnded } = this.#socket
    return writableLength === 0 && !this.#isWriting && !connecting && !destroyed && !writableEnded
  }

  write(bytes: Buffer): boolean {
    const request = spare ?? new this.#binding.WriteWrap()
    spare = undefined
    request.handle = this.#handle
    request.async = true
    request.oncomplete = this.#complete
    const error = this.#handle.writeBuffer(request, bytes)
    if (error !== 0) {
      this.#socket.destroy(failure(error))
      return true
    }
    const { streamBaseState, kLastWriteWasAsync } = this.#binding
    if (streamBaseState[kLastWriteWasAsync] === 0) {
      spare = request
      return true
    }
    this.#isWriting = true
    return false
  }

  readonly #complete = (status: number): void => {
    this.#isWriting = false
    if (status !== 0 && !this.#socket.destroyed) this.#socket.destroy(failure(status))
    this.#written()
  }
}

function failure(status: number): Error {
  return new Error(`write ${getSystemErrorName(status)}`)
}

function findBinding(): Binding | undefined {
  try {
    const { binding: find } = process as unknown as { binding?: (name: string) => Partial<Binding> }
    const found = find?.call(process, 'stream_wrap')
    const isWhole =
      typeof found?.WriteWrap === 'function' &&
      found.streamBaseState !== undefined &&
      typeof found.kLastWriteWasAsync === 'number'
    return isWhole ? (found as Binding) : undefined
  } catch {
    return undefined // not this version of Node
  }
}
