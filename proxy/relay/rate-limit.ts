import { BoundedMap } from '../../src/core/kit/bounded-map.ts'
import { TokenBucket } from '../../src/core/kit/token-bucket.ts'
import type { NodeId } from '../../src/core/model/ids.ts'

/** How much one node may send through the relay, over all its connections; whoever has sent too much waits. */
export class RateLimit {
  readonly #bytes: TokenBucket
  readonly #paused: () => void
  readonly #waiting = new Set<() => void>()
  #timer: NodeJS.Timeout | undefined

  /** `paused` is told each time that somebody must wait. */
  constructor(bytesPerSecond: number, paused: () => void) {
    this.#bytes = new TokenBucket({ perSecond: bytesPerSecond, burst: bytesPerSecond * BURST_SECONDS })
    this.#paused = paused
  }

  /** Bytes that were read already; false: no more until `whenFree` calls. */
  spend(bytes: number): boolean {
    this.#bytes.take(bytes)
    return this.isFree
  }

  get isFree(): boolean {
    return this.#bytes.waitMs === 0
  }

  /** Nothing was sent for a while, and nobody waits. */
  get isIdle(): boolean {
    return this.#waiting.size === 0 && this.#bytes.isFull
  }

  whenFree(act: () => void): void {
    this.#waiting.add(act)
    if (this.#timer !== undefined) return
    this.#paused()
    this.#wait()
  }

  /** It will not go on: its connection has ended. */
  forget(act: () => void): void {
    this.#waiting.delete(act)
  }

  #wait(): void {
    this.#timer = setTimeout(
      () => {
        this.#timer = undefined
        for (const act of this.#waiting) {
          if (!this.isFree) return this.#wait() // those before it have used it up
          this.#waiting.delete(act) // and comes behind the others when it waits again
          act()
        }
      },
      Math.max(1, this.#bytes.waitMs),
    )
    this.#timer.unref()
  }
}

/** Smaller: short answers wait in the middle; larger: a burst takes the link from the others for longer. */
const BURST_SECONDS = 0.25
/** Nodes remembered before those that rest are forgotten. */
const KEPT = 4_096

/** The rate limit of each node. */
export class RateLimits {
  readonly #bytesPerSecond: number
  readonly #paused: () => void
  readonly #limits = new BoundedMap<NodeId, RateLimit>(KEPT, ({ isIdle }) => isIdle)

  constructor(bytesPerSecond: number, paused: () => void) {
    this.#bytesPerSecond = bytesPerSecond
    this.#paused = paused
  }

  of(node: NodeId): RateLimit {
    return this.#limits.getOrCreate(node, () => new RateLimit(this.#bytesPerSecond, this.#paused))
  }
}
