import t, { type Test } from 'tap'
import { Cable } from './cable.ts'
import { mesh, sla, type FakeNode, type World } from './mesh.ts'
import { until } from '../support/until.ts'

/* Nodes whose uplink fails while they and their instances go on. */

t.setTimeout(280_000) // a busy machine takes several times as long
const CART = 'shop.acme.cart.prod.0'

const cart = async (world: World) => (await world.instances()).find(({ id }) => id === CART)

/** One instance on `edge/n1`, whose uplink goes through the cable. */
async function cutOff(world: World, t: Test): Promise<{ n1: FakeNode; cable: Cable }> {
  const cable = await Cable.to(world.cluster().url)
  t.teardown(() => cable[Symbol.asyncDispose]())
  const n1 = await world.node('n1', { via: cable.url })
  await world.api.call('POST', '/apps', sla({ microservice_name: 'cart' }))
  await world.running(1)
  cable.cut()
  await until(async () => /no other can take it/.test((await cart(world))?.detail ?? ''), 'it is told to have no place')
  t.match(await cart(world), { state: 'lost', node: 'edge/n1', cluster: 'edge', detail: /may still run/ })
  return { n1, cable }
}

interface NodeRow {
  id: string
  mayStillRun?: string[]
}

/** The state of the cart in every row until it runs. */
async function statesUntilRunning(world: World): Promise<Set<string>> {
  const seen = new Set<string>()
  await until(async () => {
    const { state = 'gone' } = (await cart(world)) ?? {}
    seen.add(state)
    return state === 'running'
  }, 'it runs')
  return seen
}

t.test('an instance of a silent node that fits nowhere else is simply running again on its return', async (t) => {
  await using world = await mesh({ clusters: ['edge', 'core'] })
  const { n1, cable } = await cutOff(world, t)
  const before = n1.has.get(CART)
  cable.mend()
  t.same(await statesUntilRunning(world), new Set(['lost', 'running']), 'it was never without a place')
  t.equal(n1.assigned.length, 1, 'it was not started again')
  t.equal(n1.has.get(CART), before, 'nor ended')
  t.notOk('detail' in ((await cart(world)) ?? {}), 'nothing is said against it any more')
})

t.test('it is moved to a node that joins its cluster while its own is silent', async (t) => {
  await using world = await mesh()
  const { n1, cable } = await cutOff(world, t)
  const n2 = await world.node('n2')
  await until(async () => (await cart(world))?.node === 'edge/n2', 'moved')
  await world.running(1)
  t.equal(n2.assigned.length, 1)
  cable.mend()
  await until(() => n1.has.size === 0, 'the older one has ended')
  t.match(await cart(world), { state: 'running', node: 'edge/n2' })
})

t.test('it is moved to another cluster that gets room, and its own ends what is left of it', async (t) => {
  await using world = await mesh({ clusters: ['edge', 'core'] })
  const { n1, cable } = await cutOff(world, t)
  await world.node('c1', { cluster: 'core' })
  await until(async () => (await cart(world))?.node === 'core/c1', 'moved')
  await world.running(1)
  const left = async () => (await world.api.call<NodeRow[]>('GET', '/nodes')).find(({ id }) => id === 'edge/n1')
  t.match(await left(), { mayStillRun: [CART] }, 'its node may still run it')
  const mayRunTwice = async () => 'mayAlsoRunOn' in ((await cart(world)) ?? {})
  await until(mayRunTwice, 'the root knows')
  t.match(await cart(world), { mayAlsoRunOn: ['edge/n1'] }, 'and so it may run twice')
  cable.mend()
  await until(() => n1.has.size === 0, 'the older one has ended')
  await until(async () => !('mayStillRun' in ((await left()) ?? {})), 'its cluster has heard of it')
  await until(async () => !(await mayRunTwice()), 'the root knows that it runs once')
  t.match(await cart(world), { state: 'running', node: 'core/c1' })
})

t.test('when another cluster seems to have room and refuses, it keeps its place', async (t) => {
  await using world = await mesh({ clusters: ['edge', 'core'] })
  const { n1, cable } = await cutOff(world, t)
  let asked = 0
  const c1 = await world.node('c1', { cluster: 'core', refuses: 'it is raining' })
  Object.defineProperty(c1, 'refuses', { get: () => (asked++, 'it is raining') })
  await until(() => asked > 0, 'the other cluster was asked')
  await until(async () => (await cart(world))?.cluster === 'edge', 'it is bound to its node again')
  cable.mend()
  await until(async () => (await cart(world))?.state === 'running', 'it runs')
  t.match(await cart(world), { node: 'edge/n1' })
  t.equal(n1.assigned.length, 1, 'it was not started again')
})

t.test('an instance of a lost cluster keeps its place too when the others refuse', async (t) => {
  await using world = await mesh({ clusters: ['edge', 'core'], root: { clusterLostSeconds: 1 } })
  const n1 = await world.node('n1')
  await world.api.call('POST', '/apps', sla({ microservice_name: 'cart' }))
  await world.running(1)
  let asked = 0
  const c1 = await world.node('c1', { cluster: 'core' })
  Object.defineProperty(c1, 'refuses', { get: () => (asked++, 'it is raining') })
  await world.stopCluster('edge')
  await until(() => asked > 0, 'the other cluster was asked')
  await until(async () => (await cart(world))?.cluster === 'edge', 'it is bound to its cluster again')
  await world.startCluster('edge')
  await until(() => n1.uplink.isUp, 'its node is linked again')
  await until(async () => (await cart(world))?.state === 'running', 'it runs')
  t.match(await cart(world), { node: 'edge/n1' })
  t.equal(n1.assigned.length, 1, 'it was not started again')
})

t.test('a silent node that is deleted keeps nothing', async (t) => {
  await using world = await mesh()
  await cutOff(world, t)
  await world.api.call('DELETE', '/nodes/edge/n1')
  await until(async () => (await cart(world))?.state === 'unplaceable', 'it waits for a place')
  await world.node('n2')
  await until(async () => (await cart(world))?.node === 'edge/n2', 'and is placed')
})

/* What was placed elsewhere meanwhile ends without draining, whoever of node, cluster and root is back first. */

for (const first of ['node', 'cluster'])
  t.test(`the ${first} is back first: what was placed on another node ends with the first hello`, async (t) => {
    await using world = await mesh()
    const { n1, cable } = await cutOff(world, t)
    await world.node('n2')
    await world.running(1)
    await world.stopCluster()
    if (first === 'node') cable.mend()
    await world.startCluster()
    if (first === 'cluster') {
      t.equal(n1.has.size, 1, 'nobody has told it yet')
      cable.mend()
    }
    await until(() => n1.has.size === 0, 'it has ended what runs elsewhere')
    t.ok(
      n1.withdrawn.every(([, seconds]) => seconds === 0),
      'without draining',
    )
    t.match(await world.running(1), [{ node: 'edge/n2' }])
  })

for (const first of ['node', 'cluster'])
  t.test(`the ${first} is back first: what was placed in another cluster ends without draining`, async (t) => {
    await using world = await mesh({ clusters: ['edge', 'core'], root: { clusterLostSeconds: 1 } })
    const cable = await Cable.to(world.cluster().url)
    t.teardown(() => cable[Symbol.asyncDispose]())
    const n1 = await world.node('n1', { via: cable.url })
    await world.api.call('POST', '/apps', sla({ microservice_name: 'cart' }))
    await world.running(1)
    await world.stopCluster('edge')
    cable.cut()
    await world.node('c1', { cluster: 'core' })
    await until(async () => (await cart(world))?.node === 'core/c1', 'moved')
    await world.running(1)
    t.match(await cart(world), { mayAlsoRunOn: ['edge/n1'] }, 'it may run twice')
    if (first === 'node') {
      await world.stopRoot()
      cable.mend()
      await world.startCluster('edge')
      await until(() => n1.uplink.isUp, 'its link is up')
      t.equal(n1.has.size, 1, 'its cluster knows nothing better')
      await world.startRoot()
    } else {
      await world.startCluster('edge')
      t.equal(n1.has.size, 1, 'its node is not there')
      cable.mend()
    }
    await until(() => n1.has.size === 0, 'it has ended what runs elsewhere')
    t.same(new Set(n1.withdrawn.map(([, seconds]) => seconds)), new Set([0]), 'without draining')
    t.match(await world.running(1), [{ node: 'core/c1' }])
  })
