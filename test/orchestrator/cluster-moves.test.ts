import t from 'tap'
import { RootLink } from '../../src/orchestrator/cluster/root-link.ts'
import type { DrainStatus } from '../../src/orchestrator/link/messages/cluster-root.ts'
import { Clusters } from '../../src/orchestrator/root/clusters.ts'
import type { Event } from '../../src/orchestrator/root/events/event.ts'
import { whatStays, whyImmobile } from '../../src/orchestrator/scheduling/mobility.ts'
import { type FakeNode, mesh, sla, type World } from './mesh.ts'
import { specOf } from './specs.ts'
import { until } from '../support/until.ts'

/** Instances that run and go to another cluster: by a person, from a node that drains, for a constraint. With calls: test/walks. */

t.setTimeout(280_000) // a busy machine takes several times as long

const CART = 'shop.acme.cart.prod.0'
const apply = (world: World, ...services: Record<string, unknown>[]) =>
  world.api.call('POST', '/apps', sla(...services))
const migrate = (world: World, to?: string, id = CART) =>
  world.api.call<{ node: string }>('POST', `/instances/${id}/migrate`, to === undefined ? {} : { to })
const isOn = (world: World, node: string) =>
  until(
    async () => (await world.instances()).every((row) => row.node === node && row.state === 'running'),
    `it runs on ${node}`,
    async () => JSON.stringify(await world.instances()),
  )
/** Where callers go, as the node sees it, and from where else it may call. */
async function shownTo(node: FakeNode): Promise<string> {
  const { entries } = await node.uplink.ask('shop.acme.cart', AbortSignal.timeout(30_000))
  return entries
    .flatMap(({ instances }) => instances.map(({ node: at, state, also = [] }) => `${at} ${state} ${also.join()}`))
    .join()
    .trim()
}

/** Which nodes may be called, in every change that this node is told from now on. */
async function toldTo(node: FakeNode, signal: AbortSignal): Promise<{ told: string[]; ended: Promise<void> }> {
  await shownTo(node) // from now on it is told
  const told: string[] = []
  const follow = async () => {
    for await (const message of node.uplink.messages(() => ({ epoch: '', seq: 0, keys: ['shop.acme.cart'] }), signal)) {
      const changes = message.kind === 'changes' ? message.changes : message.resumed.changes
      for (const change of changes)
        told.push(change.kind === 'gone' ? 'gone' : change.entry.instances.map((i) => `${i.node} ${i.state}`).join())
    }
  }
  return { told, ended: follow() }
}

/** The root knows of so many nodes in the second cluster that take something. */
const isSummed = (world: World, nodes: number) =>
  until(async () => {
    const rows = await world.api.call<{ name: string; nodes: number }[]>('GET', '/clusters')
    return rows.find(({ name }) => name === 'far')?.nodes === nodes
  }, 'the root knows')

/** Two clusters with one node each, and an instance on the first. */
async function twoClusters(options: Parameters<typeof mesh>[0] = {}) {
  const world = await mesh({ clusters: ['edge', 'far'], ...options })
  const n1 = await world.node('n1')
  await apply(world, { microservice_name: 'cart' })
  await world.running(1)
  const f1 = await world.node('f1', { cluster: 'far' })
  await isSummed(world, 1)
  return { world, n1, f1 }
}

t.test('it is called where it was until it runs in the other cluster, and then drains there', async (t) => {
  const { world, n1, f1 } = await twoClusters()
  await using _world = world
  f1.isHolding = true
  t.match(await migrate(world, 'far/f1'), { from: 'edge/n1', node: 'far/f1' })
  await until(async () => (await shownTo(n1)) === 'edge/n1 running far/f1', 'the new run may call, too')
  t.equal(await shownTo(f1), 'edge/n1 running far/f1')
  t.match(await world.instances(), [{ node: 'edge/n1', successor: { node: 'far/f1' } }])
  t.match(await migrate(world, 'far/f1'), { node: 'far/f1' }, 'asked again, it goes on')

  await world.stopRoot()
  await world.startRoot()
  await until(() => world.cluster().isLinked && world.cluster('far').isLinked, 'the clusters are back')
  t.same(n1.withdrawn, [], 'a root that is started again goes on')
  f1.say(CART, 'running')
  await isOn(world, 'far/f1')
  t.match(await world.instances(), [{ mayAlsoRunOn: undefined }], 'where it drains it is not lost')
  await until(() => n1.has.size === 0, 'n1 has ended it')
  t.equal(n1.withdrawn[0]?.[1], undefined, 'and let it drain')
  for (const node of [n1, f1]) await until(async () => (await shownTo(node)) === 'far/f1 running', `${node.id} knows`)

  // and back, without a name: only the other cluster has room
  t.match(await migrate(world), { from: 'far/f1', node: 'edge/n1' })
  await isOn(world, 'edge/n1')
  const told = await world.api.call<Event[]>('GET', `/events?name=${CART}`)
  const moves = told.filter(({ what }) => what === 'moved')
  t.match(moves, [
    { node: 'far/f1', by: 'user', why: 'from edge/n1; it was migrated' },
    { node: 'edge/n1', by: 'user', why: 'from far/f1; it was migrated' },
  ])
  t.match(
    told.find(({ what }) => what === 'drained'),
    { node: 'edge/n1', by: 'cluster', instance: CART },
  )
})

t.test('no node is ever told that it runs nowhere, or drains with nothing to call instead', async (t) => {
  const { world, n1, f1 } = await twoClusters()
  await using _world = world
  // what tables show comes to a cluster after what it is asked to do, as when the disk of the root is busy
  // eslint-disable-next-line typescript/unbound-method -- called with what it is of
  const { publish } = Clusters.prototype
  t.capture(Clusters.prototype, 'publish', function (this: Clusters, ...args: Parameters<typeof publish>) {
    setTimeout(() => publish.apply(this, args), 50)
  })
  const end = new AbortController()
  const nodes = await Promise.all([n1, f1].map((node) => toldTo(node, end.signal)))
  const round = async (to: string) => {
    await migrate(world, to)
    for (const { told } of nodes) await until(() => told.at(-1) === `${to} running`, `both are told of ${to}`)
  }
  for (const to of ['far/f1', 'edge/n1', 'far/f1', 'edge/n1']) {
    await round(to)
    await until(async () => n1.has.size + f1.has.size === 1, 'the run before has ended')
  }
  end.abort()
  await Promise.all(nodes.map(({ ended }) => ended))
  for (const { told } of nodes) {
    t.ok(told.length > 3, `${told.length} changes`)
    t.same(
      told.filter((where) => !where.endsWith(' running')),
      [],
      told.join('; '),
    )
  }
})

t.test('one that does not get ready there stays where it is, and so does what nobody takes', async (t) => {
  const { world, n1, f1 } = await twoClusters({ root: { clusterLostSeconds: 0.2 } })
  await using _world = world
  f1.isHolding = true
  const given = async (why: RegExp) => {
    const told = async () =>
      (await world.api.call<{ what: string; why?: string }[]>('GET', `/events?name=${CART}`)).filter(
        ({ what }) => what === 'failed',
      )
    await until(async () => why.test((await told()).at(-1)?.why ?? ''), `it is told: ${String(why)}`)
    t.match(await world.instances(), [{ node: 'edge/n1', state: 'running' }])
    t.notOk('successor' in ((await world.instances())[0] as object))
    t.same(n1.withdrawn, [])
  }
  await migrate(world, 'far/f1')
  f1.say(CART, 'failed', 'no such program')
  await given(/stays in edge: no such program/)
  await until(() => f1.has.size === 0, 'f1 has ended it')
  await t.rejects(migrate(world), {
    code: 'UNPLACEABLE',
    details: { reason: /^edge: 1 node: .*; other clusters: 1 cluster: 1 refused/ },
  })
  await until(async () => {
    await migrate(world, 'far/f1').catch(() => undefined)
    return f1.has.size === 1
  }, 'whoever names the node asks it again')
  await world.stopCluster('far')
  await given(/cluster far is lost/)
  await t.rejects(migrate(world, 'far/f1'), { code: 'LINK_CLOSED', details: { cluster: 'far' } })
})

t.test('a node is named as soon as it has joined, before its cluster has summed it up for the root', async (t) => {
  await using world = await mesh({ clusters: ['edge', 'far'] })
  await world.node('n1')
  await apply(world, { microservice_name: 'cart' })
  await world.running(1)
  const summaries = t.capture(RootLink.prototype, 'summariseSoon', () => undefined)
  await world.node('f1', { cluster: 'far' })
  t.match(await migrate(world, 'far/f1'), { from: 'edge/n1', node: 'far/f1' })
  await isOn(world, 'far/f1')
  t.ok(summaries().length > 0, 'the root was not told what the cluster has')
})

t.test('what is of one machine does not move', async (t) => {
  const rows: { spec: Record<string, unknown>; why: RegExp | undefined }[] = [
    { spec: {}, why: undefined },
    { spec: { storage: 7 }, why: undefined },
    { spec: { one_shot: true }, why: /it is a job/ },
    { spec: { runtime: 'external', code: '127.0.0.1:9' }, why: /it is external, at 127\.0\.0\.1:9 of this node/ },
    { spec: { runtime: 'external', code: '[::1]:9' }, why: /of this node/ },
    { spec: { runtime: 'external', code: 'db.example:9' }, why: undefined },
  ]
  for (const { spec, why } of rows) {
    const said = whyImmobile(specOf(spec))
    if (why === undefined) t.equal(said, undefined, JSON.stringify(spec))
    else t.match(said, why)
  }
})

t.test('what a move would leave behind', async (t) => {
  const volume = (name: string) => ({ name, path: `/${name}` })
  const rows: { spec: Record<string, unknown>; left: string | undefined }[] = [
    { spec: {}, left: undefined },
    { spec: { storageMb: 7 }, left: '7 MB of storage' },
    { spec: { volumes: [volume('pages')] }, left: 'the volume pages' },
    {
      spec: { storageMb: 7, volumes: ['pages', 'films'].map(volume) },
      left: '7 MB of storage and the volumes pages, films',
    },
    { spec: { storageMb: 7, runtime: 'external' }, left: undefined },
  ]
  for (const { spec, left } of rows) t.equal(whatStays({ ...specOf({}), ...spec }), left, JSON.stringify(spec))
})

t.test('what cannot move says why at once', async (t) => {
  const { world, f1 } = await twoClusters()
  await using _world = world
  await apply(
    world,
    { microservice_name: 'job', one_shot: true, constraints: [{ type: 'clusters', allowed: ['edge'] }] },
    { microservice_name: 'here', constraints: [{ type: 'clusters', allowed: ['edge'] }] },
  )
  await until(async () => (await world.instances()).length === 3, 'all are known')
  await until(async () => (await world.instances()).every(({ node }) => node !== undefined), 'all have a place')
  const refused = (service: string, reason: RegExp, to?: string) =>
    t.rejects(migrate(world, to, `shop.acme.${service}.prod.0`), { code: 'UNPLACEABLE', details: { reason } }, service)
  await refused('job', /it is a job/)
  await refused('here', /^edge: .*; other clusters: 1 cluster: 1 /)
  await refused('here', /^far: 1 node: 1 /, 'far/f1')
  f1.refuses = 'not now'
  await apply(world, { microservice_name: 'here' })
  await refused('here', /far: far\/f1: not now/)
})

t.test('a node is drained into another cluster when its own has no room', async (t) => {
  const { world, n1, f1 } = await twoClusters()
  await using _world = world
  await apply(world, { microservice_name: 'cart', replicas: 3 })
  await world.running(3)
  const there = n1.has.size
  f1.isHolding = true
  const status = () => world.api.call<DrainStatus>('GET', '/nodes/edge/n1/drain')
  await world.api.call('POST', '/nodes/edge/n1/drain', {})
  await until(
    async () => (await status()).left.filter(({ state, to }) => state === 'moving' && to === 'far/f1').length === there,
    'they move',
    async () => JSON.stringify(await status()),
  )
  t.equal(n1.has.size, there, 'and run on meanwhile')
  f1.isHolding = false
  for (const id of f1.has.keys()) f1.say(id, 'running')
  await until(async () => {
    const { left, leaving } = await status()
    return left.length === 0 && leaving === 0
  }, 'it is empty')
  t.same([n1.has.size, f1.has.size], [0, 3])

  await world.api.call('POST', '/nodes/edge/n1/cordon', {})
  f1.refuses = 'not now'
  await world.api.call('POST', '/nodes/far/f1/drain', {})
  const says = async (why: RegExp) => {
    const { left } = await world.api.call<DrainStatus>('GET', '/nodes/far/f1/drain')
    return left.length === 3 && left.every((each) => why.test(each.why ?? ''))
  }
  await until(() => says(/cordoned; other clusters: 1 cluster: 1 /), 'what nobody takes says so')
})

t.test('a constraint that only another cluster can keep leads there', async () => {
  await using world = await mesh({ clusters: ['edge', 'far'], cluster: { measureMs: 50 } })
  const at = (ms: number) => ({ at: [ms, 0, 0], height: 0, error: 0.1 })
  const n1 = await world.node('n1', { coordinate: at(5) })
  await world.node('home', { cluster: 'far', coordinate: at(0) })
  await apply(world, { microservice_name: 'db', constraints: [{ type: 'direct', node: 'home' }] })
  await world.running(1)
  const near = { type: 'latency', threshold: 20, rigidness: 1, convergence_time: 0 }
  const web = {
    microservice_name: 'cart',
    constraints: [{ type: 'direct', node: 'n1;f1' }],
    connectivity: [{ target_microservice_id: 'db', con_constraints: [near] }],
  }
  await apply(world, web)
  await world.running(2)
  const f1 = await world.node('f1', { cluster: 'far', coordinate: at(1) })
  await isSummed(world, 2)
  n1.coordinate = at(60)
  n1.uplink.factsChanged()
  await until(
    () => f1.has.has(CART) && !n1.has.has(CART),
    'it has moved',
    async () => JSON.stringify(await world.instances()),
  )
})
