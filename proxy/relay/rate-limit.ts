import { BoundedMap } from '../../src/core/kit/bounded-map.ts'
import { TokenBucket } from '../../src/core/kit/token-bucket.ts'
import type { NodeId } from '../../src/core/model/ids.ts'

/** How much one node may send through the relay over all its connections; after too much, its connections are not read. */
export class RateLimit {
  readonly #bytes: TokenBucket
  readonly #onPause: () => void
  readonly #waiting = new Set<() => void>()
  #timer: NodeJS.Timeout | undefined

  /** `onPause` is called each time that a connection must wait. */
  constructor(bytesPerSecond: number, onPause: () => void) {
    this.#bytes = new TokenBucket({ perSecond: bytesPerSecond, burst: bytesPerSecond * BURST_SECONDS })
    this.#onPause = onPause
  }

  /** Counts bytes that were read; false: read no more until `whenFree` calls. */
  spend(bytes: number): boolean {
    this.#bytes.take(bytes)
    return this.isFree
  }

  get isFree(): boolean {
    return this.#bytes.waitMs === 0
  }

  /** Nothing was sent for a while, and no connection waits. */
  get isIdle(): boolean {
    return this.#waiting.size === 0 && this.#bytes.isFull
  }

  whenFree(act: () => void): void {
    this.#waiting.add(act)
    if (this.#timer !== undefined) return
    this.#onPause()
    this.#wait()
  }

  /** Its connection has ended. */
  forget(act: () => void): void {
    this.#waiting.delete(act)
  }

  #wait(): void {
    this.#timer = setTimeout(
      () => {
        this.#timer = undefined
        for (const act of this.#waiting) {
          if (!this.isFree) return this.#wait() // the connections before it have used up the rate
          this.#waiting.delete(act) // so that it comes after the others when it waits again
          act()
        }
      },
      Math.max(1, this.#bytes.waitMs),
    )
    this.#timer.unref()
  }
}

/** Smaller: short answers are paused halfway; larger: a burst takes the link from the others for longer. */
const BURST_SECONDS = 0.25
/** Nodes remembered before idle ones are forgotten. */
const KEPT = 4_096

/** The rate limit of each node. */
export class RateLimits {
  readonly #bytesPerSecond: number
  readonly #onPause: () => void
  readonly #limits = new BoundedMap<NodeId, RateLimit>(KEPT, ({ isIdle }) => isIdle)

  constructor(bytesPerSecond: number, onPause: () => void) {
    this.#bytesPerSecond = bytesPerSecond
    this.#onPause = onPause
  }

  of(node: NodeId): RateLimit {
    return this.#limits.getOrCreate(node, () => new RateLimit(this.#bytesPerSecond, this.#onPause))
  }
}
