import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { Inlet } from '../socket/inlet.ts'
import type { RateLimit } from './rate-limit.ts'

/*
 * One direction of a joined pair. The hot path, guarded by `npm run bench:relay` (processor seconds a gigabyte):
 *
 *     read ─▶ counted ─▶ into a slab ──full, or the turn of the event loop is over──▶ one write ─▶ written: the slab is free
 *      ▲                                                                                            │
 *      └── while less than MOST_BYTES wait there, and the node is within its pace ◀─────────────────┘
 *
 * TLS hands over 16 KiB at a time. Written one by one they cost a system call, a callback and a WriteWrap each, and reading
 * stops and starts around every one of them; as they are, each is memory that only a full collection frees.
 *
 * A slab is free when its write is done, which is sooner than the other end has the bytes: TLS and `ws` copy or seal them.
 */

/** One write. Larger: fewer of them, colder caches. */
const SLAB_BYTES = 64 * 1024
/** Waiting at one leg before nothing more is read for it. Smaller: reading stops and starts more; larger: slow nodes hold more. */
const MOST_BYTES = 4 * SLAB_BYTES
/** With so many slabs under way, each leg has only one: many slow nodes together hold little more than this. */
const MANY_SLABS = 1_024
/** Free slabs kept for the next chunks. */
const KEPT_SLABS = 64
/** Less does not keep a whole slab while it waits. */
const SMALL_BYTES = SLAB_BYTES / 2
/** Written at once when nothing else is gathered. */
const SHORT_BYTES = 4 * 1024

const free: Buffer[] = []
let underWay = 0
let due: Forward[] = []

export class Forward {
  readonly #inlet: Inlet
  readonly #to: Duplex
  readonly #pace: RateLimit
  readonly #passed: (bytes: number) => void
  #slab: Buffer | undefined
  #fill = 0
  /** Handed to the leg, and not written yet. */
  #waiting = 0
  #isReading = false

  /** `passed` is told of each chunk. */
  constructor(from: Duplex, to: Duplex, pace: RateLimit, passed: (bytes: number) => void) {
    this.#to = to
    this.#pace = pace
    this.#passed = passed
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

  /** Its legs are gone. */
  stop(): void {
    this.#pace.forget(this.#goOn)
    this.#isReading = true // and nothing starts it again
    this.#giveSlab()
  }

  /** False stops the reading until `#goOn`. */
  #take(chunk: Buffer): boolean {
    this.#passed(chunk.length)
    if (this.#slab === undefined && chunk.length < SHORT_BYTES) this.#write(Buffer.from(chunk), undefined)
    else this.#gather(chunk)
    const isWithin = this.#pace.spend(chunk.length)
    if (isWithin && this.#hasRoom) return true
    this.#isReading = false
    if (!isWithin) this.#pace.whenFree(this.#goOn)
    return false
  }

  #gather(chunk: Buffer): void {
    for (let at = 0; at < chunk.length; ) {
      if (this.#slab === undefined) {
        this.#slab = free.pop() ?? Buffer.allocUnsafeSlow(SLAB_BYTES)
        if (due.push(this) === 1) setImmediate(flushAll)
      }
      const step = chunk.copy(this.#slab, this.#fill, at)
      this.#fill += step
      at += step
      if (this.#fill === SLAB_BYTES) this.flush()
    }
  }

  /** What was gathered leaves. */
  flush(): void {
    const slab = this.#slab
    if (slab === undefined) return
    const gathered = slab.subarray(0, this.#fill)
    const isSmall = this.#fill < SMALL_BYTES
    this.#slab = undefined
    this.#fill = 0
    if (isSmall) {
      this.#write(Buffer.from(gathered), undefined)
      give(slab)
    } else this.#write(gathered, slab)
  }

  #write(bytes: Buffer, slab: Buffer | undefined): void {
    const { length } = bytes
    this.#waiting += length
    if (slab !== undefined) underWay += 1
    this.#to.write(bytes, () => {
      this.#waiting -= length
      if (slab !== undefined) {
        underWay -= 1
        give(slab)
      }
      if (!this.#isReading) this.#goOn()
    })
  }

  get #hasRoom(): boolean {
    return this.#waiting < (underWay < MANY_SLABS ? MOST_BYTES : SLAB_BYTES)
  }

  readonly #goOn = (): void => {
    if (this.#isReading) return
    if (!this.#pace.isFree) this.#pace.whenFree(this.#goOn)
    else if (this.#waiting <= MOST_BYTES / 2 && this.#hasRoom) this.start()
  }

  #giveSlab(): void {
    if (this.#slab !== undefined) give(this.#slab)
    this.#slab = undefined
    this.#fill = 0
  }
}

function flushAll(): void {
  const forwards = due
  due = []
  for (const forward of forwards) forward.flush()
}

function give(slab: Buffer): void {
  if (free.length < KEPT_SLABS) free.push(slab)
}
