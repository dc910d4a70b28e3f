import { stripVTControlCharacters } from 'node:util'
import t from 'tap'
import { keyIn, rowsThatFit, topText, turned, type Screen, type TopFacts } from '../../src/cli/top-view.ts'
import { CAPACITY, clusterRow, instanceRow, nodeRow, serviceRow, usage } from '../page/rows.ts'

const NOW = 1_800_000_000_000
const facts: TopFacts = {
  clusters: [clusterRow('edge', { nodes: 2, instances: 2 })],
  nodes: [
    nodeRow('edge/n1', {
      instances: 2,
      capacity: { ...CAPACITY, memoryMb: 1_000, vcpus: 4 },
      freeMemoryMb: 250,
      freeVcpus: 4,
      certificateUntil: NOW + 72_000_000,
    }),
    nodeRow('edge/n2', { condition: 'lost' }),
  ],
  services: [
    serviceRow({ id: 'shop.acme.cart.prod', replicas: 2, running: 2 }),
    serviceRow({ id: 'shop.acme.pay.prod', detail: '1 unplaceable: no gpu\u001b[31m' }),
  ],
  instances: [
    ...[0, 1].map((ordinal) => instanceRow(ordinal, { restarts: 1, usage: usage({ cpu: 0.25, memoryMb: 20 }) })),
    instanceRow(0, { service: 'shop.acme.pay.prod', state: 'unplaceable', generation: 0, node: undefined }),
  ],
}
const screen: Screen = { list: 'services', from: 0, columns: 120, lines: 24, now: NOW }
const linesOf = (changed: Partial<Screen> = {}, some = facts) =>
  stripVTControlCharacters(topText(some, { ...screen, ...changed })).split('\n')

t.test('services: what is in trouble first, in the words of the page', async (t) => {
  const [head, problem, names, first, second] = linesOf({ columns: 160 })
  t.equal(head, '2 services, 1 in trouble  ·  3 instances, 2 running  ·  2 nodes, 1 in trouble  ·  1 cluster')
  t.equal(problem, '')
  t.match(names, /^SERVICE +STATE +READY +UPDATED +CPU +MEMORY +RESTARTS +DETAIL$/)
  t.match(first, /^shop\.acme\.pay\.prod +0 of 1 ready +0\/1 +0\/1 +– +– +0 +1 unplaceable: no gpu\\x1b\[31m$/)
  t.match(second, /^shop\.acme\.cart\.prod +running +2\/2 +2\/2 +0\.50 +40 MiB +2$/)
})

t.test('nodes', async (t) => {
  const [, , , first, second] = linesOf({ list: 'nodes' })
  t.match(first, /^edge\/n2 +lost +0 +– +– +– +–$/)
  t.match(second, /^edge\/n1 +alive +2 +75 % +0 % +250 MiB +in 20 h$/)
})

t.test('no line is wider than the terminal, and no more rows than fit', async (t) => {
  const services = Array.from({ length: 500 }, (_, at) =>
    serviceRow({
      id: `application-${at}.namespace.a-rather-long-service.production`,
      detail: 'x'.repeat(300),
    }),
  )
  for (const columns of [20, 40, 80, 132])
    for (const line of linesOf({ columns, problem: 'the root does not answer'.repeat(9) }, { ...facts, services }))
      t.ok(line.length <= columns, `${columns}: ${line.length}`)
  t.equal(linesOf({}, { ...facts, services }).length, rowsThatFit(24) + 3)
  t.equal(linesOf({ lines: undefined }, { ...facts, services }).length, 503, 'all of them, once')
})

t.test('keys lead through the list, and not out of it', async (t) => {
  const at = (from: number) => ({ list: 'services', from }) as const
  const all = { count: 100, fit: 20 }
  const rows = [
    ['\u001b[A', 0, 0],
    ['\u001b[B', 0, 1],
    ['j', 80, 80],
    [' ', 5, 25],
    ['\u001b[5~', 5, 0],
    ['G', 0, 80],
    ['g', 50, 0],
  ] as const
  for (const [typed, from, to] of rows) {
    const key = keyIn(typed)
    if (key === undefined || key === 'quit') t.fail(JSON.stringify(typed))
    else t.equal(turned(at(from), key, all).from, to, `${JSON.stringify(typed)} at ${from}`)
  }
  t.same(turned(at(7), 'other list', all), { list: 'nodes', from: 0 })
  t.same(turned(at(0), 'last', { count: 3, fit: 20 }), at(0), 'a list that fits does not move')
  for (const quit of ['q', '\u0003']) t.equal(keyIn(quit), 'quit')
  for (const other of ['', 'x', 'constructor']) t.equal(keyIn(other), undefined, other)
})
