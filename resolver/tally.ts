import type { Metrics } from '../src/metrics.ts'
import { CODE } from './numbers.ts'

/** Where an answer came from: `asked` is the table after the cluster was asked. */
export type Source = 'table' | 'asked' | 'upstream'

const CODE_NAMES = new Map<number, string>(Object.entries(CODE).map(([name, code]) => [code, name]))

/** The resolver's metrics, with their children kept: looking labels up costs more than answering. */
export class Tally {
  readonly #metrics: Metrics
  readonly #counters: Record<Source, Array<{ inc(): void }>> = { table: [], asked: [], upstream: [] }
  readonly #seconds: Record<Source, { observe(seconds: number): void }>

  constructor(metrics: Metrics) {
    this.#metrics = metrics
    const of = (source: Source) => metrics.dnsSeconds.labels(source)
    this.#seconds = { table: of('table'), asked: of('asked'), upstream: of('upstream') }
  }

  count(code: number, source: Source, startedMs: number): void {
    let counter = this.#counters[source][code]
    if (counter === undefined) {
      counter = this.#metrics.dnsAnswers.labels(CODE_NAMES.get(code) ?? 'other', source)
      this.#counters[source][code] = counter
    }
    counter.inc()
    this.#seconds[source].observe((performance.now() - startedMs) / 1_000)
  }
}
