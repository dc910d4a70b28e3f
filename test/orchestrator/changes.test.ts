import t from 'tap'
import { FIELDS } from '../../src/orchestrator/sla/changes.ts'
import type { Assignment } from '../../src/orchestrator/spec.ts'
import { KEYS } from '../../src/orchestrator/sla/keys.ts'
import { mesh, sla, type InstanceRow, type World } from './mesh.ts'
import { until } from '../support/until.ts'

/* A changed document, and the instances that run. */

t.setTimeout(280_000) // a busy machine takes several times as long
const CART = 'shop.acme.cart.prod'

const apply = (world: World, service: Record<string, unknown>) =>
  world.api.call('POST', '/apps', sla({ microservice_name: 'cart', ...service }))
const states = (rows: readonly InstanceRow[]) => new Set(rows.map(({ state }) => state))

/** Waits for a fact; `running` of the instances must run all the while. */
async function whileRunning(world: World, running: number, fact: (rows: InstanceRow[]) => boolean, what: string) {
  const least = { running: Infinity }
  await until(
    async () => {
      const rows = await world.instances()
      least.running = Math.min(least.running, rows.filter(({ state }) => state === 'running').length)
      return fact(rows)
    },
    what,
    async () => JSON.stringify(await world.instances()),
  )
  t.ok(least.running >= running, `${least.running} ran all the while`)
}

t.test('every key of a service is in the table of changes', async (t) => {
  const told = new Set(Object.values(FIELDS).flatMap(({ keys, shorthands }) => [...keys, ...shorthands]))
  const identity = ['microservice_name', 'microservice_namespace', 'application_name', 'application_namespace']
  const used = KEYS.microservice.filter(({ unused, name }) => unused === undefined && !identity.includes(name))
  t.same(
    used.map(({ name }) => name).filter((name) => !told.has(name)),
    [],
    'none is left out',
  )
  t.same(
    [...told].filter((key) => !used.some(({ name }) => name === key)),
    [],
    'none is made up',
  )
})

t.test('six replicas take more memory, another check and another drain time over without a restart', async (t) => {
  await using world = await mesh()
  const nodes = [await world.node('n1'), await world.node('n2')]
  await apply(world, { replicas: 6, memory: 64 })
  const before = await world.running(6)
  const learned = { replicas: 6, memory: 65, check: { type: 'tcp', interval_ms: 70 }, drain_seconds: 3 }
  await apply(world, learned)
  const specs = () => nodes.flatMap(({ has }) => [...has.values()]).map(({ spec }) => spec)
  const isLearned = () => specs().every(({ memoryMb, check }) => memoryMb === 65 && check?.intervalMs === 70)
  await whileRunning(world, 6, isLearned, 'the nodes know')
  t.ok(
    specs().every(({ drainSeconds }) => drainSeconds === 3),
    'all of it',
  )
  await until(async () => (await world.instances()).every((row) => 'revision' in row), 'the root knows that they do')
  const after = await world.instances()
  const places = (rows: readonly InstanceRow[]) => rows.map(({ id, node, generation }) => ({ id, node, generation }))
  t.same(places(after), places(before), 'each is where it was, of the generation that it was')
  t.same(
    nodes.flatMap(({ withdrawn }) => withdrawn),
    [],
    'none was ended',
  )
  const { freeMemoryMb } = (await world.api.call<{ freeMemoryMb: number }[]>('GET', '/nodes'))[0] ?? {}
  t.equal(freeMemoryMb, 4_096 - 3 * 65, 'the books have it')
  const assigned = nodes.map((node) => node.assigned.length)
  await apply(world, { ...learned, allow: ['*'], replicas: 5 })
  await until(async () => (await world.instances()).length === 5, 'one is gone')
  t.same(
    nodes.map((node) => node.assigned.length),
    assigned,
    'what concerns callers alone is not sent to nodes',
  )
})

t.test('those whose node is not allowed any more move one after the other, the others stay', async (t) => {
  await using world = await mesh()
  const [n1, n2] = [await world.node('n1'), await world.node('n2')]
  await apply(world, { replicas: 4 })
  const stay = (await world.running(4)).filter(({ node }) => node === 'edge/n1').map(({ id }) => id)
  await apply(world, { replicas: 4, constraints: [{ type: 'direct', node: 'n1' }] })
  const isDone = (rows: InstanceRow[]) => rows.every(({ node, state }) => node === 'edge/n1' && state === 'running')
  await whileRunning(world, 3, isDone, 'all on n1')
  await until(() => n2.has.size === 0, 'n2 has ended them')
  t.same(new Set(n2.withdrawn.map(([, seconds]) => seconds)), new Set([undefined]), 'and let them drain')
  t.same(
    n1.withdrawn.map(([id]) => id),
    [],
    'n1 has ended none',
  )
  t.same(stay.length, 2)
})

t.test('what fits nowhere any more runs on, says why, and moves once there is a place', async (t) => {
  await using world = await mesh()
  const n1 = await world.node('n1')
  await apply(world, {})
  await world.running(1)
  await apply(world, { memory: 5_000 })
  const row = async () => (await world.instances())[0]
  await until(async () => (await row())?.detail !== undefined, 'it says why')
  t.match(await row(), { state: 'running', node: 'edge/n1', detail: /runs on as before: .*too little memory free/ })
  t.same(n1.withdrawn, [])
  t.equal(n1.has.get(`${CART}.0`)?.spec.memoryMb, 100, 'as before')
  await world.node('n2', { memoryMb: 8_000 })
  await until(async () => (await row())?.node === 'edge/n2', 'it moves')
  t.notOk('detail' in ((await world.running(1))[0] ?? {}), 'nothing is said any more')
  await until(() => n1.has.size === 0, 'n1 has ended it')
})

t.test('a report that crosses the withdrawal does not cut the drain', async (t) => {
  await using world = await mesh()
  const n1 = await world.node('n1')
  await apply(world, {})
  await world.running(1)
  const before = n1.has.get(`${CART}.0`) as Assignment
  await world.node('n2', { memoryMb: 8_000 })
  await apply(world, { memory: 5_000 })
  await until(() => n1.withdrawn.length > 0, 'it moves')
  n1.uplink.report({ instance: before.instance, generation: before.generation, state: 'running', restarts: 0 })
  await until(() => n1.withdrawn.length > 1, 'it is withdrawn again')
  t.same(new Set(n1.withdrawn.map(([, seconds]) => seconds)), new Set([undefined]), 'and goes on draining')
})

t.test('what its cluster may not run any more goes to another, and drains', async (t) => {
  await using world = await mesh({ clusters: ['edge', 'core'] })
  const n1 = await world.node('n1')
  await apply(world, {})
  await world.running(1)
  await world.node('c1', { cluster: 'core' })
  await apply(world, { constraints: [{ type: 'clusters', allowed: ['core'] }] })
  await until(async () => (await world.instances()).every(({ node }) => node === 'core/c1'), 'it moves')
  await world.running(1)
  await until(() => n1.has.size === 0, 'n1 has ended it')
  t.same(new Set(n1.withdrawn.map(([, seconds]) => seconds)), new Set([undefined]), 'and let it drain')
})

t.test('a node that was away learns the change when it is back, without a restart', async (t) => {
  await using world = await mesh()
  const node = await world.node('n1')
  await apply(world, {})
  const [{ generation } = { generation: 0 }] = await world.running(1)
  await node.stop()
  await until(async () => states(await world.instances()).has('lost'), 'it is away')
  await apply(world, { drain_seconds: 7 })
  const back = await world.node('n1', { runs: node.has.values() })
  await until(() => back.has.get(`${CART}.0`)?.spec.drainSeconds === 7, 'it has learned it')
  t.match(await world.running(1), [{ generation, node: 'edge/n1' }])
  t.same(back.withdrawn, [])
})
