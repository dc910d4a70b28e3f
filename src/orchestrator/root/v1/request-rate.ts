import { MeshError } from '../../../core/errors.ts'
import { BoundedMap } from '../../../core/kit/bounded-map.ts'
import { TokenBucket } from '../../../core/kit/token-bucket.ts'

/** Of one caller. Smaller refuses a page with many open views, larger lets one caller take a core. */
const RATE = { perSecond: 200, burst: 400 }
const MOST_CALLERS = 1_000

/** How many requests each caller may make. */
export class RequestRate {
  readonly #buckets = new BoundedMap<string, TokenBucket>(MOST_CALLERS, (bucket) => bucket.isFull)
  readonly #now: () => number

  constructor(now: () => number) {
    this.#now = now
  }

  /** @throws MeshError RATE_LIMITED */
  take(caller: string): void {
    const bucket = this.#buckets.getOrCreate(caller, () => new TokenBucket({ ...RATE, now: this.#now }))
    if (!bucket.tryTake()) throw new MeshError('RATE_LIMITED', { seconds: 1 })
  }
}
