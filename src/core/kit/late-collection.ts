import type { Clock } from './clock.ts'
import type { Collection } from './collection.ts'

/*
 * A collection that is on disk a moment after it was written: for what a crash may cost, where thousands of writes in a row must not wait
 * for the disk.
 *
 *     put, delete ─▶ memory ─ nothing for QUIET_MS, or LATEST_MS passed ─▶ a slice in one transaction, the next SLICE_MS later …
 *                                                                          └▶ not taken (a full disk): again AGAIN_MS later
 */

export interface LateParts<T> {
  saved: Collection<T>
  /** All of it or nothing, on disk when it returns. */
  together: (work: () => void) => void
  clock: Clock
}

/** Smaller writes more often what changes again at once; larger loses more with a process that is killed. */
const QUIET_MS = 100
/** The same for what never rests. */
const LATEST_MS = 5_000
/** Writes in one transaction. Smaller syncs more often; larger holds up the event loop. */
const SLICE = 25
const SLICE_MS = 10
const AGAIN_MS = 5_000

export class LateCollection<T> implements Disposable {
  readonly #parts: LateParts<T>
  /** `undefined`: it is to be deleted. */
  readonly #late = new Map<string, T | undefined>()
  /** The oldest write that is not on disk, and the newest. */
  #since = 0
  #last = 0
  #cancel: (() => void) | undefined
  #isClosed = false

  constructor(parts: LateParts<T>) {
    this.#parts = parts
  }

  get(key: string): T | undefined {
    return this.#late.has(key) ? this.#late.get(key) : this.#parts.saved.get(key)
  }

  put(key: string, value: T): void {
    this.#write(key, value)
  }

  delete(key: string): void {
    this.#write(key, undefined)
  }

  /** What is late is written; nothing is from now on. */
  [Symbol.dispose](): void {
    this.#isClosed = true
    this.#cancel?.()
    while (this.#late.size > 0) if (!this.#saveSome()) return
  }

  #write(key: string, value: T | undefined): void {
    if (this.#isClosed) return
    this.#last = this.#parts.clock.now()
    if (this.#late.size === 0) this.#since = this.#last
    this.#late.set(key, value)
    if (this.#cancel === undefined) this.#after(QUIET_MS)
  }

  #after(ms: number): void {
    this.#cancel = this.#parts.clock.after(ms, () => this.#saveWhenQuiet())
  }

  #saveWhenQuiet(): void {
    this.#cancel = undefined
    const now = this.#parts.clock.now()
    const restMs = Math.min(this.#last + QUIET_MS, this.#since + LATEST_MS) - now
    if (restMs > 0) return this.#after(restMs)
    const isTaken = this.#saveSome()
    if (this.#late.size > 0) this.#after(isTaken ? SLICE_MS : AGAIN_MS)
  }

  /** False when the disk did not take it; other writes to it say so. */
  #saveSome(): boolean {
    const { saved, together } = this.#parts
    const some = this.#late.entries().take(SLICE).toArray()
    try {
      together(() => {
        for (const [key, value] of some)
          if (value === undefined) saved.delete(key)
          else saved.put(key, value)
      })
    } catch {
      return false
    }
    for (const [key] of some) this.#late.delete(key)
    return true
  }
}
