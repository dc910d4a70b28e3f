/*
 * Gathers chunks into slabs, so that many small writes become few large ones. The hot path of the socket outlet and of the relay,
 * guarded by `npm run bench` and `npm run bench:relay`.
 *
 *     chunk ──copy──▶ slab ──full, or the turn of the event loop is over──▶ emit(bytes, slab)
 *                       ▲                                                      │
 *                       └────────────── free slabs ◀──giveBack, when written───┘
 *
 * TLS hands over 16 KiB at a time. Written one by one they cost a system call, a callback and a WriteWrap each.
 */

/** One write. Larger: fewer system calls, colder caches. */
export const SLAB_BYTES = 64 * 1024
/** Free slabs kept for the next chunks; more are left to the collector. */
const KEPT_SLABS = 64
const free: Buffer[] = []
let due: SlabWriter[] = []

/** Returns a slab whose bytes are written; nobody may read it any longer. */
export function giveBack(slab: Buffer): void {
  if (free.length < KEPT_SLABS) free.push(slab)
}

export abstract class SlabWriter {
  #slab: Buffer | undefined
  #fill = 0

  /** Writes what was gathered, `bytes` being the filled part of `slab`; whoever implements it gives the slab back later. */
  protected abstract emit(bytes: Buffer, slab: Buffer): void

  /** A slab to use before a new one is allocated; for an owner that knows of one which is written by now. */
  protected reuse(): Buffer | undefined {
    return undefined
  }

  protected get isEmpty(): boolean {
    return this.#slab === undefined
  }

  /** Copies the chunk: it may be used again by its owner right after. */
  protected gather(chunk: Buffer): void {
    for (let at = 0; at < chunk.length; ) {
      const slab = (this.#slab ??= this.#open())
      const step = chunk.copy(slab, this.#fill, at)
      this.#fill += step
      at += step
      if (this.#fill === SLAB_BYTES) this.flush()
    }
  }

  /** Emits what was gathered, now. */
  flush(): void {
    const slab = this.#slab
    if (slab === undefined) return
    const bytes = slab.subarray(0, this.#fill)
    this.#slab = undefined
    this.#fill = 0
    this.emit(bytes, slab)
  }

  /** Drops what was gathered. */
  protected discard(): void {
    if (this.#slab !== undefined) giveBack(this.#slab)
    this.#slab = undefined
    this.#fill = 0
  }

  #open(): Buffer {
    if (due.push(this) === 1) setImmediate(flushAll)
    return free.pop() ?? this.reuse() ?? Buffer.allocUnsafeSlow(SLAB_BYTES)
  }
}

function flushAll(): void {
  const writers = due
  due = []
  for (const writer of writers) writer.flush()
}
