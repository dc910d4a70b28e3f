import type { Clock } from '../../core/kit/clock.ts'
import { inStep } from '../../core/kit/in-step.ts'
import type { LivenessSpec, ServiceSpec } from '../spec.ts'
import { probe, probedBy } from './readiness.ts'
import type { Endpoints } from './runtime.ts'
import type { Timings } from './timings.ts'

/*
 * Whether a program that runs still does what it should. Two rules, and the document has the choice:
 *
 *     either               has not been ready within `startMs` of its start ─────────────────────┐
 *     livenessProbe        was ready, and fails the probe `failureThreshold` times in a row ─────┤
 *     without one          was ready, and its check has failed for `hungMs` since ───────────────┴─▶ it hangs
 */

export interface LivenessWatch {
  /** The document as it is now, and what is aborted when there is another. */
  now: () => { spec: ServiceSpec; changed: AbortSignal }
  endpoints: Endpoints
  clock: Clock
  timings: Pick<Timings, 'hungMs' | 'startMs'>
}

/** Watches one run of a program until `close`. */
export class Liveness implements Disposable {
  readonly #watch: LivenessWatch
  readonly #ending = new AbortController()
  readonly #hangs = Promise.withResolvers<string>()
  /** What starts slowly does not hang. */
  readonly #wasReady = Promise.withResolvers<void>()
  #cancel: () => void

  private constructor(watch: LivenessWatch) {
    this.#watch = watch
    this.#cancel = this.#within(watch.timings.startMs, 'it has not become ready', () => true)
    void this.#probeUntilItHangs(this.#ending.signal)
  }

  static begin(watch: LivenessWatch): Liveness {
    return new Liveness(watch)
  }

  /** Resolves with what is wrong, when the program hangs. */
  get hangs(): Promise<string> {
    return this.#hangs.promise
  }

  /** What the check of readiness has found, when that changes. */
  answered(isReady: boolean): void {
    const { now, timings } = this.#watch
    const isRule = () => now().spec.liveness === undefined
    if (isReady) this.#wasReady.resolve()
    this.#cancel()
    this.#cancel = isReady ? () => undefined : this.#within(timings.hungMs, 'it has not answered', isRule)
  }

  [Symbol.dispose](): void {
    this.#cancel()
    this.#ending.abort()
    this.#wasReady.resolve()
  }

  #within(ms: number, what: string, isRule: () => boolean): () => void {
    return this.#watch.clock.after(ms, () => {
      if (isRule()) this.#hangs.resolve(`${what} for ${Math.round(ms / 1_000)} s`)
    })
  }

  async #probeUntilItHangs(signal: AbortSignal): Promise<void> {
    const { clock, now } = this.#watch
    await this.#wasReady.promise
    let hasWaited = false
    while (!signal.aborted) {
      const { spec, changed } = now()
      const limit = AbortSignal.any([signal, changed])
      if (spec.liveness !== undefined && !hasWaited) await clock.sleep(spec.liveness.initialDelayMs, limit)
      hasWaited ||= !limit.aborted && spec.liveness !== undefined
      const fault = spec.liveness === undefined ? undefined : await this.#failing(spec.liveness, spec, limit)
      if (fault !== undefined) return this.#hangs.resolve(fault)
      if (!limit.aborted) await clock.sleep(NEVER_MS, limit) // nothing to probe, until another document says so
    }
  }

  /** Resolves with what is wrong after so many failures in a row; with `undefined` when the signal ends it. */
  async #failing(liveness: LivenessSpec, spec: ServiceSpec, signal: AbortSignal): Promise<string | undefined> {
    const { endpoints, clock } = this.#watch
    const probed = probedBy(liveness, spec, endpoints)
    if (probed === undefined) return undefined
    for (let failures = 0; !signal.aborted; ) {
      const fault = await probe(liveness, probed, signal)
      if (signal.aborted) return undefined
      failures = fault === undefined ? 0 : failures + 1
      if (failures >= liveness.failures) return `its liveness probe failed ${failures} times in a row: ${fault ?? ''}`
      await clock.sleep(inStep(clock.now(), liveness.intervalMs), signal)
    }
    return undefined
  }
}

const NEVER_MS = 2 ** 31 - 1
