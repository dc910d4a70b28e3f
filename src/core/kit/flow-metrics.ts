import { Counter, Histogram, type HistogramConfiguration } from 'prom-client'

/*
 * Metrics that every new flow writes to. An increment of prom-client's with labels costs 3 µs and an observation 6, most of it for the
 * text by which it knows the labels again; these add to plain numbers, which prom-client is given when the metric is read.
 */

/** A counter whose `count` is cheap. `inc` works as ever. */
export class FlowCounter<L extends string> extends Counter<L> {
  readonly #labelNames: readonly L[]
  readonly #sums = new Map<string, { labels: Record<L, string>; count: number }>()

  constructor(configuration: ConstructorParameters<typeof Counter<L>>[0]) {
    super(configuration)
    this.#labelNames = configuration.labelNames ?? []
  }

  /** `labels` is kept. */
  count(labels: Record<L, string>, by = 1): void {
    let key = ''
    for (const name of this.#labelNames) key += `${labels[name]} `
    const sum = this.#sums.get(key)
    if (sum === undefined) this.#sums.set(key, { labels, count: by })
    else sum.count += by
  }

  override get(): ReturnType<Counter<L>['get']> {
    for (const sum of this.#sums.values()) {
      if (sum.count > 0) this.inc(sum.labels, sum.count)
      sum.count = 0
    }
    return super.get()
  }
}

interface Series {
  /** Observations at most as large as each upper bound, and larger than the one before. */
  readonly counts: number[]
  sum: number
  count: number
  /** The last one of each bucket that was marked, `+Inf` last. */
  exemplars?: (Exemplar | undefined)[]
}

/** As prom-client writes it behind a bucket in OpenMetrics. */
interface Exemplar {
  labelSet: Record<string, string>
  value: number
  /** Seconds since 1970. */
  timestamp: number
}

/** A histogram with one label whose `record` is cheap. Nothing else is observed. */
export class FlowHistogram<L extends string> extends Histogram<L> {
  readonly #configuration: {
    readonly name: string
    readonly help: string
    readonly label: L
    readonly bounds: readonly number[]
  }
  readonly #series = new Map<string, Series>()

  constructor(configuration: HistogramConfiguration<L> & { labelNames: readonly [L]; buckets: readonly number[] }) {
    super({ ...configuration, buckets: [...configuration.buckets] })
    const { name, help, labelNames, buckets } = configuration
    this.#configuration = { name, help, label: labelNames[0], bounds: buckets }
  }

  record(label: string, value: number): void {
    const { bounds } = this.#configuration
    let series = this.#series.get(label)
    if (series === undefined) {
      series = { counts: bounds.map(() => 0), sum: 0, count: 0 }
      this.#series.set(label, series)
    }
    series.sum += value
    series.count += 1
    for (let i = 0; i < bounds.length; i++) {
      if (value > (bounds[i] as number)) continue
      series.counts[i] = (series.counts[i] as number) + 1
      return
    }
  }

  /** A value that was recorded is that of a flow with a trace. */
  mark(label: string, value: number, traceId: string): void {
    const series = this.#series.get(label)
    if (series === undefined) return
    const { bounds } = this.#configuration
    const found = bounds.findIndex((bound) => value <= bound)
    series.exemplars ??= []
    const exemplar = { labelSet: { trace_id: traceId }, value, timestamp: Date.now() / 1_000 }
    series.exemplars[found < 0 ? bounds.length : found] = exemplar
  }

  /** What both `get` and the registry read. */
  getForPromString() {
    const { name, help, bounds } = this.#configuration
    const values = [...this.#series].flatMap(([value, series]) => this.#lines(value, series, bounds))
    return Promise.resolve({ name, help, type: 'histogram', aggregator: 'sum', values })
  }

  #lines(value: string, { counts, sum, count, exemplars = [] }: Series, bounds: readonly number[]) {
    const { name, label } = this.#configuration
    const sharedLabels = { [label]: value }
    const line = (metricName: string, labels: { le?: number | string }, of: number, exemplar?: Exemplar) => ({
      metricName: `${name}_${metricName}`,
      labels,
      sharedLabels,
      value: of,
      ...(exemplar === undefined ? {} : { exemplar }),
    })
    let below = 0
    const buckets = bounds.map((le, i) => line('bucket', { le }, (below += counts[i] as number), exemplars[i]))
    return [
      ...buckets,
      line('bucket', { le: '+Inf' }, count, exemplars[bounds.length]),
      line('sum', {}, sum),
      line('count', {}, count),
    ]
  }
}
