import t from 'tap'
import { mesh, sla } from './mesh.ts'
import '../support/no-orphans.ts'
import { until } from '../support/until.ts'

/* Hundreds of services at once: in batches, and nothing is lost when the root ends in the middle. */

const SERVICES = 240
const many = (count: number) => sla(...Array.from({ length: count }, (_, i) => ({ microservice_name: `s${i}` })))

t.test('hundreds of services are placed with few messages, deleted, and nothing is left', async (t) => {
  await using world = await mesh()
  const nodes = [await world.node('n1', { memoryMb: 100_000 }), await world.node('n2', { memoryMb: 100_000 })]
  const before = await world.messagesSent()
  await world.api.call('POST', '/apps', many(SERVICES))
  await world.running(SERVICES)
  t.equal(
    nodes.reduce((sum, node) => sum + node.assigned.length, 0),
    SERVICES,
    'each was assigned once',
  )
  t.same(
    nodes.map(({ has }) => has.size),
    [SERVICES / 2, SERVICES / 2],
    'each decision counts on those before it',
  )
  const messages = (await world.messagesSent()) - before
  t.ok(messages < SERVICES, `fewer messages of the cluster than instances: ${messages}`)
  await world.api.call('DELETE', '/apps/shop.acme')
  await until(async () => (await world.instances()).length === 0, 'the root has forgotten them')
  t.same(
    nodes.map(({ has }) => has.size),
    [0, 0],
  )
})

t.test('capacity is not given twice, however many decisions are under way', async (t) => {
  await using world = await mesh({ clusters: ['edge', 'far'] })
  const nodes = [
    await world.node('n1', { memoryMb: 1_000 }),
    await world.node('n2', { cluster: 'far', memoryMb: 1_000 }),
  ]
  await world.api.call('POST', '/apps', many(40)) // 100 MB each: 20 of them fit
  await world.running(20)
  for (const node of nodes) t.ok(node.has.size <= 10, `${node.id} has ${node.has.size}`)
  await until(
    async () => (await world.instances()).filter(({ state }) => state === 'unplaceable').length === 20,
    'the others are said to fit nowhere',
  )
})

t.test('a root that ends in the middle goes on where it was', async (t) => {
  await using world = await mesh()
  const node = await world.node('n1', { memoryMb: 100_000 })
  await world.api.call('POST', '/apps', many(SERVICES))
  await until(() => node.has.size > 0, 'some are assigned')
  await world.stopRoot()
  await world.startRoot()
  await world.running(SERVICES)
  t.equal(node.has.size, SERVICES)
  const ids = node.assigned.map(({ instance }) => instance)
  t.equal(new Set(ids).size, SERVICES, 'all of them')
})
