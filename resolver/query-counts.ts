import type { Metrics } from '../src/core/metrics.ts'
import { CODE } from './numbers.ts'

/** Where an answer came from; `asked`: from the table, after a question to the cluster. */
export type Source = 'table' | 'asked' | 'upstream'

const CODE_NAMES = new Map<number, string>(Object.entries(CODE).map(([name, code]) => [code, name]))

/**
 * The metrics of the resolver. Answers from memory are the hot path: they are only counted, and added by `flush`, because
 * prom-client takes longer than the answer. All others are timed too.
 */
export class QueryCounts {
  readonly #metrics: Metrics
  readonly #fromMemory: { inc(count: number): void }
  #remembered = 0

  constructor(metrics: Metrics) {
    this.#metrics = metrics
    this.#fromMemory = metrics.dnsAnswers.labels('NOERROR', 'table')
  }

  countRemembered(): void {
    this.#remembered++
  }

  count(code: number, source: Source, startedMs: number): void {
    this.#metrics.dnsAnswers.labels(CODE_NAMES.get(code) ?? 'other', source).inc()
    this.#metrics.dnsSeconds.labels(source).observe((performance.now() - startedMs) / 1_000)
  }

  flush(): void {
    if (this.#remembered > 0) this.#fromMemory.inc(this.#remembered)
    this.#remembered = 0
  }
}
