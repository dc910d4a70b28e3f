import t from 'tap'
import { type FakeNode, mesh, sla, type World } from './mesh.ts'
import { until } from '../support/until.ts'

/* Updates as the root, a cluster and nodes that only pretend see them: when one waits, when there is a gap, and what rollback goes back to. */

t.setTimeout(280_000)
const CART = 'shop.acme.cart.prod'

interface Applied {
  services: { id: string; change: string; gap?: string }[]
}
interface Service {
  detail?: string
  update?: string
  replicas: number
  spec: { cmd: string[]; replicas: number }
}
interface Revision {
  number: number
  spec: { cmd: string[] }
  rollbackTo?: number
  isComplete?: boolean
}

const apply = (world: World, service: Record<string, unknown>, query = '') =>
  world.api.call<Applied>('POST', `/apps${query}`, sla({ microservice_name: 'cart', ...service }))
const service = (world: World) => world.api.call<Service>('GET', `/services/${CART}`)
const revisions = (world: World) => world.api.call<Revision[]>('GET', `/services/${CART}/revisions`)
const rollback = (world: World, body: object = {}) => world.api.call('POST', `/services/${CART}/rollback`, body)
const complete = (world: World) =>
  until(async () => (await revisions(world)).at(-1)?.isComplete === true, 'every instance runs it')

t.test(
  'where no second one fits, it is stopped first; or the update waits, where the document forbids that',
  async (t) => {
    await using world = await mesh()
    const node = await world.node('n1', { refusesBeside: 'too little memory free for a second one beside it' })
    await apply(world, { cmd: ['v1'] })
    await world.running(1)
    await complete(world)
    await apply(world, { cmd: ['v2'] })
    await until(() => node.has.get(`${CART}.0`)?.spec.cmd[0] === 'v2', 'it is updated')
    t.same(node.replacements, ['stop-first', 'stop-first'], 'with a gap')
    await complete(world)

    await apply(world, { cmd: ['v3'], update: { max_unavailable: 0 } })
    await until(async () => (await service(world)).update?.includes('stuck') === true, 'it waits')
    t.match(await service(world), { update: 'updated 0/1, stuck: too little memory free for a second one beside it' })
    t.match(await world.instances(), [{ state: 'running', detail: /^its update waits: too little memory free/ }])
    t.equal(node.has.get(`${CART}.0`)?.spec.cmd[0], 'v2', 'and the one before stays')
    node.refusesBeside = undefined
    await until(
      () => node.has.get(`${CART}.0`)?.spec.cmd[0] === 'v3',
      'until there is room',
      async () => '',
    )
    await complete(world)
    t.equal((await service(world)).update, undefined)
    t.equal(node.replacements.at(-1), 'beside')
  },
)

t.test('apply names what does not answer while it is updated', async (t) => {
  await using world = await mesh()
  await world.node('n1')
  const fixed = { fixed_port: true, port: '80:8080', cmd: ['v1'] }
  t.match((await apply(world, fixed)).services, [{ change: 'created', gap: undefined }])
  await world.running(1)
  const [again] = (await apply(world, { ...fixed, cmd: ['v2'] })).services
  t.match(again, {
    change: 'updated',
    gap: /^two instances cannot listen on port tcp\/8080 of one node \(fixed_port\)/,
  })
})

t.test('rollback applies an earlier revision again, and keeps the number of instances', async (t) => {
  await using world = await mesh()
  await world.node('n1')
  await apply(world, { cmd: ['v1'] })
  await world.running(1)
  await complete(world)
  await t.rejects(rollback(world), { code: 'REVISION_UNKNOWN' }, 'there is nothing to go back to')
  await apply(world, { cmd: ['v2'] })
  await complete(world)
  await world.api.call('POST', `/services/${CART}/scale`, { replicas: 3 })
  await world.running(3)
  t.match(await rollback(world), { id: CART, revision: 1, change: 'updated' })
  await complete(world)
  t.match((await service(world)).spec, { cmd: ['v1'], replicas: 3 })
  t.match(await revisions(world), [
    { number: 1, spec: { cmd: ['v1'] } },
    { number: 2, spec: { cmd: ['v2'] } },
    { number: 3, spec: { cmd: ['v1'] }, rollbackTo: 1 },
  ])
  t.match(await rollback(world, { to: 1 }), { change: 'unchanged' })
  await t.rejects(rollback(world, { to: 9 }), { code: 'REVISION_UNKNOWN' })
  for (let i = 0; i < 12; i += 1) await apply(world, { cmd: [`w${i}`], replicas: 3 })
  const kept = (await revisions(world)).map(({ number }) => number)
  t.same(kept, [6, 7, 8, 9, 10, 11, 12, 13, 14, 15], 'the last ten are kept')
  await world.api.call('DELETE', `/services/${CART}`)
  await until(async () => (await world.instances()).length === 0, 'it is gone')
  await apply(world, { cmd: ['new'] })
  t.match(await revisions(world), [{ number: 1 }], 'a deleted service leaves no history')
})

t.test('one that goes to another cluster is called where it was until it runs there', async (t) => {
  await using world = await mesh({ clusters: ['edge', 'core'] })
  const n1 = await world.node('n1')
  const c1 = await world.node('c1', { cluster: 'core' })
  c1.isHolding = true
  await apply(world, { constraints: [{ type: 'clusters', allowed: ['edge'] }] })
  await world.running(1)
  const shownTo = async (node: FakeNode) => {
    const { entries } = await node.uplink.ask('shop.acme.cart', AbortSignal.timeout(30_000))
    return entries.flatMap(({ instances }) => instances.map(({ node: at, state }) => `${at} ${state}`)).join()
  }
  await apply(world, { constraints: [{ type: 'clusters', allowed: ['core'] }] })
  const isAlso = (row: object) => 'detail' in row && row.detail === 'its successor in core is starting'
  await until(async () => (await world.instances()).every(isAlso), 'it starts there')
  t.match(await world.instances(), [{ state: 'running', node: 'edge/n1' }])
  for (const node of [n1, c1]) t.equal(await shownTo(node), 'edge/n1 running', `as ${node.id} sees it`)
  t.same(n1.withdrawn, [])
  c1.say(`${CART}.0`, 'running')
  await until(async () => (await world.instances()).every(({ node }) => node === 'core/c1'), 'it is there')
  for (const node of [n1, c1]) await until(async () => (await shownTo(node)) === 'core/c1 running', `${node.id} knows`)
  await until(() => n1.has.size === 0, 'n1 has ended it')
  t.same(new Set(n1.withdrawn.map(([, seconds]) => seconds)), new Set([undefined]), 'and let it drain')
})

t.test('a dry run says what would change, and changes nothing', async (t) => {
  await using world = await mesh()
  await world.node('n1')
  await apply(world, { cmd: ['v1'], memory: 100 })
  await world.running(1)
  const cases = [
    { why: 'the same', document: { cmd: ['v1'] }, change: 'unchanged', fields: [], instances: {} },
    {
      why: 'another program',
      document: { cmd: ['v2'] },
      change: 'updated',
      fields: ['cmd'],
      instances: { replaced: 1 },
    },
    {
      why: 'in place',
      document: { cmd: ['v1'], memory: 50 },
      change: 'updated',
      fields: ['memory'],
      instances: { changedInPlace: 1 },
    },
    {
      why: 'more of them',
      document: { cmd: ['v1'], replicas: 3 },
      change: 'updated',
      fields: ['replicas'],
      instances: { added: 2 },
    },
    {
      why: 'none',
      document: { cmd: ['v1'], replicas: 0 },
      change: 'updated',
      fields: ['replicas'],
      instances: { removed: 1 },
    },
  ]
  for (const { why, document, change, fields, instances } of cases) {
    const { services } = await apply(world, { memory: 100, ...document }, '?dryRun=true')
    const counts = { added: 0, replaced: 0, changedInPlace: 0, removed: 0, ...instances }
    t.match(services, [{ id: CART, change, fields, instances: counts }], why)
  }
  const different = await apply(world, { cmd: ['v2'], memory: 100, environment: ['A=1'] }, '?dryRun=true')
  t.match(different.services, [
    {
      differences: [
        { keys: ['cmd'], before: ['v1'], after: ['v2'] },
        { keys: ['environment'], before: [], after: ['A=1'] },
      ],
    },
  ])
  const large = await apply(
    world,
    { cmd: ['v1'], memory: 3_000, replicas: 3, microservice_name: 'big' },
    '?dryRun=true',
  )
  t.match(large.services, [
    {
      places: [
        { instance: 'shop.acme.big.prod.0', place: 'edge/n1' },
        { reason: /too little memory/ },
        { reason: /too little memory/ },
      ],
    },
  ])
  const pruned = await apply(world, { microservice_name: 'other' }, '?dryRun=true&prune=true')
  t.match(pruned.services, [{ change: 'created' }, { id: CART, change: 'removed', instances: { removed: 1 } }])
  t.equal((await world.instances()).length, 1)
  t.match((await service(world)).spec, { cmd: ['v1'] })
})
