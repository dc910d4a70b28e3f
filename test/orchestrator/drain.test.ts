import t from 'tap'
import type { DrainStatus } from '../../src/orchestrator/link/messages/cluster-root.ts'
import { mesh, sla, type World } from './mesh.ts'
import { until } from '../support/until.ts'

/** Nodes that are emptied: what goes on by itself, what waits, and what stays. With calls: test/walks/moves.test.ts. */

t.setTimeout(280_000) // a busy machine takes several times as long

const drain = (world: World, body: object = {}) => world.api.call<DrainStatus>('POST', '/nodes/edge/n1/drain', body)
const status = (world: World) => world.api.call<DrainStatus>('GET', '/nodes/edge/n1/drain')
const apply = (world: World, ...services: Record<string, unknown>[]) =>
  world.api.call('POST', '/apps', sla(...services))
const says = (world: World, why: RegExp) =>
  until(
    async () => (await status(world)).left.some((each) => why.test(each.why ?? '')),
    `it says ${String(why)}`,
    async () => JSON.stringify(await status(world)),
  )

t.test('a cluster that is started again goes on draining, and the node takes nothing new', async (t) => {
  await using world = await mesh()
  const n1 = await world.node('n1')
  await apply(world, { microservice_name: 'cart', replicas: 3 })
  await world.running(3)
  const n2 = await world.node('n2', { refuses: 'not now' })
  t.match(await drain(world, { reason: 'a new disk' }), { isDraining: true, leaving: 0 })
  await says(world, /edge\/n2: not now/)
  t.equal(n1.has.size, 3, 'what cannot move stays')

  await world.stopCluster()
  await world.startCluster()
  await until(() => n1.uplink.isUp && n2.uplink.isUp, 'the nodes are back')
  n2.refuses = undefined
  await until(
    () => n1.has.size === 0,
    'it is empty',
    async () => JSON.stringify(await status(world)),
  )
  t.equal(n2.has.size, 3)
  await until(async () => (await world.instances()).every(({ node }) => node === 'edge/n2'), 'the root knows')
  t.same(await status(world), { isDraining: true, left: [], leaving: 0 })
  const rows = await world.api.call<object[]>('GET', '/nodes')
  t.match(rows, [{ id: 'edge/n1', cordon: { reason: 'a new disk', drain: {} }, instances: 0 }, { id: 'edge/n2' }])
  const told = async () =>
    (await world.api.call<{ what: string; instance?: string }[]>('GET', '/events?name=edge/n1'))
      .filter(({ instance }) => instance === undefined)
      .map(({ what }) => what)
  await until(async () => (await told()).at(-1) === 'drained', 'the history has it')
  await world.api.call('POST', '/nodes/edge/n1/uncordon', {})
  t.equal((await status(world)).isDraining, false)
  t.same((await told()).slice(-2), ['drained', 'uncordoned'])
})

t.test('an end of the cordon is an end of the drain', async (t) => {
  await using world = await mesh()
  const n1 = await world.node('n1')
  await apply(world, { microservice_name: 'cart' })
  await world.running(1)
  await drain(world)
  await says(world, /cordoned/)
  await world.api.call('POST', '/nodes/edge/n1/uncordon', {})
  const n2 = await world.node('n2')
  await apply(world, { microservice_name: 'cart', replicas: 2 })
  await world.running(2)
  t.same([n1.has.size, n2.has.size], [1, 1], 'nothing moved')
})

t.test('jobs end by themselves, storage needs force, and what is of the machine stays', async (t) => {
  await using world = await mesh()
  const n1 = await world.node('n1')
  await apply(
    world,
    { microservice_name: 'job', one_shot: true },
    { microservice_name: 'disk', storage: 7 },
    { microservice_name: 'web' },
  )
  await world.running(3)
  const n2 = await world.node('n2')
  await drain(world)
  await until(() => n1.has.size === 2, 'the others are away')
  const { left } = await status(world)
  t.match(
    left.toSorted((a, b) => a.instance.localeCompare(b.instance)),
    [
      { instance: 'shop.acme.disk.prod.0', state: 'stays', why: /7 MB of storage/ },
      { instance: 'shop.acme.job.prod.0', state: 'waiting', why: /it is a job/ },
    ],
  )
  await drain(world, { force: true })
  await until(() => n1.has.size === 1, 'with force the storage is left behind')
  n1.say('shop.acme.job.prod.0', 'stopped', 'exited with code 0')
  await until(async () => (await status(world)).left.length === 0, 'the job is over')
  t.same([...n2.has.keys()].sort(), ['shop.acme.disk.prod.0', 'shop.acme.web.prod.0'])
})

t.test('what does not get ready elsewhere stays and serves, says why, and is tried elsewhere', async (t) => {
  await using world = await mesh()
  const n1 = await world.node('n1')
  await apply(world, { microservice_name: 'cart' })
  const id = 'shop.acme.cart.prod.0'
  await world.running(1)
  const n2 = await world.node('n2')
  n2.isHolding = true
  await drain(world)
  const crashes = () => {
    const { generation = 0, epoch = 0 } = n2.has.get(id) ?? {}
    n2.uplink.report({ instance: id, generation, epoch, state: 'starting', restarts: 3, detail: 'exited with code 7' })
  }
  await until(
    async () => {
      if (n2.has.has(id)) crashes()
      const why = (await status(world)).left[0]?.why ?? ''
      return why.includes('edge/n2: it did not get ready there: exited with code 7')
    },
    'it is told',
    async () => JSON.stringify(await status(world)),
  )
  await until(() => !n2.has.has(id), 'it is ended there')
  t.match(await world.instances(), [{ node: 'edge/n1', state: 'running', successor: undefined }])
  t.same(n1.withdrawn, [])
  const events = await world.api.call<{ what: string; why?: string }[]>('GET', `/events?name=${id}`)
  t.match(
    events.find(({ what }) => what === 'failed'),
    { node: 'edge/n2', why: /stays on edge\/n1: exited with code 7/ },
  )
  await world.node('n3')
  await until(async () => (await world.instances())[0]?.node === 'edge/n3', 'another node takes it')
})

t.test('an instance is migrated where it may go, and told why where it may not', async (t) => {
  await using world = await mesh({ clusters: ['edge', 'far'] })
  const n1 = await world.node('n1')
  await apply(world, { microservice_name: 'disk', storage: 7 })
  await world.running(1)
  const n2 = await world.node('n2')
  const id = 'shop.acme.disk.prod.0'
  const migrate = (to?: string) => world.api.call('POST', `/instances/${id}/migrate`, to === undefined ? {} : { to })
  await t.rejects(migrate('far/n3'), { code: 'NODE_UNKNOWN' })
  await t.rejects(migrate('moon/n3'), { code: 'CLUSTER_UNKNOWN' })
  await t.rejects(migrate('edge/n1'), { code: 'UNPLACEABLE', details: { reason: /already/ } })
  await t.rejects(migrate('edge/zz'), { code: 'UNPLACEABLE', details: { reason: /edge\/zz is not connected/ } })
  t.match(await migrate('edge/n2'), { from: 'edge/n1', node: 'edge/n2', keeps: 'it leaves 7 MB of storage on edge/n1' })
  await until(() => n1.has.size === 0 && n2.has.size === 1, 'it has moved')
  const before = n2.assigned.length
  t.match(await world.api.call('POST', `/instances/${id}/restart`), { node: 'edge/n2' })
  await until(() => n2.assigned.length > before, 'it is started again')
  t.equal(n2.replacements.at(-1), 'beside')
  await world.running(1)
})
