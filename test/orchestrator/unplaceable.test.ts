import t from 'tap'
import { unknownWishes } from '../../src/orchestrator/root/wishes.ts'
import { WhyPace } from '../../src/orchestrator/root/why-pace.ts'
import { unplaceableOf } from '../../src/cli/placement.ts'
import { mesh, sla } from './mesh.ts'
import { until } from '../support/until.ts'

/* Why no node takes an instance, as people read it. */

t.setTimeout(280_000) // a busy machine takes several times as long

t.test('the nodes of all clusters are counted, by reason', async (t) => {
  await using world = await mesh({ clusters: ['edge', 'core'] })
  for (const name of ['n1', 'n2', 'n3']) await world.node(name, { memoryMb: 50 })
  await world.node('n4')
  await world.node('c1', { cluster: 'core', memoryMb: 50 })
  await world.node('c2', { cluster: 'core' })
  await world.api.call('POST', '/apps', sla({ microservice_name: 'cart', replicas: 2, memory: 100, vgpus: 1 }))
  const detail = '6 nodes: 4 too little memory free, 2 no gpu'
  const service = 'shop.acme.cart.prod'
  t.same(
    await unplaceableOf(world.api, [service]),
    [0, 1].map((ordinal) => ({ instance: `${service}.${ordinal}`, detail })),
    '`apply` and `get instances` say so',
  )
  t.match(await world.api.call('GET', '/services'), [{ detail: `2 unplaceable: ${detail}` }], '`get services` as well')
})

t.test('what a worker refuses is told in its words, beside the others', async (t) => {
  await using world = await mesh()
  await world.node('n1', { refuses: 'it is raining' })
  await world.node('n2', { memoryMb: 50 })
  await world.api.call('POST', '/apps', sla({ microservice_name: 'cart' }))
  const detail = async () => (await world.instances())[0]?.detail ?? ''
  // a moment after a node has joined the root does not know yet that it may ask for it
  await until(async () => (await detail()).includes('raining'), 'it was asked', detail)
  t.equal(await detail(), '2 nodes: 1 too little memory free; edge: edge/n1: it is raining')
})

t.test('a node that is named and has not joined is told with the nearest names', async (t) => {
  await using world = await mesh()
  await world.node('n1')
  await world.node('n2')
  const constraints = [{ type: 'direct', node: 'zz' }]
  const said = 'no node zz has joined (nearest names: n1, n2)'
  const { warnings } = await world.api.call<{ warnings: object[] }>(
    'POST',
    '/apps',
    sla({ microservice_name: 'cart', constraints }),
  )
  t.match(warnings, [{ path: 'shop.acme.cart.prod: constraints', problem: said }], '`apply` warns')
  await until(async () => (await world.instances())[0]?.state === 'unplaceable', 'it fits nowhere')
  t.equal((await world.instances())[0]?.detail, `2 nodes: 2 not the node or cluster asked for; ${said}`)
})

t.test('which names are unknown', async (t) => {
  const members = { clusters: ['edge', 'core'], nodes: ['edge/n1', 'edge/n2', 'core/camera'] }
  const rows = [
    { why: 'known names', constraint: { type: 'direct', cluster: 'edge', nodes: ['n1', 'edge/n2'] }, said: [] },
    {
      why: 'a cluster',
      constraint: { type: 'direct', cluster: 'egde', nodes: ['n1'] },
      said: ['no cluster egde has joined (nearest names: edge, core)'],
    },
    {
      why: 'one of several clusters',
      constraint: { type: 'clusters', allowed: ['core', 'zz'] },
      said: ['no cluster zz has joined (nearest names: core, edge)'],
    },
    {
      why: 'a node of another cluster',
      constraint: { type: 'direct', cluster: 'edge', nodes: ['camera'] },
      said: ['no node camera has joined (nearest names: n1, n2)'],
    },
    {
      why: 'a node by its whole name',
      constraint: { type: 'direct', nodes: ['core/camara'] },
      said: ['no node core/camara has joined (nearest names: core/camera, edge/n1, edge/n2)'],
    },
  ] as const
  for (const { why, constraint, said } of rows) t.same(unknownWishes([constraint as never], members), said, why)
  t.same(
    unknownWishes([{ type: 'direct', nodes: ['n1'] }], { clusters: [], nodes: [] }),
    ['no node n1 has joined (no node has joined yet)'],
    'a mesh without nodes',
  )
})

t.test('for a document of a thousand services one list is asked for at a time', async (t) => {
  await using world = await mesh()
  await world.node('n1', { memoryMb: 50 })
  await world.api.call('POST', '/apps', sla({ microservice_name: 'cart', memory: 100 }))
  await until(async () => (await world.instances())[0]?.state === 'unplaceable', 'it is decided')
  let [asked, atOnce, most] = [0, 0, 0]
  const all = (async (...given: Parameters<typeof world.api.all>) => {
    asked += 1
    most = Math.max(most, ++atOnce)
    return await world.api.all(...given).finally(() => (atOnce -= 1))
  }) as typeof world.api.all
  for (const { apps, lists } of [
    { apps: 1, lists: 2 },
    { apps: 3, lists: 4 },
    { apps: 500, lists: 1 },
  ]) {
    const others = Array.from({ length: 1_000 }, (_, i) => `other${i % apps}.acme.s${i}.prod`)
    ;[asked, most] = [0, 0]
    const found = await unplaceableOf({ all }, ['shop.acme.cart.prod', ...others])
    t.match(found, [{ instance: 'shop.acme.cart.prod.0' }], `of ${apps} apps and one more`)
    t.same({ asked, most }, { asked: lists, most: 1 })
  }
})

t.test('of many that fit nowhere each is asked about in its turn', async (t) => {
  const pace = new WhyPace()
  const ids = Array.from({ length: 500 }, (_, i) => `shop.acme.s${i}.prod.0`)
  const due = (now: number, of = ids) => of.filter((id) => pace.isDue(id, now)).length
  t.equal(due(0), 500, 'the first time all of them, at once')
  t.equal(due(9_999), 0)
  t.equal(due(10_000), 500, '50 a second')
  pace.forget('shop.acme.s7.prod.0')
  t.equal(due(10_001), 1, 'one of which something new is to be said')
  for (const id of ids.slice(100)) pace.forget(id)
  t.equal(due(12_001, ids.slice(0, 100)), 100, 'a hundred with each retry')
})
