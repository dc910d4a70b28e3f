import { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { TLSSocket } from 'node:tls'
import { afterRead, read } from '../../socket/after-read.ts'
import { Inlet } from '../../socket/inlet.ts'
import type { Carrier } from './carrier.ts'
import { frameInvalid } from '../wire/frame.ts'

/**
 * Written to the socket and not yet flushed, per carrier: two frames of 64 KiB and some small ones. Larger: a keystroke waits for
 * longer behind a backup, and past 144 KiB Node makes two system calls. Smaller: more writes and turns per megabyte.
 */
const BATCH_BYTES = 132 * 1024
/** While writes are no larger than this, frames leave right after each chunk; above it everything of a turn leaves together. */
const CALM_FRAMES = 2
const CALM_BYTES = 16 * 1024
/** The last frames of a closing carrier may take this long to leave. */
const FINISH_MS = 1_000
/** Batches kept for the next write. There are never more than writes at the same time. */
const KEPT_BATCHES = 8
const batches: Buffer[] = []

/** What a carrier belongs to: the handshake that makes it, then its session. */
export interface CarrierOwner {
  /** Called once: the connection beneath the carrier has ended, whichever side ended it. */
  carrierLost(carrier: Carrier, reason: Error | undefined): void
}

/**
 * Connects a carrier to its socket: bytes in as they arrive, bytes out in one write per event-loop turn, one write at a time.
 *
 *            ┌─ little to do: after the chunk ─┐
 *     wake ─▶┤                                 ├▶ outbox.fill(batch) ─▶ socket.write(batch) ─flushed─▶ fill again, or rest
 *            └─ busy: at the end of the turn ──┘
 *
 * TLS encrypts what is written, so the batch is used again; any other stream, a Unix socket too, may keep it and gets a copy.
 */
export class Pump {
  readonly #carrier: Carrier
  readonly #stream: Duplex
  readonly #copies: boolean
  #owner: CarrierOwner
  #state: 'open' | 'finishing' | 'closed' = 'open'
  #isScheduled = false
  #isWriting = false
  readonly #readOn: () => void
  /** Ends the rest that the carrier takes from reading. */
  #resting: NodeJS.Timeout | undefined
  /** Calls of `wake` since the last write: frames and turns. */
  #waiting = 0
  #isCalm = true

  constructor(carrier: Carrier, stream: Duplex, owner: CarrierOwner) {
    this.#carrier = carrier
    this.#stream = stream
    this.#copies = stream instanceof TLSSocket
    this.#owner = owner
    carrier.wake = () => this.#wake()
    const take = (chunk: Buffer) => this.#receive(chunk)
    if (stream instanceof Socket) {
      const inlet = new Inlet(stream, take)
      this.#readOn = () => inlet.start()
      queueMicrotask(this.#readOn) // the caller is ready for frames by then
    } else {
      this.#readOn = () => stream.resume()
      stream.on('data', (chunk: Buffer) => {
        read(take, chunk)
        if (this.#resting !== undefined) stream.pause()
      })
    }
    stream.on('end', () => this.cut())
    stream.on('error', (error: Error) => this.cut(error))
    stream.on('close', () => this.cut())
    if (!carrier.outbox.isEmpty) this.#wake()
  }

  handOver(owner: CarrierOwner): void {
    this.#owner = owner
  }

  /** Sends what waits, then ends the connection. */
  finish(): void {
    if (this.#state !== 'open') return
    this.#state = 'finishing'
    setTimeout(() => this.cut(), FINISH_MS).unref()
    this.#wake()
  }

  /** Ends the connection now. */
  cut(reason?: Error): void {
    if (this.#state === 'closed') return
    this.#state = 'closed'
    clearTimeout(this.#resting)
    this.#carrier.stop()
    this.#carrier.wake = () => undefined
    this.#stream.destroy()
    this.#owner.carrierLost(this.#carrier, reason)
  }

  get #isClosed(): boolean {
    return this.#state === 'closed'
  }

  #receive(chunk: Buffer): boolean {
    if (this.#isClosed) return false
    try {
      this.#carrier.receive(chunk)
    } catch (error) {
      this.cut(error instanceof Error ? error : new Error(String(error)))
    }
    if (this.#isClosed) return false
    const restMs = this.#carrier.takeRest()
    if (restMs > 0) this.#rest(restMs)
    return this.#resting === undefined
  }

  #rest(ms: number): void {
    clearTimeout(this.#resting) // a stream that is paused may still hand over what it has
    this.#resting = setTimeout(() => {
      this.#resting = undefined
      this.#readOn()
    }, ms)
  }

  #wake(): void {
    this.#waiting += 1
    if (this.#isScheduled || (this.#isWriting && !this.#carrier.outbox.isOverfull)) return
    this.#isScheduled = true
    if (this.#isCalm) afterRead(this.#turn)
    else setImmediate(this.#turn)
  }

  readonly #turn = (): void => {
    this.#isScheduled = false
    if (this.#state === 'closed') return
    if (this.#carrier.outbox.isOverfull) return this.cut(frameInvalid('the peer does not read its answers'))
    if (!this.#isWriting) this.#flush()
  }

  #flush(): void {
    const batch = batches.pop() ?? Buffer.allocUnsafeSlow(BATCH_BYTES)
    const size = this.#carrier.outbox.fill(batch)
    if (size === 0) {
      reuse(batch)
      if (this.#state === 'finishing') this.#stream.end()
      return
    }
    this.#isCalm = this.#waiting <= CALM_FRAMES && size <= CALM_BYTES
    this.#waiting = 0
    const due = batch.subarray(0, size)
    this.#isWriting = true
    this.#carrier.bytesOut += size
    this.#stream.write(this.#copies ? due : Buffer.from(due), this.#flushed)
    if (this.#copies) reuse(batch)
  }

  readonly #flushed = (): void => {
    this.#isWriting = false
    if (this.#state !== 'closed' && (this.#state === 'finishing' || !this.#carrier.outbox.isEmpty)) this.#flush()
  }
}

function reuse(batch: Buffer): void {
  if (batches.length < KEPT_BATCHES) batches.push(batch)
}
