import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import t, { type Test } from 'tap'
import { LOG_RECORDS, SPANS, type LogRecord, type Span } from '../../src/core/kit/otlp-signals.ts'
import { OtlpExporter, type OtlpOptions, type SendResult } from '../../src/core/kit/otlp.ts'
import { freePort } from '../../src/lab/system-tools.ts'
import { keptLog } from '../proxy/world.ts'
import { ManualClock } from '../support/manual-clock.ts'

interface Body {
  resourceSpans: {
    resource: { attributes: unknown[] }
    scopeSpans: { scope: unknown; spans: { name: string }[] }[]
  }[]
}

/** Answers as `answer` says, in turn, and with 200 from then on. */
async function collector(t: Test, answers: ((response: ServerResponse) => void)[] = []) {
  const requests: { request: IncomingMessage; body: Body }[] = []
  const server = createServer((request, response) => {
    let text = ''
    request.setEncoding('utf8').on('data', (chunk: string) => (text += chunk))
    request.on('end', () => {
      requests.push({ request, body: JSON.parse(text) as Body })
      const answer = answers.shift() ?? ((to: ServerResponse) => to.end('{}'))
      answer(response)
    })
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  const names = () => requests.flatMap(({ body }) => spansOf(body).map(({ name }) => name))
  return { requests, names, endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}` }
}

const spansOf = (body: Body) => body.resourceSpans.flatMap(({ scopeSpans }) => scopeSpans.flatMap(({ spans }) => spans))

const span = (name: string, more: Partial<Span> = {}): Span => ({
  traceId: '0af7651916cd43dd8448eb211c80319c',
  spanId: 'b7ad6b7169203331',
  name,
  kind: 'client',
  startMs: 1_700_000_000_000.25,
  endMs: 1_700_000_000_001,
  attributes: {},
  events: [],
  ...more,
})

async function exporter(endpoint: string, options: Partial<OtlpOptions<Span>> = {}) {
  const clock = new ManualClock()
  const log = keptLog()
  const counts: Record<SendResult, number> = { sent: 0, failed: 0, dropped: 0 }
  const running = await OtlpExporter.start(
    {
      signal: SPANS,
      endpoint,
      resource: { 'service.name': 'hedgerow' },
      scope: { name: 'hedgerow', version: '1.2.3' },
      ...options,
    },
    { clock, log, counted: (result, count) => (counts[result] += count) },
  )
  /** Time passes until the fact. */
  const passing = async (fact: () => boolean) => {
    while (!fact()) {
      await clock.advance(500)
      await new Promise((resolve) => setTimeout(resolve, 1))
    }
  }
  return { running, clock, log, counts, passing, [Symbol.asyncDispose]: () => running[Symbol.asyncDispose]() }
}

t.test('spans are sent as OTLP has them in JSON', async (t) => {
  const { requests, endpoint } = await collector(t)
  await using out = await exporter(`${endpoint}/otel/`, { headers: { authorization: 'Bearer x' } })
  out.running.offer(
    span('first', {
      parentSpanId: '00f067aa0ba902b7',
      kind: 'server',
      attributes: { text: 'a', whole: 7, part: 0.5, yes: true, none: undefined },
      events: [{ name: 'tried', atMs: 1_700_000_000_000.5, attributes: { n: 1 } }],
      error: 'refused',
    }),
  )
  await out.passing(() => out.counts.sent === 1)
  const [sent] = requests
  t.match(sent?.request, { method: 'POST', url: '/otel/v1/traces' })
  t.match(sent?.request.headers, {
    'content-type': 'application/json',
    authorization: 'Bearer x',
    'user-agent': 'hedgerow/1.2.3',
  })
  t.strictSame(sent?.body, {
    resourceSpans: [
      {
        resource: { attributes: [{ key: 'service.name', value: { stringValue: 'hedgerow' } }] },
        scopeSpans: [
          {
            scope: { name: 'hedgerow', version: '1.2.3' },
            spans: [
              {
                traceId: '0af7651916cd43dd8448eb211c80319c',
                spanId: 'b7ad6b7169203331',
                parentSpanId: '00f067aa0ba902b7',
                name: 'first',
                kind: 2,
                startTimeUnixNano: '1700000000000250000',
                endTimeUnixNano: '1700000000001000000',
                attributes: [
                  { key: 'text', value: { stringValue: 'a' } },
                  { key: 'whole', value: { intValue: '7' } },
                  { key: 'part', value: { doubleValue: 0.5 } },
                  { key: 'yes', value: { boolValue: true } },
                ],
                events: [
                  {
                    name: 'tried',
                    timeUnixNano: '1700000000000500000',
                    attributes: [{ key: 'n', value: { intValue: '1' } }],
                  },
                ],
                status: { code: 2, message: 'refused' },
              },
            ],
          },
        ],
      },
    ],
  })
})

t.test('a collector that is busy or away gets them later, once; one that refuses them does not', async (t) => {
  const busy = (response: ServerResponse) => response.writeHead(503, { 'retry-after': '2' }).end()
  const gone = (response: ServerResponse) => void response.destroy()
  const no = (response: ServerResponse) => response.writeHead(400).end('what is this?')
  const some = (response: ServerResponse) => response.end('{"partialSuccess":{"rejectedSpans":"1"}}')
  const { names, endpoint } = await collector(t, [busy, gone, (to) => to.end('{}'), no, some])
  await using out = await exporter(endpoint)
  out.running.offer(span('a'))
  await out.passing(() => out.counts.sent === 1)
  t.same(names(), ['a', 'a', 'a'])
  t.same(
    out.log.lines.map(({ sentence }) => sentence),
    ['telemetry cannot be sent', 'telemetry is sent again'],
    'told once, and when it is over',
  )
  out.running.offer(span('b'))
  await out.passing(() => out.counts.failed === 1)
  t.match(out.log.lines.at(-1), { sentence: 'telemetry refused', fields: { status: 400, reason: 'what is this?' } })
  out.running.offer(span('c'))
  out.running.offer(span('d'))
  await out.passing(() => out.counts.sent === 2)
  t.same(out.counts, { sent: 2, failed: 2, dropped: 0 }, 'of two it took one')
  t.same(names().slice(3), ['b', 'c', 'd'])
})

t.test('what waits is bounded, and what still waits at the end is sent', async (t) => {
  const port = await freePort()
  await using out = await exporter(`http://127.0.0.1:${port}`)
  for (let i = 0; i < 5_000; i++) out.running.offer(span(`${i}`))
  t.same(out.counts, { sent: 0, failed: 0, dropped: 904 })
  await out.passing(() => out.log.lines.length === 1)

  const { names, endpoint } = await collector(t)
  const last = await exporter(endpoint)
  for (let i = 0; i < 300; i++) last.running.offer(span(`${i}`))
  await last.running[Symbol.asyncDispose]()
  t.equal(new Set(names()).size, 300, 'each')
  t.equal(names().length, 300, 'once')
})

t.test('an end while the collector does not answer is no longer than a moment', async (t) => {
  const { endpoint } = await collector(t, [() => undefined, () => undefined])
  const out = await exporter(endpoint)
  out.running.offer(span('a'))
  await out.running[Symbol.asyncDispose]()
  t.same(out.counts, { sent: 0, failed: 0, dropped: 1 })
})

t.test('lines of a log are sent as OTLP has them in JSON', async (t) => {
  const { requests, endpoint } = await collector(t)
  const counts: Record<SendResult, number> = { sent: 0, failed: 0, dropped: 0 }
  const last = await OtlpExporter.start<LogRecord>(
    { signal: LOG_RECORDS, endpoint, resource: {}, scope: { name: 'hedgerow', version: '1' } },
    { clock: new ManualClock(), log: keptLog(), counted: (result, count) => (counts[result] += count) },
  )
  const record = { atMs: 1_700_000_000_000, sentence: 'flow ended', attributes: { 'server.port': 80 } }
  last.offer({ ...record, severity: 'info', traceId: '0af7651916cd43dd8448eb211c80319c', spanId: 'b7ad6b7169203331' })
  last.offer({ ...record, severity: 'warn', sentence: 'flow refused' })
  await last[Symbol.asyncDispose]()
  t.equal(requests[0]?.request.url, '/v1/logs')
  t.match(requests[0]?.body, {
    resourceLogs: [
      {
        scopeLogs: [
          {
            logRecords: [
              {
                timeUnixNano: '1700000000000000000',
                severityNumber: 9,
                severityText: 'INFO',
                body: { stringValue: 'flow ended' },
                attributes: [{ key: 'server.port', value: { intValue: '80' } }],
                traceId: '0af7651916cd43dd8448eb211c80319c',
                spanId: 'b7ad6b7169203331',
              },
              { severityNumber: 13, severityText: 'WARN', body: { stringValue: 'flow refused' } },
            ],
          },
        ],
      },
    ],
  })
})

t.test('a collector behind an HTTP proxy, and one that needs none', async (t) => {
  const asked: string[] = []
  const proxy = createServer((request, response) => {
    asked.push(`${request.method} ${request.url}`)
    response.end('{}')
  }).listen(0, '127.0.0.1')
  proxy.on('connect', (request: IncomingMessage, socket) => {
    asked.push(`CONNECT ${request.url}`)
    socket.end('HTTP/1.1 502 Bad Gateway\r\n\r\n')
  })
  await once(proxy, 'listening')
  t.teardown(() => void proxy.close())
  const url = `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`
  const environment = { http_proxy: url, HTTPS_PROXY: url, NO_PROXY: '127.0.0.1' }
  const { requests, endpoint: near } = await collector(t)
  for (const endpoint of ['http://collector.test:4318', 'https://collector.test:4318', near]) {
    const out = await exporter(endpoint, { environment })
    out.running.offer(span('a'))
    await out.running[Symbol.asyncDispose]()
  }
  t.same(asked, ['POST http://collector.test:4318/v1/traces', 'CONNECT collector.test:4318'])
  t.equal(requests.length, 1)
})
