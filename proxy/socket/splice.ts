import type { Socket } from 'node:net'
import { resetSocket } from './reset.ts'
import { Inlet } from './inlet.ts'
import { Outlet } from './outlet.ts'
import type { ByteStream, ByteStreamEvents } from '../tunnel/contract.ts'

/*
 * Two streams, back to back. On the caller's node a flow is a splice of the caller's socket (near) and a stream to the instance
 * (far); on the instance's node it is a splice of the tunnel's stream (near) and the instance's socket (far).
 *
 *        near.data ─▶ far.write ──true──▶ near.consumed at once
 *                              └─false─▶ held until far drains, then near.consumed      … and the same from far to near
 *        near.end  ─▶ far.end                 half-close is half-close
 *        near.reset ▶ far.reset               RST is RST
 *
 * The hot path of every byte: plain callbacks, no promise, no copy, nothing allocated for a chunk. Guarded by
 * `npm run bench -- --only "TCP stream"`.
 */

/** Judges the start of an answer, before any of it reaches the caller. */
export interface AnswerCheck {
  push(chunk: Buffer): AnswerVerdict
  /** The instance has ended before there was a verdict: the message for the caller. */
  end(): Buffer
}

export type AnswerVerdict =
  /** More bytes are needed. */
  | { kind: 'undecided' }
  | { kind: 'pass' }
  /** It passes, and the caller may send without limit from now on. */
  | { kind: 'tunnel' }
  /** The caller gets this message instead, and the flow ends. */
  | { kind: 'replace'; message: Buffer }

/** How a flow ended; `closed`: both sides sent all they had; `far-lost`: the far side cannot be reached any more. */
export type SpliceEnd = 'closed' | 'near-reset' | 'far-reset' | 'far-lost' | 'cut'

export class Splice {
  readonly near: SpliceSide
  readonly far: SpliceSide
  /** The first cause of the end; `closed` while nothing went wrong. */
  end: SpliceEnd = 'closed'

  /** `nearAllowance`: bytes that the near side may send. `answer` looks at what the far side sends first. */
  constructor(nearAllowance = Number.POSITIVE_INFINITY, answer?: AnswerCheck) {
    this.near = new SpliceSide(this, 'near-reset', nearAllowance)
    this.far = new SpliceSide(this, 'far-reset', Number.POSITIVE_INFINITY)
    this.near.other = this.far
    this.far.other = this.near
    this.far.check = answer
  }

  /** Ends both sides as RST does. */
  cut(): void {
    if (this.end !== 'closed') return
    this.end = 'cut'
    this.near.stream?.reset()
    this.far.stream?.reset()
  }
}

/** One side of a splice: takes what its own stream reports and passes it to the other side's stream. */
export class SpliceSide implements ByteStreamEvents {
  /** Set before the stream can report anything. */
  stream: ByteStream | undefined
  other!: SpliceSide
  /** Looks at what comes first; `undefined` once it has decided. */
  check: AnswerCheck | undefined
  /** Passed on from this side to the other. */
  bytes = 0
  readonly #splice: Splice
  readonly #resetMeans: SpliceEnd
  #allowance: number
  #start: Buffer | undefined
  #held = 0
  #ended = false

  constructor(splice: Splice, resetMeans: SpliceEnd, allowance: number) {
    this.#splice = splice
    this.#resetMeans = resetMeans
    this.#allowance = allowance
  }

  data(chunk: Buffer): void {
    const { stream, other } = this
    if (stream === undefined || other.stream === undefined) return
    if (this.check !== undefined) return this.#judge(chunk, this.check)
    if (this.bytes + chunk.length > this.#allowance) return this.#overrun(chunk)
    this.bytes += chunk.length
    if (other.stream.write(chunk)) stream.consumed(chunk.length)
    else this.#held += chunk.length
  }

  end(): void {
    if (this.#ended) return
    if (this.check !== undefined) return this.#replace(this.check.end())
    this.#ended = true
    this.other.stream?.end()
  }

  reset(because?: 'lost'): void {
    if (this.#splice.end !== 'closed') return
    this.#splice.end = because === 'lost' && this.#resetMeans === 'far-reset' ? 'far-lost' : this.#resetMeans
    this.other.stream?.reset()
  }

  /** This side has room again: the other side gets the credit that was held back. */
  drain(): void {
    this.other.release()
  }

  release(): void {
    const bytes = this.#held
    if (bytes === 0) return
    this.#held = 0
    this.stream?.consumed(bytes)
  }

  #judge(chunk: Buffer, check: AnswerCheck): void {
    this.#start = this.#start === undefined ? Buffer.from(chunk) : Buffer.concat([this.#start, chunk])
    const verdict = check.push(chunk)
    if (verdict.kind === 'undecided') return this.stream?.consumed(chunk.length) // a few bytes, which are kept
    const earlier = this.#start.length - chunk.length
    const start = this.#start
    this.check = undefined
    this.#start = undefined
    if (verdict.kind === 'replace') return this.#replace(verdict.message)
    if (verdict.kind === 'tunnel') this.other.#allowance = Number.POSITIVE_INFINITY
    if (earlier > 0) this.other.stream?.write(start.subarray(0, earlier))
    this.bytes += earlier
    this.data(chunk)
  }

  /** The other side gets this message instead of the answer; what it still sends is dropped. */
  #replace(message: Buffer): void {
    this.check = undefined
    this.#ended = true
    this.#splice.end = this.#resetMeans
    this.other.#allowance = this.other.bytes
    this.other.stream?.write(message)
    this.other.stream?.end()
    this.stream?.reset()
  }

  /** Bytes beyond the allowance are dropped and end this side; the answer still arrives. */
  #overrun(chunk: Buffer): void {
    const allowed = this.#allowance - this.bytes
    if (allowed > 0) {
      const part = chunk.subarray(0, allowed)
      this.bytes += allowed
      this.other.stream?.write(part)
    }
    this.stream?.consumed(chunk.length)
    this.end()
  }
}

/**
 * A socket as a ByteStream. It reads nothing until `start()`, and never more than one chunk ahead of `consumed`. The
 * socket must be `allowHalfOpen`.
 */
export class SocketStream implements ByteStream {
  readonly #socket: Socket
  readonly #inlet: Inlet
  readonly #outlet: Outlet
  readonly #events: ByteStreamEvents
  #unconsumed = 0
  #isReset = false
  #hasEnded = false

  constructor(socket: Socket, events: ByteStreamEvents) {
    this.#socket = socket
    this.#events = events
    this.#inlet = new Inlet(socket, (chunk) => this.#data(chunk))
    this.#outlet = new Outlet(socket)
    socket.on('end', () => {
      this.#hasEnded = true
      if (!this.#isReset) events.end()
    })
    socket.on('drain', () => events.drain())
    socket.on('error', ignore) // `close` follows and is what counts
    socket.on('close', () => {
      if (!this.#isReset && !(this.#hasEnded && socket.writableFinished)) events.reset()
    })
  }

  start(): void {
    this.#inlet.start()
  }

  write(chunk: Buffer): boolean {
    return this.#outlet.write(chunk)
  }

  end(): void {
    this.#outlet.flush()
    this.#socket.end()
  }

  consumed(bytes: number): void {
    this.#unconsumed -= bytes
    if (this.#unconsumed <= 0) this.#inlet.start()
  }

  reset(): void {
    if (this.#isReset) return
    this.#isReset = true
    resetSocket(this.#socket)
  }

  #data(chunk: Buffer): boolean {
    this.#unconsumed += chunk.length
    this.#events.data(chunk)
    return this.#unconsumed <= 0
  }
}

function ignore(): void {
  // nothing to do
}

/** A socket to an instance of this node as a ByteStream: the far side on the path `local`. */
export function localStream(socket: Socket, events: ByteStreamEvents): SocketStream {
  const stream = new SocketStream(socket, events)
  stream.start()
  return stream
}
