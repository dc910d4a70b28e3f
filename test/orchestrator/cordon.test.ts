import t from 'tap'
import { dampedUntil } from '../../src/orchestrator/cluster/flaps.ts'
import { mesh, sla, type World } from './mesh.ts'
import { until } from '../support/until.ts'

/** Nodes that are given nothing new: because somebody says so, or because they go and come back. */

t.setTimeout(280_000) // a busy machine takes several times as long

interface NodeRow {
  id: string
  condition: string
  cordon?: { at: number; reason?: string }
  dampedMs?: number
  linksLost?: number
}

const nodeRow = async (world: World, id: string): Promise<NodeRow> => {
  const rows = await world.api.call<NodeRow[]>('GET', '/nodes')
  const row = rows.find((each) => each.id === id)
  if (row === undefined) throw new Error(`${id} is not listed`)
  return row
}
const apply = (world: World, replicas: number) =>
  world.api.call('POST', '/apps', sla({ microservice_name: 'cart', replicas }))

t.test('a cordoned node keeps what it runs and takes nothing new, also after a restart of its cluster', async (t) => {
  await using world = await mesh()
  const n1 = await world.node('n1')
  await apply(world, 1)
  await world.running(1)
  const reason = 'a new disk'
  t.same(await world.api.call('POST', '/nodes/edge/n1/cordon', { reason }), { changed: true })
  t.same(
    await world.api.call('POST', '/nodes/edge/n1/cordon', { reason }),
    { changed: false },
    'once more: nothing to do',
  )
  t.match(await nodeRow(world, 'edge/n1'), { condition: 'alive', cordon: { at: Number, reason } }, 'get nodes shows it')

  await apply(world, 2)
  await until(
    async () =>
      (await world.instances()).some(({ state, detail }) => state === 'unplaceable' && /cordoned/.test(detail ?? '')),
    'the second instance waits, and says why',
    async () => JSON.stringify(await world.instances()),
  )
  await world.stopCluster()
  await world.startCluster()
  await until(() => n1.uplink.isUp, 'the node is back')
  t.match(await nodeRow(world, 'edge/n1'), { cordon: { reason } }, 'the cluster remembers it')
  const n2 = await world.node('n2')
  const rows = await world.running(2)
  t.same(
    new Set(rows.map(({ node }) => node)),
    new Set(['edge/n1', 'edge/n2']),
    'the first stayed, the second went elsewhere',
  )
  t.equal(n2.has.size, 1)

  t.same(await world.api.call('POST', '/nodes/edge/n1/uncordon', {}), { changed: true })
  t.equal((await nodeRow(world, 'edge/n1')).cordon, undefined)
  await world.api.call('POST', '/nodes/edge/n2/cordon', {})
  await apply(world, 3)
  await world.running(3)
  t.equal(n1.has.size, 2, 'it takes new instances again')
})

t.test('what can be taken over without a restart stays on a cordoned node', async (t) => {
  await using world = await mesh()
  const n1 = await world.node('n1')
  const n2 = await world.node('n2')
  await world.api.call('POST', '/nodes/edge/n2/cordon', {})
  await world.api.call('POST', '/apps', sla({ microservice_name: 'cart', memory: 100 }))
  await world.running(1)
  await world.api.call('POST', '/nodes/edge/n1/cordon', {})
  await world.api.call('POST', '/nodes/edge/n2/uncordon', {})
  await world.api.call('POST', '/apps', sla({ microservice_name: 'cart', memory: 101 }))
  await until(() => [...n1.has.values()].some(({ spec }) => spec.memoryMb === 101), 'its node has the new document')
  t.equal(n2.assigned.length, 0, 'and has not moved')
})

t.test('a node or cluster that is not there is named', async (t) => {
  await using world = await mesh()
  const cordon = (node: string) => world.api.call('POST', `/nodes/${node}/cordon`, {})
  await t.rejects(cordon('edge/zz'), { code: 'NODE_UNKNOWN', details: { node: 'edge/zz' } })
  await t.rejects(cordon('zz/n1'), { code: 'CLUSTER_UNKNOWN' })
  const n1 = await world.node('n1')
  await world.stopCluster()
  await t.rejects(cordon(n1.id), { code: 'LINK_CLOSED' }, 'its cluster is away')
})

t.test('a node that goes and comes back gets only what no other takes', async (t) => {
  await using world = await mesh()
  for (let turn = 0; turn < 3; turn++) await (await world.node('n1')).stop()
  const n1 = await world.node('n1')
  const row = await nodeRow(world, 'edge/n1')
  t.match(row, { condition: 'alive', linksLost: 3, dampedMs: Number })
  t.ok(Number(row.dampedMs) > 5 * 60_000, 'for minutes')

  for (const end of ['stopCluster', 'killCluster'] as const) {
    await world[end]()
    await world.startCluster()
    await until(async () => (await nodeRow(world, 'edge/n1')).condition === 'alive', 'it is back')
    const { linksLost, dampedMs } = await nodeRow(world, 'edge/n1')
    t.equal(linksLost, 3, `${end}: what its cluster knew of it is kept, and does not count as a failure of the node`)
    t.ok(Number(dampedMs) > 5 * 60_000)
  }

  const n2 = await world.node('n2', { memoryMb: 250 })
  await apply(world, 3)
  await world.running(3)
  t.same([n1.has.size, n2.has.size], [1, 2], 'what the other node had no room for')
})

t.test('how long a node is damped', async (t) => {
  const minute = 60_000
  const rows = [
    { why: 'never down', downs: [], until: undefined },
    { why: 'two downs are no pattern', downs: [0, 1], until: undefined },
    { why: 'three within an hour are none either', downs: [0, 20 * minute, 40 * minute], until: undefined },
    {
      why: 'three in a row: until the penalty of 3 has fallen to 1',
      downs: [0, 0, 0],
      until: 5 * minute * Math.log2(3),
    },
    { why: 'each further one makes it longer', downs: [0, 0, 0, 0], until: 10 * minute },
    { why: 'but never longer than a quarter of an hour', downs: Array<number>(50).fill(0), until: 15 * minute },
    {
      why: 'down again while it is damped: from then on',
      downs: [0, 0, 0, 5 * minute],
      until: 5 * minute + 5 * minute * Math.log2(2.5),
    },
  ]
  for (const { why, downs, until: expected } of rows) t.equal(dampedUntil(downs), expected, why)
})
