import { readdirSync, statSync } from 'node:fs'
import type { Log } from '../../src/core/kit/log.ts'
import { openFilesLimit } from '../../src/core/kit/open-files.ts'
import type { Metrics } from '../../src/core/metrics.ts'

/*
 * The file descriptors of this process. The operating system is asked how many are open, so that flows, listeners, carriers,
 * logs and pipes all count. A reserve is kept free: accept must never fail for want of a descriptor, nor may what keeps the
 * node alive: carriers, the control link, instances being started.
 *
 *     0 ────────────────────────── new flows are taken ─────────────────────┬── reserve ──┤ limit (RLIMIT_NOFILE)
 */

/** At least this many are kept free; a tenth of the limit where that is more. */
const RESERVE = 64
/** The system is asked at most this often, and never while less than half is used. Smaller costs more; larger is less exact. */
const COUNT_EVERY_MS = 20

/** After a shortage, flows are taken again below this share of what they may use, so that the state does not flap. */
const RECOVERED = 0.95

export interface DescriptorsOptions {
  /** How many files this process may have open. */
  limit?: number
  /** How many are open now. */
  count?: () => number
  now?: () => number
}

export class Descriptors {
  readonly limit: number
  readonly #usable: number
  readonly #count: () => number
  readonly #now: () => number
  readonly #reports: { log: Log; metrics: Metrics }
  /** As counted last, and those reserved since. */
  #used = Number.POSITIVE_INFINITY
  #countedAt = Number.NEGATIVE_INFINITY
  #isScarce = false

  constructor(reports: { log: Log; metrics: Metrics }, options: DescriptorsOptions = {}) {
    const { limit = openFilesLimit(), count = openFiles, now = () => performance.now() } = options
    this.limit = limit
    this.#usable = Math.max(0, Math.min(limit - RESERVE, Math.floor(limit * 0.9)))
    this.#count = count
    this.#now = now
    this.#reports = reports
  }

  /** How many flows may use; the others are kept free. */
  get usable(): number {
    return this.#usable
  }

  /** New flows are being refused because no descriptors are left. */
  get isScarce(): boolean {
    return this.#isScarce && !this.reserve(0)
  }

  /** Counts this many more as used; false when a flow may not have them. */
  reserve(more: number): boolean {
    this.#used += more
    if (this.#used > this.#usable / 2) this.#recount(more)
    const isScarce = this.#used > (this.#isScarce ? this.#usable * RECOVERED : this.#usable)
    if (isScarce !== this.#isScarce) this.#setScarce(isScarce)
    if (isScarce) this.#used -= more
    return !isScarce
  }

  #recount(more: number): void {
    const now = this.#now()
    if (now - this.#countedAt < COUNT_EVERY_MS) return
    this.#countedAt = now
    this.#used = this.#count() + more
  }

  #setScarce(isScarce: boolean): void {
    const { log, metrics } = this.#reports
    this.#isScarce = isScarce
    metrics.descriptorsScarce.set(isScarce ? 1 : 0)
    const facts = { used: this.#used, limit: this.limit }
    if (isScarce) log.warn('file descriptors are scarce; new flows are refused', facts)
    else log.info('enough file descriptors are free again', facts)
  }
}

/** Since Linux 6.2 the size of the folder is their number (2 µs); on older kernels the folder is read (1 ms for 2,000). */
export function openFiles(): number {
  try {
    return statSync('/proc/self/fd').size || readdirSync('/proc/self/fd').length
  } catch {
    return 0
  }
}
