import type { Log } from '../../src/core/kit/log.ts'
import { heapRoom, type HeapRoom } from '../../src/core/kit/memory.ts'
import type { Metrics } from '../../src/core/metrics.ts'

/*
 * The heap of this process. V8 aborts a process whose heap is full, with all of its flows; so before that new flows are refused,
 * and the flows that are open, the control link and the instances go on.
 *
 *     0 ────────────────────────── new flows are taken ─────────────────────┬── reserve ──┤ limit (see kit/memory.ts)
 */

/** Asked at most this often. Larger: more flows are taken after the reserve is reached. */
const MEASURE_EVERY_MS = 100
/** The share kept free. Smaller: V8 collects garbage all the time before flows are refused. */
const RESERVED = 0.15
/** After a shortage, flows are taken again when this much more than the reserve is left, so that the state does not flap. */
const RECOVERED = 1.25

export interface MemoryOptions {
  measure?: () => HeapRoom
  now?: () => number
}

export class Memory {
  readonly #measure: () => HeapRoom
  readonly #now: () => number
  readonly #reports: { log: Log; metrics: Metrics }
  #measuredAt = Number.NEGATIVE_INFINITY
  #room: HeapRoom = { limit: 0, left: 0 }
  #isScarce = false

  constructor(reports: { log: Log; metrics: Metrics }, options: MemoryOptions = {}) {
    const { measure = heapRoom, now = () => performance.now() } = options
    this.#measure = measure
    this.#now = now
    this.#reports = reports
  }

  /** Why a flow is refused, for its caller and the log; `undefined`: there is room. */
  get shortage(): string | undefined {
    this.#update()
    return this.#isScarce ? `the heap of ${mebibytes(this.#room.limit)} is nearly full` : undefined
  }

  /** For `check`. */
  get report(): string {
    this.#update()
    const { limit, left } = this.#room
    return `${mebibytes(left)} left of ${mebibytes(limit)} of heap${this.#isScarce ? '; new flows are refused' : ''}`
  }

  #update(): void {
    const now = this.#now()
    if (now - this.#measuredAt < MEASURE_EVERY_MS) return
    this.#measuredAt = now
    this.#room = this.#measure()
    const { limit, left } = this.#room
    const isScarce = left < limit * RESERVED * (this.#isScarce ? RECOVERED : 1)
    if (isScarce !== this.#isScarce) this.#setScarce(isScarce)
  }

  #setScarce(isScarce: boolean): void {
    const { log, metrics } = this.#reports
    this.#isScarce = isScarce
    metrics.memoryScarce.set(isScarce ? 1 : 0)
    if (isScarce) log.warn('the heap is nearly full; new flows are refused', { ...this.#room })
    else log.info('enough of the heap is free again')
  }
}

function mebibytes(bytes: number): string {
  return `${Math.round(bytes / 2 ** 20)} MiB`
}
