import t from 'tap'
import { FlowLedger } from '../../proxy/flow/ledger.ts'
import type { LoggedFlow } from '../../proxy/flow/flow-line.ts'
import { lineOf, recordOf } from '../../src/agent/telemetry.ts'
import { openMetrics } from '../../src/core/metrics.ts'
import { ManualClock } from '../support/manual-clock.ts'
import { keptLog } from './world.ts'

/** Two flows that have ended: one that an instance took, one that none did. */
async function logged(): Promise<LoggedFlow[]> {
  const clock = new ManualClock()
  const metrics = openMetrics('agent')
  const lines: LoggedFlow[] = []
  const flowLog = (ended: LoggedFlow) => void lines.push(ended)
  const ledger = await FlowLedger.start({ drainMs: 0 }, { clock, log: keptLog(), metrics, flowLog })
  const flow = (id: string) => ({
    id,
    caller: 'node',
    name: 'shop.acme.cart.prod.any.rr.local',
    port: 8080,
    protocol: 'tcp' as const,
    mode: 'loopback' as const,
    policy: 'rr',
    startedAt: clock.now(),
    pipe: { near: { bytes: 10 }, far: { bytes: 2_000 } },
    cut: () => undefined,
  })
  const taken = flow('00000000000000a1')
  ledger.add(taken)
  ledger.chosen(taken, { instance: { id: 'shop.acme.cart.prod.0', node: 'edge/n2' }, endpoint: undefined }, 'direct')
  const refused = flow('00000000000000a2')
  ledger.add(refused)
  await clock.advance(1_500)
  ledger.ended(taken, 'closed', '')
  ledger.ended(refused, 'no-instance', `é\n${'x'.repeat(1_000)}`)
  await ledger.close()
  metrics.registry.clear()
  return lines
}

t.test('to syslog: JSON on one line of ASCII that fits into a datagram', async (t) => {
  const [taken, refused] = (await logged()).map((ended) => lineOf(ended, 'edge/n1', 1_700_000_000_000))
  t.match(taken, { atMs: 1_700_000_000_000, severity: 'info', kind: 'flow-ended' })
  t.strictSame(JSON.parse(taken?.text ?? ''), {
    msg: 'flow ended',
    at: 'edge/n1',
    flow: '00000000000000a1',
    caller: 'node',
    name: 'shop.acme.cart.prod.any.rr.local',
    port: 8080,
    protocol: 'tcp',
    mode: 'loopback',
    policy: 'rr',
    instance: 'shop.acme.cart.prod.0',
    node: 'edge/n2',
    path: 'direct',
    sent: 10,
    received: 2_000,
    end: 'closed',
    ms: 1_500,
  })
  t.match(refused, { severity: 'warn', kind: 'flow-refused', text: /^[\x20-\x7e]{1,1800}$/ })
  t.match(JSON.parse(refused?.text ?? ''), { msg: 'flow refused', end: 'no-instance', reason: /^é\nx{498}$/ })
})

t.test('to a collector: the names of the spans, and their ids where there are spans', async (t) => {
  const [taken, refused] = await logged()
  if (taken === undefined || refused === undefined) throw new Error('two flows ended')
  const record = recordOf({ ...taken, isTraced: true }, 1_700_000_000_000)
  t.match(record, { severity: 'info', sentence: 'flow ended', spanId: '00000000000000a1', traceId: /^[0-9a-f]{32}$/ })
  t.match(record.attributes, {
    'server.address': 'shop.acme.cart.prod.any.rr.local',
    'hedgerow.node': 'edge/n2',
    'hedgerow.ms': 1_500,
  })
  const other = recordOf(refused, 1_700_000_000_000)
  t.match(other, { severity: 'warn', attributes: { 'hedgerow.end': 'no-instance', 'hedgerow.reason': /^é/ } })
  t.notHas(other, { traceId: /./ })
})
