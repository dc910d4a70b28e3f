import { Socket } from 'node:net'
import { read } from './after-read.ts'

/*
 * Reads a socket into memory that is read into again.
 *
 * Node allocates 64 KiB for every read and hands it over: memory that only a full collection frees, so one stream spends a
 * third of its time collecting. `net.connect` takes `onread` against that; accepted sockets and TLS sockets have no such
 * option. The same three fields behind it exist on every socket, though, and are set here:
 *
 *     handle ──read──▶ buffer ──kBufferCb(bytes)──▶ take(view of the buffer) ──▶ and the next read overwrites it
 *
 * Where they are not found (another version of Node, a stream without a handle), 'data' events do the same, slower. Guarded by
 * `npm run bench -- --only 'TCP stream|requests'`.
 */

/**
 * One for all sockets, since `take` is done with a chunk when it returns. Larger: more bytes a system call, and less of
 * them still in the processor's cache when they are copied on.
 */
const READ_BYTES = 64 * 1024
let shared: Buffer | undefined

interface Handle {
  useUserBuffer(buffer: Buffer): void
}
type Inside = Record<symbol, unknown> & { _handle?: Handle | null }

/**
 * What a socket is made of, and one that is never closed. V8 decides how much room objects of a class have after the first seven, by
 * what it remembers of these; when they have all been collected, it gives sockets no room, and keeps the properties of each in a hash
 * table from then on, and every read and write looks them up there.
 */
const MODEL = modelOf(new Socket())

/** What a socket receives, chunk by chunk, started and stopped exactly: nothing is read ahead. */
export class Inlet {
  readonly #socket: Socket
  readonly #take: (chunk: Buffer) => boolean
  /** Reads go into the shared buffer. */
  readonly isDirect: boolean
  #isReading = false

  /**
   * A chunk is good only during `take`; after it returns false, nothing more comes until `start`. End, errors and close remain
   * events of the socket.
   */
  constructor(socket: Socket, take: (chunk: Buffer) => boolean) {
    this.#socket = socket
    this.#take = take
    this.isDirect = adopt(socket, (bytes, buffer) => this.#got(buffer.subarray(0, bytes)))
    socket.pause() // the handle of a socket that was read before goes on, and what it reads must not pass what is kept in the stream
    if (this.isDirect) return
    socket.on('data', (chunk: Buffer) => {
      if (!this.#got(chunk)) socket.pause()
    })
  }

  start(): void {
    if (this.#isReading) return
    this.#isReading = true
    const socket = this.#socket
    if (!this.isDirect) return void socket.resume()
    const early: Buffer | null = socket.readableLength > 0 ? socket.read() : null
    if (early === null || this.#got(early)) socket.read(0)
    else socket.pause() // `read` has started the handle
  }

  /** `take`, and what runs after it (after-read.ts), may call `start`. */
  #got(chunk: Buffer): boolean {
    read(this.#deliver, chunk)
    return this.#isReading
  }

  readonly #deliver = (chunk: Buffer): void => {
    this.#isReading = this.#take(chunk)
  }
}

/** Has the socket's handle read into the shared buffer from now on; false where that cannot be done. */
function adopt(socket: Socket, read: (bytes: number, buffer: Buffer) => boolean): boolean {
  const inside = socket as unknown as Inside
  const handle = inside._handle
  const { buffer, callback } = MODEL
  if (buffer === undefined || callback === undefined) return false
  if (typeof handle?.useUserBuffer !== 'function' || inside[buffer] !== null) return false
  shared ??= Buffer.allocUnsafeSlow(READ_BYTES)
  inside[buffer] = shared
  inside[callback] = read
  handle.useUserBuffer(shared)
  return true
}

function modelOf(socket: Socket) {
  const fields = Object.getOwnPropertySymbols(socket)
  const named = (name: string) => fields.find(({ description }) => description === name)
  return { socket, buffer: named('kBuffer'), callback: named('kBufferCb') }
}
