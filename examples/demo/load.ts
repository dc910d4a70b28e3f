/**
 * A load generator, open-loop: so many requests a second whatever the answers do, each on a new connection.
 *
 *     node load.ts ADDRESS PORT HOST RATE       until SIGTERM; then one JSON line (LoadReport)
 */
import { request, type RequestOptions } from 'node:http'

export interface LoadReport {
  sent: number
  answered: number
  failed: number
  /** Failures by their error. */
  errors: Record<string, number>
  /** Answers by the instance that gave them. */
  byInstance: Record<string, number>
  medianMs: number
  p99Ms: number
  /** The longest time without any answer. */
  longestGapMs: number
}

class Load {
  readonly #options: RequestOptions
  readonly #report: Omit<LoadReport, 'medianMs' | 'p99Ms'> = {
    sent: 0,
    answered: 0,
    failed: 0,
    errors: {},
    byInstance: {},
    longestGapMs: 0,
  }
  readonly #times: number[] = []
  readonly #over = Promise.withResolvers<void>()
  #answeredAt = performance.now()
  #open = 0
  #isEnding = false

  constructor(options: RequestOptions) {
    this.#options = options
  }

  /** So many requests a second, from now on. The function returned ends them; it waits for the answers that are still due. */
  start(rate: number): () => Promise<LoadReport> {
    const startedAt = performance.now()
    const ticks = setInterval(() => {
      const due = Math.floor(((performance.now() - startedAt) * rate) / 1_000)
      while (this.#report.sent < due) this.#send()
    }, 5)
    return async () => {
      clearInterval(ticks)
      this.#isEnding = true
      if (this.#open > 0) await this.#over.promise
      return this.#finished()
    }
  }

  #send(): void {
    this.#report.sent += 1
    this.#open += 1
    const sentAt = performance.now()
    let isSettled = false
    const settle = (count: () => void) => {
      if (isSettled) return
      isSettled = true
      count()
      this.#open -= 1
      if (this.#isEnding && this.#open === 0) this.#over.resolve()
    }
    const fail = (error: NodeJS.ErrnoException) => settle(() => this.#failed(error.code ?? error.message))
    const asked = request(this.#options, (response) => {
      let text = ''
      response.setEncoding('utf8').on('data', (chunk: string) => (text += chunk))
      response.on('error', fail)
      response.on('end', () => settle(() => this.#heard(response.statusCode, text, sentAt)))
    })
    asked.on('timeout', () => asked.destroy(new Error('no answer in 5 s')))
    asked.on('error', fail)
    asked.end()
  }

  #heard(status: number | undefined, text: string, sentAt: number): void {
    if (status !== 200) return this.#failed(`HTTP ${status}`)
    const now = performance.now()
    const { instance } = JSON.parse(text) as { instance: string }
    const { byInstance, longestGapMs } = this.#report
    this.#report.answered += 1
    byInstance[instance] = (byInstance[instance] ?? 0) + 1
    this.#report.longestGapMs = Math.max(longestGapMs, now - this.#answeredAt)
    this.#answeredAt = now
    this.#times.push(now - sentAt)
  }

  #failed(why: string): void {
    this.#report.failed += 1
    this.#report.errors[why] = (this.#report.errors[why] ?? 0) + 1
  }

  #finished(): LoadReport {
    const sorted = this.#times.toSorted((a, b) => a - b)
    const at = (share: number) => rounded(sorted[Math.floor(sorted.length * share)] ?? 0)
    const longestGapMs = rounded(this.#report.longestGapMs)
    return { ...this.#report, medianMs: at(0.5), p99Ms: at(0.99), longestGapMs }
  }
}

function rounded(ms: number): number {
  return Math.round(ms * 10) / 10
}

if (import.meta.main) {
  const [address = '', port = '', host = '', rate = ''] = process.argv.slice(2)
  const load = new Load({ host: address, port: Number(port), agent: false, headers: { host }, timeout: 5_000 })
  const stop = load.start(Number(rate))
  process.on('SIGTERM', () => {
    void stop().then((report) => {
      console.log(JSON.stringify(report))
      process.exit()
    })
  })
  console.log('started')
}
