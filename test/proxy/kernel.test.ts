import t from 'tap'
import { parseConnections } from '../../proxy/kernel/connections.ts'
import { countersOf, grown, parseCounters, payload } from '../../proxy/kernel/counters.ts'
import { decide, type KernelEndpoint, type LocalFacts } from '../../proxy/kernel/decide.ts'
import { FastPath, type FastPathFacts } from '../../proxy/kernel/fast-path.ts'
import type { Kernel } from '../../proxy/kernel/kernel.ts'
import { rowsOf } from '../../proxy/kernel/rows.ts'
import { change, empty, isSameShape, namesOf, type Row, type Rows, takeOver } from '../../proxy/kernel/rules.ts'
import { type Caller, instanceCaller } from '../../proxy/flow/flow.ts'
import { isMeshError } from '../../src/core/errors.ts'
import { systemClock } from '../../src/core/kit/clock.ts'
import { openMetrics } from '../../src/core/metrics.ts'
import { vipRange } from '../../src/core/model/address.ts'
import { type ChoiceKey, choiceOf } from '../../src/core/model/choice.ts'
import type { InstanceId } from '../../src/core/model/ids.ts'
import type { InstanceState } from '../../src/core/model/instance.ts'
import { entryOf, keptLog, LiteralTable } from './world.ts'
import { until } from '../support/until.ts'

const CART = 'shop.acme.cart.prod'
const HERE = 'edge/n1'
const THERE = 'edge/n2'
const RANGE = vipRange('10.30.0.0/16')
const NAMES = namesOf(RANGE, 'me', ['docker0'])

/** Instance N listens at 127.0.0.1:2000N unless said otherwise. */
function factsOf(facts: Partial<LocalFacts> & { at?: Record<number, KernelEndpoint | undefined> } = {}): FastPathFacts {
  return {
    self: HERE,
    endpointOf: (instance) => {
      const ordinal = Number(instance.slice(instance.lastIndexOf('.') + 1))
      return facts.at !== undefined && ordinal in facts.at
        ? facts.at[ordinal]
        : { host: '127.0.0.1', port: 20_000 + ordinal }
    },
    callers: () => [],
    forbids: (_, port) => port === 1,
    isThisMachine: (address) => address.startsWith('127.') || address === '::1' || address === '192.0.2.7',
    isDraining: () => false,
    ...facts,
  }
}

const caller = (id: string): Caller => instanceCaller(id) as Caller

interface Case {
  choice: ChoiceKey
  on: string[]
  states?: InstanceState[]
  allow?: string[]
  facts?: LocalFacts
  family?: 4 | 6
  /** The instances the kernel gets, or why it gets none. */
  is: number[] | RegExp
  why: string
}

const CASES: readonly Case[] = [
  { choice: 'any.rr', on: [HERE, HERE], is: [0, 1], why: 'all are here' },
  {
    choice: 'any.rr',
    on: [HERE, THERE],
    is: /prod\.1 on edge\/n2 takes its turns too/,
    why: 'the balance would change',
  },
  { choice: 'any.rr', on: [HERE, THERE], states: ['running', 'starting'], is: [0], why: 'only what runs has turns' },
  { choice: 'any.rr', on: [THERE], is: /is on edge\/n2/, why: 'the kernel knows no other node' },
  { choice: 'any.rr', on: [], is: /no instance runs/, why: 'nothing to send it to' },
  { choice: 'any.closest', on: [HERE, THERE, HERE], is: [0, 2], why: 'this node is nearest' },
  { choice: 'any.closest', on: [THERE], is: /no instance runs on this node/, why: 'round-trip times decide' },
  { choice: '1.pinned', on: [THERE, HERE], is: [1], why: 'one target' },
  { choice: '0.pinned', on: [THERE, HERE], is: /prod\.0 is on edge\/n2/, why: 'and no other' },
  { choice: '2.pinned', on: [HERE, HERE], is: /instance 2 does not run/, why: 'user space refuses it' },
  { choice: '1.rr', on: [HERE, HERE], is: [1], why: 'while it runs' },
  { choice: '1.rr', on: [HERE, HERE], states: ['running', 'failed'], is: [0], why: 'else by the policy' },
  { choice: '0.least', on: [HERE, THERE], is: [0], why: 'nothing to weigh' },
  { choice: 'any.least', on: [HERE, HERE], is: /weigh open flows/, why: 'only user space counts flows' },
  { choice: 'any.pinned', on: [HERE], is: [0], why: 'host processes share one instance' },
  {
    choice: 'any.pinned',
    on: [HERE],
    facts: factsOf({ callers: () => [caller('shop.acme.web.prod.0')] }),
    is: /each caller sticks to an instance of its own/,
    why: 'callers cannot be told apart',
  },
  {
    choice: 'any.rr',
    on: [HERE],
    facts: factsOf({ callers: () => [caller('shop.acme.web.prod.0')] }),
    is: [0],
    why: 'of the same app: everybody here may call',
  },
  {
    choice: 'any.rr',
    on: [HERE],
    facts: factsOf({ callers: () => [caller('bank.acme.web.prod.0')] }),
    is: /bank\.acme\.web\.prod\.0 on this node may not call it/,
    why: 'an instance here may not call',
  },
  {
    choice: 'any.rr',
    on: [HERE],
    allow: ['node', 'bank.acme'],
    facts: factsOf({ callers: () => [caller('bank.acme.web.prod.0')] }),
    is: [0],
    why: 'allowed by name, and so are host processes',
  },
  {
    choice: 'any.rr',
    on: [HERE],
    allow: ['bank.acme'],
    is: /host processes may not call it/,
    why: 'an allow list without node',
  },
  { choice: 'any.rr', on: [HERE], allow: ['*'], is: [0], why: 'everybody may' },
  { choice: 'any.rr', on: [HERE, HERE], facts: factsOf({ at: { 0: undefined } }), is: [1], why: 'it has just ended' },
  {
    choice: '0.pinned',
    on: [HERE],
    facts: factsOf({ at: { 0: undefined } }),
    is: /not ready/,
    why: 'user space refuses',
  },
  {
    choice: 'any.rr',
    on: [HERE, HERE],
    facts: factsOf({ at: { 1: { host: '127.0.0.1', port: 9, proxyProtocol: 'v2' } } }),
    is: /PROXY protocol/,
    why: 'its header is written in user space, and the others must not get all flows',
  },
  {
    choice: 'any.rr',
    on: [HERE],
    family: 6,
    is: /127\.0\.0\.1, which is not IPv6/,
    why: 'no translation between families',
  },
  {
    choice: 'any.rr',
    on: [HERE],
    family: 6,
    facts: factsOf({ at: { 0: { host: '::1', port: 80 } } }),
    is: [0],
    why: 'both are IPv6',
  },
  {
    choice: 'any.rr',
    on: [HERE],
    facts: factsOf({ at: { 0: { host: 'db.lan', port: 80 } } }),
    is: /db\.lan/,
    why: 'a name',
  },
  {
    choice: 'any.rr',
    on: [HERE],
    facts: factsOf({ at: { 0: { host: '203.0.113.9', port: 80 } } }),
    is: /not an address of this machine/,
    why: 'an external service elsewhere',
  },
  {
    choice: 'any.rr',
    on: [HERE],
    facts: factsOf({ at: { 0: { host: '127.0.0.1', port: 1 } } }),
    is: /no flow may reach/,
    why: 'a port of the agent (SEC-23)',
  },
]

t.test('the kernel carries only flows for which user space is not needed', async (t) => {
  for (const { choice, on, states = [], allow = [], facts = factsOf(), family = 4, is, why } of CASES) {
    const entry = entryOf({ id: CART, on, states, allow, vips: { [choice]: 0xe0203 } })
    const target = { service: entry.service, choice: choiceOf(choice) as never, vip: 0xe0203 }
    const decision = decide(target, { port: 80, protocol: 'tcp' }, family, entry, facts)
    const told = `${choice} on ${on.join(' ')}: ${why}`
    if (is instanceof RegExp) t.match(decision, { path: 'user', reason: is }, told)
    else
      t.same(
        decision.path === 'kernel' && decision.instances.map(({ ordinal }) => ordinal),
        is,
        `${told} ${decision.reason}`,
      )
  }
  const two = entryOf({ id: CART, on: [HERE, HERE], vips: { 'any.rr': 0xe0203 } })
  const target = { service: two.service, choice: { instance: 'any', policy: 'rr' } as const, vip: 0xe0203 }
  t.equal(decide(target, { port: 80, protocol: 'tcp' }, 4, two, factsOf()).reason, '2 local instances, round robin')
})

const rowsFor = (on: string[], facts = factsOf(), more: object = {}): Rows => {
  const entry = entryOf({ id: CART, on, vips: { 'any.rr': 0xe0203 }, ...more })
  return new Map(rowsOf(entry, RANGE, facts).map((row) => [row.name, row]))
}

t.test('the nftables table is rendered as expected', async (t) => {
  t.same(
    takeOver(NAMES, rowsFor([HERE, HERE]))
      .trimEnd()
      .split('\n'),
    [
      'add table inet hedgerow_10_30_0_0_16',
      'delete table inet hedgerow_10_30_0_0_16',
      'create table inet hedgerow_10_30_0_0_16',
      'add chain inet hedgerow_10_30_0_0_16 o_me',
      'add chain inet hedgerow_10_30_0_0_16 output { type nat hook output priority -110; }',
      'add chain inet hedgerow_10_30_0_0_16 outward { type filter hook output priority 0; }',
      'add map inet hedgerow_10_30_0_0_16 vips4 { type ipv4_addr . inet_proto . inet_service : verdict; }',
      'add map inet hedgerow_10_30_0_0_16 outer4 { type ipv4_addr . inet_proto . inet_service : verdict; }',
      'add rule inet hedgerow_10_30_0_0_16 output ip saddr 127.0.0.1 ip daddr 10.30.0.0/16 ip daddr . meta l4proto . th dport vmap @vips4',
      'add rule inet hedgerow_10_30_0_0_16 outward ct status dnat ct direction original meta l4proto tcp ct original ip daddr 10.30.0.0/16 counter accept comment "s_tcp_4"',
      'add rule inet hedgerow_10_30_0_0_16 outward ct status dnat ct direction reply meta l4proto tcp ct original ip daddr 10.30.0.0/16 counter accept comment "r_tcp_4"',
      'add counter inet hedgerow_10_30_0_0_16 v_e0203_tcp_80_4_0',
      'add chain inet hedgerow_10_30_0_0_16 v_e0203_tcp_80_4_0',
      'flush chain inet hedgerow_10_30_0_0_16 v_e0203_tcp_80_4_0',
      'add rule inet hedgerow_10_30_0_0_16 v_e0203_tcp_80_4_0 meta l4proto tcp counter name "v_e0203_tcp_80_4_0" dnat ip to 127.0.0.1:20000',
      'add counter inet hedgerow_10_30_0_0_16 v_e0203_tcp_80_4_1',
      'add chain inet hedgerow_10_30_0_0_16 v_e0203_tcp_80_4_1',
      'flush chain inet hedgerow_10_30_0_0_16 v_e0203_tcp_80_4_1',
      'add rule inet hedgerow_10_30_0_0_16 v_e0203_tcp_80_4_1 meta l4proto tcp counter name "v_e0203_tcp_80_4_1" dnat ip to 127.0.0.1:20001',
      'add chain inet hedgerow_10_30_0_0_16 v_e0203_tcp_80_4',
      'add rule inet hedgerow_10_30_0_0_16 v_e0203_tcp_80_4 numgen inc mod 2 vmap { 0 : goto v_e0203_tcp_80_4_0, 1 : goto v_e0203_tcp_80_4_1 }',
      'add element inet hedgerow_10_30_0_0_16 vips4 { 10.30.2.3 . tcp . 80 : goto v_e0203_tcp_80_4 }',
    ],
  )
})

t.test('a change of rows is rendered as one transaction', async (t) => {
  const none: Rows = new Map()
  const one = rowsFor([HERE])
  const text = (before: Rows, after: Rows) =>
    change(NAMES, before, after).replaceAll(`inet ${NAMES.table} `, '').trimEnd().split('\n')
  t.equal(change(NAMES, one, rowsFor([HERE])), '', 'nothing is different: nothing is done')
  t.same(text(one, none), [
    'flush chain o_me', // fails as a whole when the table is another agent's
    'delete element vips4 { 10.30.2.3 . tcp . 80 }',
    'flush chain v_e0203_tcp_80_4',
    'delete chain v_e0203_tcp_80_4',
    'flush chain v_e0203_tcp_80_4_0',
    'delete chain v_e0203_tcp_80_4_0',
  ])
  const second = rowsFor([HERE, HERE], factsOf({ at: { 0: undefined } }))
  t.same(
    text(one, second),
    [
      'flush chain o_me',
      'add counter v_e0203_tcp_80_4_1',
      'add chain v_e0203_tcp_80_4_1',
      'flush chain v_e0203_tcp_80_4_1',
      'add rule v_e0203_tcp_80_4_1 meta l4proto tcp counter name "v_e0203_tcp_80_4_1" dnat ip to 127.0.0.1:20001',
      'flush chain v_e0203_tcp_80_4',
      'add rule v_e0203_tcp_80_4 goto v_e0203_tcp_80_4_1',
      'flush chain v_e0203_tcp_80_4_0',
      'delete chain v_e0203_tcp_80_4_0',
    ],
    'one instance for another: the VIP is never without',
  )
  t.match(empty(NAMES, one), /flush chain .* o_me\nflush map .* vips4\nflush map .* outer4\n/)
})

t.test('unneeded rules are left out, since every packet of the machine would pay for them', async (t) => {
  const outer = rowsFor([HERE], factsOf({ at: { 0: { host: '192.0.2.7', port: 80 } } }))
  t.match(takeOver(NAMES, outer), /prerouting iifname "docker0".*@outer4\n/)
  t.match(takeOver(NAMES, outer), /add element .* outer4 \{ 10\.30\.2\.3 \. tcp \. 80 : goto/)
  t.notMatch(takeOver(NAMES, rowsFor([HERE])), /prerouting|inward|vips6/)
  t.notOk(isSameShape(outer, rowsFor([HERE])), 'a row whose instance is on another host needs other chains')
  t.ok(isSameShape(rowsFor([HERE]), new Map()), 'a row within the node needs the same chains as none')

  const both = vipRange('10.30.0.0/16', 'fd12:3456:789a::/48')
  const entry = entryOf({ id: CART, on: [HERE], ports: [], udp: [53], vips: { 'any.rr': 0xe0203 } })
  const rows = rowsOf(entry, both, factsOf({ at: { 0: { host: '::1', port: 5_300 } } }))
  t.same(
    rows.map(({ name, address }) => [name, address]),
    [['v_e0203_udp_53_6', 'fd12:3456:789a::e:203']],
  )
  const text = takeOver(namesOf(both, 'me', ['docker0']), new Map(rows.map((row) => [row.name, row])))
  t.match(
    text,
    /output ip6 saddr ::1 ip6 daddr fd12:3456:789a::\/48 ip6 daddr \. meta l4proto \. th dport vmap @vips6\n/,
  )
  t.match(text, /meta l4proto udp counter name "v_e0203_udp_53_6_0" dnat ip6 to \[::1\]:5300\n/)
})

t.test('counters are named and parsed, and their headers are known', async (t) => {
  const [row] = [...rowsFor([HERE]).values()] as [Row]
  t.same(countersOf(row), [
    ['v_e0203_tcp_80_4_0', { kind: 'flows', policy: 'rr', protocol: 'tcp' }],
    ['s_tcp_4', { kind: 'bytes', direction: 'sent', header: 52 }],
    ['r_tcp_4', { kind: 'bytes', direction: 'received', header: 52 }],
  ])
  const listed = parseCounters(
    '{"nftables": [{"metainfo": {"version": "1.0.6"}}, {"counter": {"family": "inet", "name": "a", "table": "x", "handle": 2, "packets": 3, "bytes": 20148}}, {"rule": {"family": "inet", "table": "x", "chain": "a", "handle": 7, "expr": [{"counter": "a"}]}}, {"rule": {"chain": "outward", "comment": "s", "expr": [{"match": {}}, {"counter": {"packets": 2, "bytes": 120}}, {"accept": null}]}}, {"rule": {"chain": "inward", "comment": "s", "expr": [{"counter": {"packets": 1, "bytes": 60}}]}}]}',
  )
  t.same(
    [...listed],
    [
      ['a', { packets: 3, bytes: 20_148 }],
      ['s', { packets: 3, bytes: 180 }],
    ],
  )
  t.same(grown({ packets: 2, bytes: 200 }, { packets: 5, bytes: 900 }), { packets: 3, bytes: 700 })
  t.same(grown(undefined, { packets: 5, bytes: 900 }), { packets: 5, bytes: 900 })
  t.same(grown({ packets: 9, bytes: 900 }, { packets: 1, bytes: 60 }), { packets: 1, bytes: 60 }, 'begun anew')
  t.equal(payload({ packets: 10, bytes: 1_520 }, 52), 1_000, 'bytes without ten headers of 52')
  t.equal(payload({ packets: 10, bytes: 400 }, 52), 0, 'never less than nothing')
})

t.test('connections carried by the kernel are read from conntrack', async (t) => {
  const lines = [
    'ipv4     2 tcp      6 431999 ESTABLISHED src=127.0.0.1 dst=10.30.2.3 sport=40390 dport=80 src=127.0.0.1 dst=127.0.0.1 sport=20001 dport=40390 [ASSURED] mark=0 zone=0 use=2',
    'ipv4     2 tcp      6 119 TIME_WAIT src=127.0.0.1 dst=10.30.2.3 sport=37156 dport=80 src=127.0.0.1 dst=127.0.0.1 sport=20002 dport=37156 [ASSURED] mark=0 zone=0 use=2',
    'udp      17 29 src=127.0.0.1 dst=10.30.2.3 sport=44155 dport=53 [UNREPLIED] src=127.0.0.1 dst=127.0.0.1 sport=20001 dport=44155 mark=0 use=1',
    'tcp      6 431999 ESTABLISHED src=127.0.0.1 dst=10.30.2.3 sport=40391 dport=80 src=10.30.2.3 dst=127.0.0.1 sport=80 dport=40391 [ASSURED] mark=0 use=1',
    'tcp      6 431999 ESTABLISHED src=127.0.0.1 dst=127.0.0.1 sport=40392 dport=9 src=127.0.0.1 dst=127.0.0.1 sport=9 dport=40392 [ASSURED] mark=0 use=1',
    'icmp     1 29 src=127.0.0.1 dst=10.30.2.3 type=8 code=0 id=1 src=10.30.2.3 dst=127.0.0.1 type=0 code=0 id=1 mark=0 use=1',
    'ipv6     10 tcp      6 431999 ESTABLISHED src=0000:0000:0000:0000:0000:0000:0000:0001 dst=fd12:3456:789a:0000:0000:0000:000e:0203 sport=1 dport=80 src=0000:0000:0000:0000:0000:0000:0000:0001 dst=0000:0000:0000:0000:0000:0000:0000:0001 sport=20001 dport=1 [ASSURED] mark=0 zone=0 use=2',
    '',
  ]
  t.same(parseConnections(lines.join('\n'), vipRange('10.30.0.0/16', 'fd12:3456:789a::/48')), [
    { protocol: 'tcp', host: '127.0.0.1', port: 20_001 },
    { protocol: 'udp', host: '127.0.0.1', port: 20_001 },
    { protocol: 'tcp', host: '::1', port: 20_001 },
  ])
})

/** A kernel that takes everything, unless it is told to fail. */
class PaperKernel implements Kernel {
  readonly applied: string[] = []
  readonly forgotten: string[] = []
  fails: (rules: string) => string | undefined = () => undefined
  isBusy = false
  listed = ''
  counted: Record<string, { packets: number; bytes: number }> = {}

  async apply(rules: string): Promise<void> {
    if (this.isBusy) throw new Error('two transactions at a time')
    this.isBusy = true
    await new Promise((resolve) => setImmediate(resolve))
    this.isBusy = false
    const failure = this.fails(rules)
    if (failure !== undefined) throw new Error(failure)
    this.applied.push(rules)
  }

  async counters(): Promise<string> {
    const counters = Object.entries(this.counted).map(([name, reading]) => ({ counter: { name, ...reading } }))
    return JSON.stringify({ nftables: counters })
  }

  connections = async () => this.listed
  forget = async ({ host, port }: { host: string; port: number }) => void this.forgotten.push(`${host}:${port}`)
  leaveFromLoopback = async () => undefined
}

async function running(table: LiteralTable, facts: FastPathFacts, kernel = new PaperKernel()) {
  const metrics = openMetrics('agent')
  const mayBegin = Promise.withResolvers<void>()
  const log = keptLog()
  const parts = {
    table,
    range: RANGE,
    facts,
    kernel,
    mayBegin: mayBegin.promise,
    mark: 'me',
    clock: systemClock,
    log,
    metrics,
  }
  const fastPath = await FastPath.start(parts)
  return { fastPath, kernel, metrics, begin: mayBegin.resolve }
}

const cart = (on: string[], more: object = {}) => ({ id: CART, on, vips: { 'any.rr': 0xe0203 }, ...more })

t.test('the kernel path follows the table, one transaction at a time', async (t) => {
  const table = new LiteralTable(cart([HERE]))
  const { fastPath, kernel, metrics, begin } = await running(table, factsOf())
  const target = {
    service: table.entry(CART)?.service as never,
    choice: { instance: 'any', policy: 'rr' } as const,
    vip: 0xe0203,
  }
  t.equal(fastPath.explain(target, { port: 80, protocol: 'tcp' }).reason, 'the agent is starting')
  t.equal(kernel.applied.length, 0, 'an predecessor agent may have the table')
  begin()
  await until(() => fastPath.isOn)
  t.match(kernel.applied[0], /^add table .*\ndelete table /)
  t.equal(fastPath.size, 1, 'one VIP is in the kernel')
  t.match(fastPath.explain(target, { port: 80, protocol: 'tcp' }), { path: 'kernel', reason: `${CART}.0, local` })

  for (let n = 2; n < 20; n += 1) table.set(cart(Array.from({ length: n }, () => HERE)))
  await fastPath.admit()
  t.ok(kernel.applied.length <= 3, `18 changes in ${kernel.applied.length - 1} transactions`)
  t.match(kernel.applied.at(-1), /numgen inc mod 19/)

  kernel.counted = { v_e0203_tcp_80_4_0: { packets: 7, bytes: 420 }, s_tcp_4: { packets: 10, bytes: 1_520 } }
  await fastPath.read()
  kernel.counted['v_e0203_tcp_80_4_0'] = { packets: 9, bytes: 540 }
  await fastPath.read()
  const page = await metrics.registry.metrics()
  t.match(
    page,
    /hedgerow_proxy_flows_total\{policy="rr",path="kernel",result="begun",protocol="tcp",role="agent"\} 9\n/,
  )
  t.match(page, /hedgerow_proxy_flow_bytes_total\{direction="sent",role="agent"\} 1000\n/)
  t.match(page, /hedgerow_proxy_kernel_rows\{role="agent"\} 1\n/)

  await fastPath.rest()
  t.match(kernel.applied.at(-1), /flush map .* vips4/)
  await fastPath.close()
  t.match(kernel.applied.at(-1), /^flush chain .* o_me\ndelete table inet hedgerow_10_30_0_0_16\n$/)
})

t.test('an instance that loses its permission waits until its rows are removed', async (t) => {
  const callers: Caller[] = []
  const { fastPath, kernel, begin } = await running(new LiteralTable(cart([HERE])), factsOf({ callers: () => callers }))
  begin()
  await until(() => fastPath.isOn)
  callers.push(caller('bank.acme.web.prod.0'))
  await fastPath.admit()
  t.match(kernel.applied.at(-1), /delete element .* vips4 \{ 10\.30\.2\.3 \. tcp \. 80 \}/)
  t.equal(fastPath.size, 0, 'a service that not everybody may call leaves the kernel')
  callers.pop()
  fastPath.refresh(CART)
  await until(() => fastPath.size === 1)
  kernel.fails = () => 'Error: Could not process rule: Device or resource busy'
  callers.push(caller('bank.acme.web.prod.0'))
  const error = await fastPath.admit().catch((error: unknown) => error)
  t.ok(isMeshError(error, 'INTERCEPT_FAILED'), 'it must not start while it could use them')
  kernel.fails = () => undefined
  await fastPath.admit()
  t.ok(fastPath.isOn, 'it is on again once the kernel takes rules')
  t.match(kernel.applied.at(-1), /^add table .*\ndelete table /, 'all anew')
  await fastPath.close()
})

t.test('without nft or the privilege everything stays in user space, and the reason is reported', async (t) => {
  for (const [message, reason] of [
    ['spawn nft ENOENT', 'nft is not installed'],
    ['Command failed: nft -f x\nx:1:1-5: Error: Could not process rule: Operation not permitted', /no right/],
  ] as const) {
    const kernel = new PaperKernel()
    kernel.fails = () => message
    const table = new LiteralTable(cart([HERE]))
    const { fastPath, begin } = await running(table, factsOf(), kernel)
    begin()
    await until(() => fastPath.fault !== undefined)
    t.match(fastPath.fault, { reason })
    const target = {
      service: table.entry(CART)?.service as never,
      choice: { instance: 'any', policy: 'rr' } as const,
      vip: 0xe0203,
    }
    t.match(fastPath.explain(target, { port: 80, protocol: 'tcp' }), {
      path: 'user',
      reason: /^the fast path is off: /,
    })
    await fastPath.admit() // nothing of ours is in the kernel: nothing to wait for
    kernel.fails = () => undefined
    fastPath.refresh()
    await until(() => fastPath.isOn)
    t.equal(fastPath.fault, undefined, 'it mends itself')
    await fastPath.close()
  }
})

t.test('a table owned by a successor process is left alone', async (t) => {
  const table = new LiteralTable(cart([HERE]))
  const { fastPath, kernel, begin } = await running(table, factsOf())
  begin()
  await until(() => fastPath.isOn)
  kernel.fails = (rules) =>
    rules.startsWith('create')
      ? 'Error: Could not process rule: File exists'
      : 'Error: Could not process rule: No such file or directory'
  table.set(cart([HERE, HERE]))
  await until(() => !fastPath.isOn)
  t.equal(fastPath.fault, undefined, 'a table that another agent owns is no fault')
  kernel.fails = () => undefined
  const before = kernel.applied.length
  await fastPath.close()
  t.equal(kernel.applied.length, before)
})

t.test('UDP conntrack entries of ended instances are deleted, and those of draining ones are kept', async (t) => {
  const draining = new Set<InstanceId>()
  const at: Record<number, KernelEndpoint | undefined> = {}
  const facts = { ...factsOf({ at }), isDraining: (instance: InstanceId) => draining.has(instance) }
  const table = new LiteralTable(cart([HERE, HERE], { ports: [], udp: [53] }))
  const { fastPath, kernel, begin } = await running(table, facts)
  begin()
  await until(() => fastPath.isOn)
  kernel.listed =
    'udp 17 29 src=127.0.0.1 dst=10.30.2.3 sport=4 dport=53 src=127.0.0.1 dst=127.0.0.1 sport=20000 dport=4 mark=0 use=1\n'
  t.equal(fastPath.openFlows(`${CART}.0`), 1, 'not known yet')
  t.equal(await fastPath.count(), 1, 'the list has one flow')
  t.same([fastPath.openFlows(`${CART}.0`), fastPath.openFlows(`${CART}.1`), fastPath.openFlows('x')], [1, 0, 0])
  draining.add(`${CART}.0`)
  at[0] = undefined
  await fastPath.admit()
  t.same(kernel.forgotten, [])
  t.equal(fastPath.openFlows(`${CART}.0`), 1, 'a draining instance keeps its flow')
  draining.clear()
  await fastPath.admit()
  t.same(kernel.forgotten, ['127.0.0.1:20000'])
  t.equal(fastPath.openFlows(`${CART}.0`), 0, 'the flow to an instance that is gone is forgotten')
  t.equal(fastPath.flaw, undefined, 'nothing is wrong with the rules')
  kernel.forget = async () => Promise.reject(new Error('spawn conntrack ENOENT'))
  at[1] = undefined
  await fastPath.admit()
  t.match(fastPath.flaw, /conntrack is not installed/)
  await fastPath.close()
})
