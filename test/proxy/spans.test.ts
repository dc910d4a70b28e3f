import { createServer } from 'node:net'
import t from 'tap'
import { FlowSpans, idsOf } from '../../proxy/flow/spans.ts'
import type { Span } from '../../src/core/kit/otlp-signals.ts'
import { systemClock } from '../../src/core/kit/clock.ts'
import { Agents } from './two-agents.ts'
import { echo, serve } from './world.ts'
import { until } from '../support/until.ts'

const flowIds = (count: number) =>
  Array.from({ length: count }, (_, i) => `c0ffee00${(i + 1).toString(16).padStart(8, '0')}`)

t.test('the share of flows that is asked for is sampled, and both ends agree', async (t) => {
  for (const ratio of [0, 0.001, 0.01, 0.25, 1]) {
    const [near, far] = [1, 2].map(() => new FlowSpans({ ratio, clock: systemClock, emit: () => undefined }))
    const ids = flowIds(20_000)
    const sampled = ids.filter((id) => near?.isSampled(id))
    t.same(
      sampled,
      ids.filter((id) => far?.isSampled(id)),
    )
    t.ok(Math.abs(sampled.length - ratio * ids.length) <= 0.05 * ratio * ids.length, `${sampled.length} at ${ratio}`)
  }
})

t.test('the ids of the spans of a flow follow from its own', async (t) => {
  const all = flowIds(100).map((id) => ({ id, ...idsOf(id) }))
  t.equal(new Set(all.map(({ traceId }) => traceId)).size, 100)
  const isFit = ({ id, traceId, below }: (typeof all)[number]) =>
    /^[0-9a-f]{32}$/.test(traceId) && /^[0-9a-f]{16}$/.test(below) && below !== id
  t.ok(all.every(isFit))
})

t.test('a flow between two nodes is one trace: what was decided, what was tried, and both ends', async (t) => {
  await using served = await serve(echo)
  const closed = createServer().listen(0, '127.0.0.1')
  await until(() => closed.listening)
  const { port: dead } = closed.address() as { port: number }
  await new Promise((resolve) => closed.close(resolve))
  const spans: Span[] = []
  const at = (port: number) => ({ host: '127.0.0.1', port })
  await using agents = await Agents.start({
    services: [
      { id: 'shop.acme.cart.prod', on: ['edge/far'] },
      { id: 'shop.acme.gone.prod', on: ['edge/far'] },
      { id: 'shop.acme.closed.prod', on: ['edge/far'], allow: ['mail.acme'] },
    ],
    endpoints: { 'shop.acme.cart.prod.0': at(served.port), 'shop.acme.gone.prod.0': at(dead) },
    spans: () => new FlowSpans({ ratio: 1, clock: systemClock, emit: (span) => void spans.push(span) }),
  })
  const before = Date.now()
  const call = async (service: string) => {
    spans.length = 0
    const client = agents.dial(service)
    client.socket.end('hello')
    client.socket.resume()
    await client.closed
  }

  await call('shop.acme.cart.prod')
  await until(() => spans.length === 2)
  const [far, near] = spans.toSorted((a, b) => (a.kind < b.kind ? 1 : -1)) as [Span, Span]
  t.match(near, {
    kind: 'client',
    name: 'shop.acme.cart.prod.any.rr.local:8080',
    attributes: {
      'hedgerow.flow': near.spanId,
      'hedgerow.caller': 'edge/near',
      'hedgerow.instance': 'shop.acme.cart.prod.0',
      'hedgerow.node': 'edge/far',
      'hedgerow.path': 'direct',
      'hedgerow.sent': 5,
      'hedgerow.received': 5,
      'hedgerow.end': 'closed',
      'network.transport': 'tcp',
    },
    events: [
      { name: 'planned', attributes: { 'hedgerow.plan.candidates': 1, 'hedgerow.plan.permission': /host processes/ } },
      { name: 'tried', attributes: { 'hedgerow.try.outcome': 'opened', 'hedgerow.try.is_early': Boolean } },
    ],
  })
  t.equal(near.error, undefined)
  t.match(far, {
    kind: 'server',
    name: 'shop.acme.cart.prod.0:8080',
    traceId: near.traceId,
    parentSpanId: near.spanId,
    attributes: { 'hedgerow.peer': 'edge/near', 'hedgerow.received': 5, 'hedgerow.sent': 5 },
  })
  for (const { startMs, endMs, events } of spans) {
    const times = [before - 1, startMs, ...events.map(({ atMs }) => atMs), endMs, Date.now() + 1]
    t.same(
      times,
      times.toSorted((a, b) => a - b),
      'in order',
    )
  }
  const scraped = await agents.near.metrics.registry.metrics()
  t.match(scraped, /hedgerow_proxy_flow_connect_seconds_count/)
  agents.near.metrics.registry.setContentType('application/openmetrics-text; version=1.0.0; charset=utf-8' as never)
  t.match(
    await agents.near.metrics.registry.metrics(),
    new RegExp(`# \\{trace_id="${near.traceId}"\\} `),
    'its exemplar',
  )

  await call('shop.acme.gone.prod')
  await until(() => spans.length === 2)
  t.match(
    spans.find(({ kind }) => kind === 'client')?.error,
    /^refused: .*refused by edge.far/,
    'the caller’s node says which node refused',
  )
  t.match(
    spans.find(({ kind }) => kind === 'server')?.error,
    /^refused: .*ECONNREFUSED/,
    'and why is said by the instance’s',
  )

  await call('shop.acme.closed.prod')
  await until(() => spans.length === 1)
  t.match(spans[0], { kind: 'client', error: /^not-allowed: /, events: [{ name: 'planned' }] })
})
