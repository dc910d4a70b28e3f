import { readdirSync, readFileSync, statSync } from 'node:fs'
import type { Log } from '../../src/core/kit/log.ts'
import type { Metrics } from '../../src/core/metrics.ts'

/*
 * The descriptors of this process: what is open is asked of the system, so that flows, listeners, carriers, logs and pipes
 * all count without anybody keeping books. A reserve stays free, so that accept never fails for want of one, and neither
 * does what keeps the node alive: carriers, the control link, instances being started.
 *
 *     0 ────────────────────────── new flows are taken ─────────────────────┬── reserve ──┤ limit (RLIMIT_NOFILE)
 */

/** Kept free at least; a tenth of the limit where that is more. */
const RESERVE = 64
/** Asked of the system at most so often, and never while less than half is used. */
const LOOK_MS = 20

/** Once they were scarce, flows are taken again at this share of what they may use: not one by one at the edge. */
const CALM = 0.95

export interface DescriptorsOptions {
  /** Open files this process may have. */
  limit?: number
  /** Open files now. */
  count?: () => number
  now?: () => number
}

export class Descriptors {
  readonly limit: number
  readonly #usable: number
  readonly #count: () => number
  readonly #now: () => number
  readonly #told: { log: Log; metrics: Metrics }
  /** As found at the last look, and what was let in since. */
  #used = Number.POSITIVE_INFINITY
  #lookedAt = Number.NEGATIVE_INFINITY
  #isScarce = false

  constructor(told: { log: Log; metrics: Metrics }, options: DescriptorsOptions = {}) {
    const { limit = openFilesLimit(), count = openFiles, now = () => performance.now() } = options
    this.limit = limit
    this.#usable = Math.max(0, Math.min(limit - RESERVE, Math.floor(limit * 0.9)))
    this.#count = count
    this.#now = now
    this.#told = told
  }

  /** What flows may use: the rest is kept free. */
  get usable(): number {
    return this.#usable
  }

  /** New flows are being refused for want of descriptors. */
  get isScarce(): boolean {
    return this.#isScarce && !this.reserve(0)
  }

  /** May a flow open so many more? */
  reserve(more: number): boolean {
    this.#used += more
    if (this.#used > this.#usable / 2) this.#look(more)
    const isScarce = this.#used > (this.#isScarce ? this.#usable * CALM : this.#usable)
    if (isScarce !== this.#isScarce) this.#tell(isScarce)
    if (isScarce) this.#used -= more
    return !isScarce
  }

  #look(more: number): void {
    const now = this.#now()
    if (now - this.#lookedAt < LOOK_MS) return
    this.#lookedAt = now
    this.#used = this.#count() + more
  }

  #tell(isScarce: boolean): void {
    const { log, metrics } = this.#told
    this.#isScarce = isScarce
    metrics.descriptorsScarce.set(isScarce ? 1 : 0)
    const facts = { used: this.#used, limit: this.limit }
    if (isScarce) log.warn('descriptors are scarce, new flows are refused', facts)
    else log.info('descriptors are there again', facts)
  }
}

/** The soft limit, which Node raises to the hard one at its start; where it cannot be read, none. */
export function openFilesLimit(): number {
  try {
    const soft = /^Max open files +(\d+|unlimited)/m.exec(readFileSync('/proc/self/limits', 'latin1'))?.[1]
    return soft === undefined || soft === 'unlimited' ? Number.POSITIVE_INFINITY : Number(soft)
  } catch {
    return Number.POSITIVE_INFINITY
  }
}

/** Since Linux 6.2 the size of the folder is their number (2 µs); before, it is read (1 ms for 2,000). */
export function openFiles(): number {
  try {
    return statSync('/proc/self/fd').size || readdirSync('/proc/self/fd').length
  } catch {
    return 0
  }
}
