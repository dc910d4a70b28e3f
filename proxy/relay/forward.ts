import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { giveBack, SLAB_BYTES, SlabWriter } from '../../src/core/kit/slab-writer.ts'
import { Inlet } from '../socket/inlet.ts'
import type { RateLimit } from './rate-limit.ts'

/*
 * One direction of a joined pair. The hot path, guarded by `npm run bench:relay` (processor seconds a gigabyte):
 *
 *     read ─▶ counted ─▶ gathered in a slab (kit/slab-writer.ts) ─▶ one write ─▶ written: the slab is free
 *      ▲                                                                           │
 *      └── while less than MOST_BYTES wait there, and the node is within its rate ◀┘
 *
 * A slab is free when its write is done, which is sooner than the other end has the bytes: TLS and `ws` copy or seal them.
 */

/** Waiting at one leg before nothing more is read for it. Smaller: reading stops and starts more; larger: slow nodes hold more. */
const MOST_BYTES = 4 * SLAB_BYTES
/** With this many slabs in use, each leg may have only one: many slow nodes together hold little more than this. */
const MANY_SLABS = 1_024
/** Less than this is copied out of its slab while it waits, so that a slow node does not hold whole slabs for a few bytes. */
const SMALL_BYTES = SLAB_BYTES / 2
/** Written at once when nothing else is gathered. */
const SHORT_BYTES = 4 * 1024

let slabsInUse = 0

export class Forward extends SlabWriter {
  readonly #inlet: Inlet
  readonly #to: Duplex
  readonly #rate: RateLimit
  readonly #onBytes: (bytes: number) => void
  /** Bytes handed to the leg and not written yet. */
  #waiting = 0
  #isReading = false

  /** `onBytes` is called with the length of each chunk. */
  constructor(from: Duplex, to: Duplex, rate: RateLimit, onBytes: (bytes: number) => void) {
    super()
    this.#to = to
    this.#rate = rate
    this.#onBytes = onBytes
    this.#inlet = new Inlet(from as Socket, (chunk) => this.#take(chunk)) // without a handle it takes 'data' events
    from.once('end', () => {
      this.flush()
      to.end()
    })
  }

  start(): void {
    this.#isReading = true
    this.#inlet.start()
  }

  /** For when its legs are gone. */
  stop(): void {
    this.#rate.forget(this.#resume)
    this.#isReading = true // so that nothing starts it again
    this.discard()
  }

  protected override emit(bytes: Buffer, slab: Buffer): void {
    if (bytes.length < SMALL_BYTES) {
      this.#write(Buffer.from(bytes), undefined)
      giveBack(slab)
    } else this.#write(bytes, slab)
  }

  /** False stops the reading until `#resume`. */
  #take(chunk: Buffer): boolean {
    this.#onBytes(chunk.length)
    if (this.isEmpty && chunk.length < SHORT_BYTES) this.#write(Buffer.from(chunk), undefined)
    else this.gather(chunk)
    const isWithinRate = this.#rate.spend(chunk.length)
    if (isWithinRate && this.#hasRoom) return true
    this.#isReading = false
    if (!isWithinRate) this.#rate.whenFree(this.#resume)
    return false
  }

  #write(bytes: Buffer, slab: Buffer | undefined): void {
    const { length } = bytes
    this.#waiting += length
    if (slab !== undefined) slabsInUse += 1
    this.#to.write(bytes, () => {
      this.#waiting -= length
      if (slab !== undefined) {
        slabsInUse -= 1
        giveBack(slab)
      }
      if (!this.#isReading) this.#resume()
    })
  }

  get #hasRoom(): boolean {
    return this.#waiting < (slabsInUse < MANY_SLABS ? MOST_BYTES : SLAB_BYTES)
  }

  readonly #resume = (): void => {
    if (this.#isReading) return
    if (!this.#rate.isFree) this.#rate.whenFree(this.#resume)
    else if (this.#waiting <= MOST_BYTES / 2 && this.#hasRoom) this.start()
  }
}
