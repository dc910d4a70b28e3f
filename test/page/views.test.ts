import t from 'tap'
import { effectText, isEmpty } from '../../src/page/model/difference.ts'
import { located, readDocument } from '../../src/page/model/document.ts'
import { NO_LINES, withText } from '../../src/page/model/log-lines.ts'
import { fitted, hitAt, layoutOf, nextNode, zoomed } from '../../src/page/model/map-layout.ts'
import type { EventRow, InstanceRow } from '../../src/page/model/rows.ts'
import { byHour, eventsAbout, eventsWith, puzzling, suggested, verdictsOf } from '../../src/page/model/why.ts'
import { clusterRow as cluster, instanceRow, nodeRow as node, serviceRow } from './rows.ts'

const instance = (ordinal: number, more: Partial<InstanceRow> = {}) => instanceRow(ordinal, { node: 'a/n1', ...more })
const event = (number: number, more: Partial<EventRow> = {}): EventRow => ({
  number,
  at: number * 1_000,
  what: 'ready',
  by: 'worker',
  ...more,
})

t.test('the map has a place for everything', async (t) => {
  const nodes = ['a', 'b', 'c'].flatMap((name) => Array.from({ length: 7 }, (_, at) => node(`${name}/n${at + 1}`)))
  const instances = [
    ...Array.from({ length: 40 }, (_, ordinal) => instance(ordinal)),
    instance(40, { node: undefined as never, state: 'unplaceable' }),
  ]
  const layout = layoutOf({ clusters: [cluster('a'), cluster('b'), cluster('empty')], nodes, instances }, new Map())
  t.same(
    layout.clusters.map(({ name }) => name),
    ['a', 'b', 'c', 'empty'],
    'a cluster that only its nodes name has a box as well',
  )
  const all = layout.clusters.flatMap((box) => box.nodes.map((one) => ({ box, one })))
  t.equal(all.length, 21)
  for (const { box, one } of all)
    t.ok(
      one.x >= box.x &&
        one.y >= box.y &&
        one.x + one.width <= box.x + box.width &&
        one.y + one.height <= box.y + box.height,
      `${one.id} is in its cluster`,
    )
  const overlapping = layout.clusters.flatMap((a, at) =>
    layout.clusters
      .slice(at + 1)
      .filter((b) => a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height),
  )
  t.same(overlapping, [], 'no cluster lies on another')
  const [first] = all
  t.equal(first?.one.dots.length, 30)
  t.equal(first?.one.more, 10, 'what has no room is counted')
  for (const { x, y } of first?.one.dots ?? [])
    t.ok(x + 8 <= (first?.one.x ?? 0) + 132 && y + 8 <= (first?.one.y ?? 0) + 62, 'a dot lies in its node')
  t.same(
    layout.unplaced.map(({ ordinal }) => ordinal),
    [40],
  )
  t.ok(layoutOf({ clusters: [], nodes: [], instances: [] }, new Map()).width > 0, 'nothing is a map as well')
})

t.test('what is under the pointer, and the next node for the arrow keys', async (t) => {
  const nodes = [node('a/n1'), node('a/n2'), node('b/n1')]
  const layout = layoutOf({ clusters: [], nodes, instances: [instance(0)] }, new Map())
  const [n1, n2] = layout.clusters[0]?.nodes ?? []
  const dot = n1?.dots[0]
  t.equal(hitAt(layout, (dot?.x ?? 0) + 4, (dot?.y ?? 0) + 4)?.dot?.instance.ordinal, 0)
  t.match(hitAt(layout, (n2?.x ?? 0) + 60, (n2?.y ?? 0) + 50), { node: { id: 'a/n2' }, dot: undefined })
  t.equal(hitAt(layout, -5, -5), undefined)
  t.equal(nextNode(layout, undefined, 'ArrowRight')?.id, 'a/n1', 'the first, when none is chosen')
  t.equal(nextNode(layout, 'a/n1', 'ArrowDown')?.id, 'a/n2')
  t.equal(nextNode(layout, 'a/n2', 'ArrowUp')?.id, 'a/n1')
  t.equal(nextNode(layout, 'a/n1', 'ArrowRight')?.id, 'b/n1', 'over to another cluster')
  t.equal(nextNode(layout, 'a/n1', 'ArrowUp')?.id, 'a/n1', 'it stays at the edge')
})

t.test('the map fits the screen, and zooms about a point', async (t) => {
  const screen = { width: 1_000, height: 600 }
  const box = { x: 0, y: 0, width: 4_000, height: 1_000 }
  const { scale, x, y } = fitted(box, screen)
  t.ok(x >= 0 && y >= 0 && x + box.width * scale <= screen.width && y + box.height * scale <= screen.height)
  const before = { scale: 1, x: 10, y: 20 }
  const at = { x: 300, y: 200 }
  const after = zoomed(before, 2, at)
  t.equal((at.x - before.x) / before.scale, (at.x - after.x) / after.scale, 'what is at the point stays there')
  t.equal(zoomed(before, 1e9, at).scale, 3)
  t.equal(zoomed(before, 1e-9, at).scale, 0.05)
})

t.test('an explanation is read as one line for each candidate', async (t) => {
  t.same(
    verdictsOf({
      terms: ['spread', 'free'],
      chosen: 'a/n1',
      judged: [
        { id: 'a/n1', refusals: {}, score: [2, 0.123_456] },
        { id: 'a/n2', refusals: {}, score: [1] },
        { id: 'a/n3', refusals: { memory: 'too little memory free', cordon: 'cordoned' } },
      ],
    }),
    [
      { id: 'a/n1', kind: 'chosen', text: 'spread 2, free 0.123' },
      { id: 'a/n2', kind: 'fits', text: 'spread 1' },
      { id: 'a/n3', kind: 'refused', text: 'too little memory free; cordoned' },
    ],
  )
})

t.test('what asks for reasons, and what happened to it', async (t) => {
  const service = (id: string, detail?: string) => serviceRow({ id, ...(detail === undefined ? {} : { detail }) })
  const services = [service('a.x.fine.x'), service('a.x.slow.x', 'updated 0/1'), service('a.x.ill.x')]
  const ill = instance(0, { service: 'a.x.ill.x', state: 'unplaceable' })
  t.same(puzzling(services, [ill]), ['a.x.ill.x', 'a.x.slow.x'], 'the worst first')
  t.same(suggested('slow', services, 5), ['a.x.slow.x'])
  t.same(suggested('  ', services, 5), [])
  const events = [
    event(1, { service: 'a.x.ill.x', instance: 'a.x.ill.x.0', what: 'lost', why: 'node a/n1 was lost' }),
    event(2, { node: 'a/n1', what: 'lost' }),
    event(4_000, { cluster: 'a', what: 'connected' }),
  ]
  const numbers = (some: readonly EventRow[]) => some.map(({ number }) => number)
  t.same(numbers(eventsAbout(events, 'a.x.ill.x')), [1])
  t.same(numbers(eventsAbout(events, 'a/n1')), [2])
  t.same(numbers(eventsAbout(events, undefined)), [1, 2, 4_000])
  t.same(numbers(eventsWith(events, 'LOST a/n1')), [1, 2], 'every word, also of the reason')
  t.same(
    byHour(events, 2).map(({ hour, events }) => [hour, ...numbers(events)]),
    [
      [3_600_000, 4_000],
      [0, 2],
    ],
    'the newest, by hour',
  )
})

const YAML = `# a comment
applications:
  - application_name: shop
    microservices:
      - microservice_name: cart
        port: "8080"
      - &web
        microservice_name: web
        port: many
`

t.test('a fault stands at the line that it is about', async (t) => {
  const reading = readDocument(YAML)
  if (reading.kind !== 'read') return t.fail('it can be read')
  t.match(reading.document, { applications: [{ microservices: [{ port: '8080' }, { port: 'many' }] }] })
  const rows = [
    ['applications[0].microservices[1].port', 9],
    ['applications[0].microservices[0]', 5],
    ['applications[0].microservices[0].memory', 5],
    ['applications', 2],
    ['shop.acme.cart.prod: constraints', undefined],
    ['', undefined],
  ] as const
  for (const [path, line] of rows) t.equal(reading.lineOf(path), line, path)
  t.same(
    located(
      [
        { path: 'applications', problem: 'x' },
        { path: 'elsewhere', problem: 'y' },
      ],
      reading.lineOf,
    ),
    [
      { path: 'applications', problem: 'x', line: 2 },
      { path: 'elsewhere', problem: 'y' },
    ],
  )
  const json = readDocument('{\n  "applications": [\n    { "application_name": "shop" }\n  ]\n}')
  t.equal(json.kind === 'read' && json.lineOf('applications[0].application_name'), 3, 'in JSON, too')
})

t.test('what cannot be read is told with its line, and never thrown', async (t) => {
  const rows = [
    { text: '', faults: [{ problem: /no document/ }] },
    { text: 'a: [1', faults: [{ line: 1 }] },
    { text: 'a: 1\nb: {\n', faults: [{}] },
    { text: 'a: 1\na: 2\n', faults: [{ line: 2 }] },
    { text: 'a: 1\n---\nb: 2\n', faults: [{ problem: /several documents/ }] },
    { text: 'a: &x\n  b: *x\n', faults: [{}] },
  ]
  for (const { text, faults } of rows) t.match(readDocument(text), { kind: 'faulty', faults }, JSON.stringify(text))
})

t.test('what a document would change, in words', async (t) => {
  const none = { added: 0, replaced: 0, changedInPlace: 0, removed: 0 }
  const rows = [
    { change: 'created', instances: { ...none, added: 2 }, text: '2 instances added' },
    { change: 'updated', instances: { ...none, replaced: 1, added: 1 }, text: '1 instance added, 1 instance replaced' },
    { change: 'updated', instances: none, text: 'no instance is touched' },
    { change: 'unchanged', instances: none, text: 'nothing to do' },
    { change: 'removed', instances: { ...none, removed: 3 }, text: '3 instances removed' },
  ] as const
  for (const { text, ...difference } of rows) t.equal(effectText(difference), text)
  t.equal(isEmpty([{ change: 'unchanged', instances: none }]), true)
  t.equal(isEmpty(rows), false)
})

t.test('a log comes in pieces, without what only a terminal understands', async (t) => {
  const first = withText(NO_LINES, 'one\ntw')
  t.same(first, { lines: ['one'], begun: 'tw' })
  t.same(withText(first, 'o\r\n\u001b[31mred\u001b[0m\n'), { lines: ['one', 'two', 'red'], begun: '' })
  const long = withText(NO_LINES, Array.from({ length: 1_500 }, (_, at) => `line ${at}\n`).join(''))
  t.equal(long.lines.length, 1_000)
  t.equal(long.lines.at(-1), 'line 1499')
  t.equal(withText(NO_LINES, 'x'.repeat(10_000)).lines[0]?.length, 4_000, 'a line without an end')
})
