/**
 * A load generator, open-loop: so many requests a second whatever the answers do, each on a new connection.
 *
 *     node load.ts ADDRESS PORT HOST RATE       until SIGTERM; then one JSON line (LoadReport)
 */
import { request } from 'node:http'

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

if (import.meta.main) generate(process.argv.slice(2))

function generate([address = '', port = '', host = '', rate = '']: readonly string[]): void {
  const startedAt = performance.now()
  const times: number[] = []
  const report = { sent: 0, answered: 0, failed: 0, errors: {}, byInstance: {}, longestGapMs: 0 } as LoadReport
  let answeredAt = startedAt
  let open = 0
  let isEnding = false

  const ticks = setInterval(() => {
    const due = Math.floor(((performance.now() - startedAt) * Number(rate)) / 1_000)
    while (report.sent < due) send()
  }, 5)
  process.on('SIGTERM', () => {
    clearInterval(ticks)
    isEnding = true
    if (open === 0) finish()
  })
  console.log('started')

  function send(): void {
    report.sent += 1
    open += 1
    const sentAt = performance.now()
    const options = { host: address, port: Number(port), agent: false, headers: { host }, timeout: 5_000 } as const
    let isSettled = false
    const settle = (count: () => void) => {
      if (isSettled) return
      isSettled = true
      count()
      open -= 1
      if (isEnding && open === 0) finish()
    }
    const fail = (error: NodeJS.ErrnoException) => settle(() => failed(error.code ?? error.message))
    const asked = request(options, (response) => {
      let text = ''
      response.setEncoding('utf8').on('data', (chunk: string) => (text += chunk))
      response.on('error', fail)
      response.on('end', () =>
        settle(() => (response.statusCode === 200 ? answered(text, sentAt) : failed(`HTTP ${response.statusCode}`))),
      )
    })
    asked.on('timeout', () => asked.destroy(new Error('no answer in 5 s')))
    asked.on('error', fail)
    asked.end()
  }

  function answered(text: string, sentAt: number): void {
    const now = performance.now()
    const { instance } = JSON.parse(text) as { instance: string }
    report.answered += 1
    report.byInstance[instance] = (report.byInstance[instance] ?? 0) + 1
    report.longestGapMs = Math.max(report.longestGapMs, now - answeredAt)
    answeredAt = now
    times.push(now - sentAt)
  }

  function failed(why: string): void {
    report.failed += 1
    report.errors[why] = (report.errors[why] ?? 0) + 1
  }

  function finish(): void {
    const sorted = times.toSorted((a, b) => a - b)
    const at = (share: number) => rounded(sorted[Math.floor(sorted.length * share)] ?? 0)
    const { longestGapMs } = report
    console.log(JSON.stringify({ ...report, medianMs: at(0.5), p99Ms: at(0.99), longestGapMs: rounded(longestGapMs) }))
    process.exit()
  }
}

function rounded(ms: number): number {
  return Math.round(ms * 10) / 10
}
