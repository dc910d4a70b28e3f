import type { BackoffOptions } from '../../core/kit/backoff.ts'
import type { Clock } from '../../core/kit/clock.ts'
import type { ServiceSpec } from '../spec.ts'
import type { Ended } from './runtime.ts'

/** Smaller gives up on what passes; larger repeats what is wrong. */
const RETRIES = 3
const MOST_BACKOFF_MS = 3_600_000

/** How the wait between two tries of a job grows; that of all instances when the document says nothing. */
export function jobBackoff({ job }: ServiceSpec, usual: BackoffOptions): BackoffOptions {
  if (job?.backoffSeconds === undefined) return usual
  return { ...usual, firstMs: job.backoffSeconds * 1_000, limitMs: MOST_BACKOFF_MS }
}

export type AfterTry = 'succeeded' | 'again' | 'failed'

/**
 * What follows when a try has ended. One whose result is not known, because the agent was away, is not tried again: it may have
 * succeeded.
 */
export function afterTry(
  { job }: Pick<ServiceSpec, 'job'>,
  { code, signal, isHung, isOverdue }: Ended,
  retries: number,
): AfterTry {
  if (code === 0) return 'succeeded'
  const isKnown = code !== undefined || signal !== undefined || isHung === true
  return isKnown && isOverdue !== true && retries < (job?.retries ?? RETRIES) ? 'again' : 'failed'
}

/**
 * The time that a job may take with all of its tries. It goes on while the agent is away, by the wall clock; else by the monotonic one, so
 * that a clock that is set ends no job.
 */
export class Deadline implements Disposable {
  readonly #clock: Clock
  readonly #over = new AbortController()
  readonly #startedAt: number
  #cancel: (() => void) | undefined
  #seconds: number | undefined
  /** When the job was started first, milliseconds since 1970. */
  readonly beganAt: number

  constructor(clock: Clock, beganAt = clock.wall()) {
    this.#clock = clock
    this.beganAt = beganAt
    this.#startedAt = clock.now() - Math.max(0, clock.wall() - beganAt)
  }

  /** By the document as it is now. */
  set({ job }: Pick<ServiceSpec, 'job'>): void {
    this.#cancel?.()
    this.#seconds = job?.deadlineSeconds
    if (this.#seconds === undefined) return
    const leftMs = this.#startedAt + this.#seconds * 1_000 - this.#clock.now()
    this.#cancel = this.#clock.after(Math.max(0, leftMs), () => this.#over.abort())
  }

  /** Aborted when it is over. */
  get signal(): AbortSignal {
    return this.#over.signal
  }

  get detail(): string {
    return `it has not ended within its deadline_seconds (${this.#seconds})`
  }

  [Symbol.dispose](): void {
    this.#cancel?.()
  }
}
