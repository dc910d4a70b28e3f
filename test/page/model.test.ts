import t from 'tap'
import { withEvents } from '../../src/page/model/mesh.ts'
import { certificateOf, clusterView, nodeView, nodeViews, shownNodes } from '../../src/page/model/nodes.ts'
import { hashOf, routeIn } from '../../src/page/model/route.ts'
import type { EventRow, InstanceRow, ServiceRow } from '../../src/page/model/rows.ts'
import { serviceView, serviceViews, shownServices, toneOf } from '../../src/page/model/services.ts'
import { coresText, memoryText, nameParts, spanText, whenText } from '../../src/page/model/text.ts'
import { tokenIn } from '../../src/page/model/typed-token.ts'
import { Watched } from '../../src/page/model/watched.ts'
import { windowOf } from '../../src/page/model/window.ts'
import { CAPACITY, clusterRow, instanceRow, nodeRow as node, serviceRow, usage } from './rows.ts'

const NOW = 1_800_000_000_000
const HOUR = 3_600_000

const service = (more: Partial<ServiceRow> = {}) => serviceRow({ replicas: 3, generation: 2, ...more })
const instance = (ordinal: number, more: Partial<InstanceRow> = {}) => instanceRow(ordinal, { generation: 2, ...more })

function event(number: number, more: Partial<EventRow> = {}): EventRow {
  return { number, at: NOW, what: 'ready', by: 'worker', ...more }
}

t.test('how a service is, in one word and one colour', async (t) => {
  const all = [instance(0), instance(1), instance(2)]
  const rows = [
    { why: 'all is well', row: service(), instances: all, word: 'running', tone: 'good' },
    { why: 'nothing is wanted', row: service({ replicas: 0 }), instances: [], word: 'stopped', tone: 'idle' },
    { why: 'one is missing', row: service(), instances: all.slice(1), word: '2 of 3 ready', tone: 'busy' },
    { why: 'one too many is going', row: service({ replicas: 2 }), instances: all, word: 'scaling down', tone: 'busy' },
    {
      why: 'one has failed, the others serve',
      row: service(),
      instances: [...all.slice(1), instance(0, { state: 'failed' })],
      word: '2 of 3 ready',
      tone: 'warn',
    },
    {
      why: 'none has found a place',
      row: service({ replicas: 1 }),
      instances: [instance(0, { state: 'unplaceable' })],
      word: '0 of 1 ready',
      tone: 'bad',
    },
    { why: 'it is updated', row: service({ update: 'updated 1/3' }), instances: all, word: 'updating', tone: 'busy' },
    {
      why: 'its update is stuck',
      row: service({ update: 'updated 1/3, stuck: it is not ready' }),
      instances: all,
      word: 'updating',
      tone: 'warn',
    },
    {
      why: 'a job has ended well',
      row: service({ oneShot: true, replicas: 1 }),
      instances: [instance(0, { state: 'stopped' })],
      word: 'job ended',
      tone: 'idle',
    },
    {
      why: 'a job waits for its time',
      row: service({ oneShot: true, schedule: '0 3 * * *', replicas: 1 }),
      instances: [],
      word: 'job waits',
      tone: 'idle',
    },
    {
      why: 'a job was tried too often',
      row: service({ oneShot: true, replicas: 1 }),
      instances: [instance(0, { state: 'stopped', outcome: 'failed' })],
      word: 'job failed',
      tone: 'bad',
    },
  ]
  for (const { why, row, instances, word, tone } of rows) {
    const { word: told, tone: shown } = serviceView(row, instances)
    t.same({ word: told, tone: shown }, { word, tone }, why)
  }
})

t.test('a service’s numbers are those of its instances', async (t) => {
  const used = usage({ cpu: 0.25, memoryMb: 30 })
  const view = serviceView(service(), [
    instance(0, { usage: used, restarts: 2 }),
    instance(1, { usage: used, generation: 1 }),
    instance(2, { state: 'requested', generation: 0, node: undefined as never }),
  ])
  t.match(view, { wanted: 3, ready: 2, updated: 1, cpu: 0.5, memoryMb: 60, restarts: 2 })
  t.same(
    view.versions,
    [
      { generation: 2, count: 1 },
      { generation: 1, count: 1 },
    ],
    'what has no place yet has no version',
  )
  t.equal(serviceView(service(), [instance(0)]).cpu, undefined, 'what cannot be measured is not zero')
  t.equal(toneOf(instance(0, { detail: 'constraint violated: 40 ms' })), 'warn', 'one that violates a constraint')
})

t.test('trouble stands first, and what was typed narrows the list', async (t) => {
  const rows = [service({ id: 'a.x.fine.x' }), service({ id: 'a.x.ill.x', detail: '3 unplaceable: no gpu' })]
  const instances = [0, 1, 2].flatMap((ordinal) => [
    instance(ordinal, { service: 'a.x.fine.x' }),
    instance(ordinal, { service: 'a.x.ill.x', state: 'unplaceable' }),
  ])
  const views = serviceViews(rows, instances)
  const shown = (typed: string, filter: 'all' | 'trouble' | 'changing') =>
    shownServices(views, typed, filter).map(({ row }) => row.id)
  t.same(shown('', 'all'), ['a.x.ill.x', 'a.x.fine.x'])
  t.same(shown('', 'trouble'), ['a.x.ill.x'])
  t.same(shown('', 'changing'), [])
  t.same(shown('GPU', 'all'), ['a.x.ill.x'], 'by its detail, in any case')
  t.same(shown('fine running', 'all'), ['a.x.fine.x'], 'every word, name or state')
})

t.test('how a node is', async (t) => {
  const rows = [
    { row: node('edge/n1'), word: 'alive', tone: 'good' },
    { row: node('edge/n1', { condition: 'lost' }), word: 'lost', tone: 'bad' },
    { row: node('edge/n1', { condition: 'away', asOf: NOW - 90_000 }), word: 'away', tone: 'warn' },
    { row: node('edge/n1', { cordon: { at: NOW, reason: 'disk' } }), word: 'cordoned', tone: 'idle' },
    { row: node('edge/n1', { cordon: { at: NOW, drain: {} }, instances: 2 }), word: 'draining', tone: 'busy' },
    { row: node('edge/n1', { cordon: { at: NOW, drain: {} } }), word: 'drained', tone: 'idle' },
    { row: node('edge/n1', { dampedMs: 60_000, linksLost: 4 }), word: 'flapping', tone: 'warn' },
  ]
  for (const { row, word, tone } of rows) {
    const view = nodeView(row, NOW)
    t.same({ word: view.word, tone: view.tone }, { word, tone }, word)
  }
  const full = nodeView(
    node('edge/n1', { capacity: { ...CAPACITY, memoryMb: 1_000, vcpus: 4 }, freeMemoryMb: 250, freeVcpus: 5 }),
    NOW,
  )
  t.match(full, { cluster: 'edge', name: 'n1', memoryTaken: 0.75, cpuTaken: 0 }, 'shares stay between 0 and 1')
  t.equal(nodeView(node('edge/n1'), NOW).memoryTaken, undefined, 'a node that does not say is not empty')
  t.same(
    shownNodes(nodeViews([node('a/ok'), node('b/gone', { condition: 'lost' })], NOW), '').map(({ row }) => row.id),
    ['b/gone', 'a/ok'],
  )
  t.same(
    shownNodes(nodeViews([node('a/x', { labels: { site: 'hall' } }), node('a/y')], NOW), 'hall').length,
    1,
    'by label',
  )
  t.equal(
    clusterView(
      clusterRow('a', { nodes: 1, total: { ...CAPACITY, memoryMb: 100 }, free: { ...CAPACITY, memoryMb: 20 } }),
    ).memoryTaken,
    0.8,
  )
})

t.test('a certificate that nothing renews is told before it ends', async (t) => {
  t.same(certificateOf(undefined, NOW), { tone: 'idle', text: '–' })
  t.same(certificateOf(NOW + 20 * HOUR, NOW), { tone: 'good', text: 'in 20 h' })
  t.same(certificateOf(NOW + 5 * HOUR, NOW), { tone: 'warn', text: 'in 5 h' })
  t.same(certificateOf(NOW + HOUR / 2, NOW), { tone: 'bad', text: 'in 30 min' })
  t.same(certificateOf(NOW - 2 * HOUR, NOW), { tone: 'bad', text: 'ended 2 h ago' })
})

t.test('numbers and times as people read them', async (t) => {
  t.same([0, 999, 61_000, 7_300_000, 200_000_000].map(spanText), ['0 s', '0 s', '1 min', '2 h', '2 d'])
  t.same(
    [NOW, NOW - 5_000, NOW + 120_000].map((at) => whenText(at, NOW)),
    ['now', '5 s ago', 'in 2 min'],
  )
  t.same([undefined, 0.5, 12, 999, 3_481, 20_480].map(memoryText), [
    '–',
    '0.5 MiB',
    '12 MiB',
    '999 MiB',
    '3.4 GiB',
    '20 GiB',
  ])
  t.same([undefined, 0, 0.031, 1.5, 12].map(coresText), ['–', '0.00', '0.03', '1.5', '12'])
  t.same(nameParts('shop.acme.cart.prod'), { name: 'cart', within: 'shop.acme / prod' })
  t.same(nameParts('shop.acme.cart.acme.3'), { name: 'cart 3', within: 'shop.acme' })
  t.same(nameParts('odd'), { name: 'odd', within: '' })
})

t.test('the address says what is shown, and what it cannot mean leads to the first view', async (t) => {
  for (const route of [{ view: 'nodes', open: 'edge/n 1%' }, { view: 'services' }] as const)
    t.same(routeIn(hashOf(route)), route)
  t.same(routeIn(''), { view: 'services' })
  t.same(routeIn('#/nothing/there'), { view: 'services', open: 'there' })
  t.same(routeIn('#/nodes/%E0%A4%A'), { view: 'nodes' }, 'a broken escape')
})

t.test('of ten thousand rows only those that are seen are drawn', async (t) => {
  const { first, end, above, below } = windowOf(10_000, 56, { top: 56_000, height: 800 })
  t.ok(end - first < 40)
  t.ok(first <= 1_000 && end >= 1_000 + 15, 'all that can be seen')
  t.equal(above + below + (end - first) * 56, 10_000 * 56, 'the list is as long as with all of them')
  t.same(windowOf(0, 56, { top: 0, height: 800 }), { first: 0, end: 0, above: 0, below: 0 })
  t.same(
    windowOf(3, 56, { top: 5_000, height: 800 }),
    { first: 3, end: 3, above: 168, below: 0 },
    'the list has shrunk',
  )
})

t.test('events are kept in order, once, and not for ever', async (t) => {
  t.same(
    withEvents([event(1), event(3)], [event(4)]).map(({ number }) => number),
    [1, 3, 4],
  )
  t.same(
    withEvents([event(1), event(3)], [event(2), event(3)]).map(({ number }) => number),
    [1, 2, 3],
    'what comes again after a break is not told twice',
  )
  const many = withEvents(
    [],
    Array.from({ length: 2_500 }, (_, number) => event(number)),
  )
  t.equal(many.length, 2_000)
  t.equal(many.at(-1)?.number, 2_499)
})

t.test('a token is taken alone or in the file it comes in', async (t) => {
  t.equal(tokenIn('  hedgerow-admin.abc_-123  '), 'hedgerow-admin.abc_-123')
  t.equal(tokenIn('{"url":"https://x","token":"hedgerow-admin.abc"}'), 'hedgerow-admin.abc')
  for (const wrong of ['', 'two words', '{"token":5}', '{broken', 'a\r\nb: c'])
    t.equal(tokenIn(wrong), undefined, JSON.stringify(wrong))
})

t.test('a watch is put together, and never shows half a mesh', async (t) => {
  const watched = new Watched()
  const take = (event: string, value: unknown, id?: string) =>
    watched.take({ event, data: JSON.stringify(value), ...(id === undefined ? {} : { id }) })
  const names = () => watched.mesh().services.map(({ id }) => id)
  const put = (id: string, position?: string) => take('services', { id, row: service({ id }) }, position)
  take('reset', { kinds: ['services', 'instances', 'nodes', 'clusters'] })
  put('a')
  put('b')
  t.equal(watched.isSynced, false)
  t.same(names(), [], 'the list is not whole yet')
  take('synced', {}, '00000000-5-0')
  t.same(names(), ['a', 'b'])
  const { nodes, services } = watched.mesh()
  take('services', { id: 'a', row: null }, '00000000-6-0')
  t.same(names(), ['b'], 'one is gone')
  t.equal(watched.mesh().nodes, nodes, 'a list that has not changed stays the same')
  t.not(watched.mesh().services, services)
  t.equal(watched.lastId, '00000000-6-0', 'where the stream goes on')
  take('reset', { kinds: ['services'] })
  put('c')
  t.same(names(), ['b'], 'what was known stays until the new list is whole')
  take('synced', {}, '00000001-1-0')
  t.same(names(), ['c'])
  take('instances', { id: 'x', row: instance(0) })
  watched.takeUsage([instance(0, { usage: usage({ cpu: 1, memoryMb: 5 }) })])
  t.match(watched.mesh().instances, [{ usage: { memoryMb: 5 } }])
  take('instances', { id: 'x', row: instance(0, { state: 'stopping' }) })
  t.match(watched.mesh().instances, [{ state: 'stopping', usage: { memoryMb: 5 } }], 'what it uses stays known')
  take('events', { id: '7', row: event(7) })
  watched.takeEvents([event(5), event(6), event(7)])
  t.same(
    watched.mesh().events.map(({ number }) => number),
    [5, 6, 7],
  )
  take('something-new', { kinds: [] })
  t.pass('a later version may say more')
})
