import { request } from 'node:https'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { MeshError } from '../../src/core/errors.ts'
import { enrol } from '../../src/core/identity/enrol.ts'
import { HeldIdentity } from '../../src/core/identity/held.ts'
import { clientOptions } from '../../src/core/identity/tls.ts'
import { dialText, type DialOptions } from '../../src/core/kit/websocket.ts'
import type { ServiceEntry } from '../../src/core/model/change.ts'
import { type LinkedNode, Nodes } from '../../src/orchestrator/cluster/nodes.ts'
import { mergeEntry } from '../../src/orchestrator/cluster/publisher.ts'
import type { FeedMessage } from '../../src/core/model/change.ts'
import { type FakeNode, mesh, sla, type World } from './mesh.ts'
import { assignmentOf, serviceOf } from './specs.ts'
import { until } from '../support/until.ts'

t.setTimeout(280_000) // a busy machine takes several times as long
const SERVICE = 'shop.acme.cart.prod'
const KEY = 'shop.acme.cart'
const limit = () => AbortSignal.timeout(30_000)

t.test('an entry merges our records of this cluster with the root’s of the others', async (t) => {
  const { assignment, node } = { assignment: assignmentOf({}, 0), node: 'edge/n1' }
  const known: ServiceEntry = {
    version: 7,
    service: serviceOf(SERVICE),
    instances: [
      { id: `${SERVICE}.0`, service: SERVICE, ordinal: 0, node: 'edge/n9', state: 'running' },
      { id: `${SERVICE}.1`, service: SERVICE, ordinal: 1, node: 'core/c1', state: 'running' },
      { id: `${SERVICE}.2`, service: SERVICE, ordinal: 2, node: 'edge/n2', state: 'running' },
    ],
    nodes: [
      { id: 'core/c1', addresses: ['192.0.2.1:7472'], relays: [] },
      { id: 'edge/n9', addresses: [], relays: [] },
    ],
  }
  const shown = mergeEntry(known, [{ assignment, node, wanted: true, state: 'starting', restarts: 0 }], {
    cluster: 'edge',
    reachOf: (id) => ({ id, addresses: ['198.51.100.1:7472'], relays: ['wss://relay'] }),
  })
  t.same(
    shown.instances.map(({ id, node, state }) => [id, node, state]),
    [
      [`${SERVICE}.0`, 'edge/n1', 'starting'],
      [`${SERVICE}.1`, 'core/c1', 'running'],
    ],
    'ours as it is here, theirs as the root says, and nothing that the root believes of us and is not so',
  )
  t.same(shown.nodes, [
    { id: 'edge/n1', addresses: ['198.51.100.1:7472'], relays: ['wss://relay'] },
    { id: 'core/c1', addresses: ['192.0.2.1:7472'], relays: [] },
  ])
})

t.test('what has moved to another cluster is called here until the root says that it runs there', async (t) => {
  const assignment = assignmentOf({}, 0)
  const rows = [
    { why: 'it is to move', wanted: true, there: 'running', called: 'edge/n1' },
    { why: 'the root has not said so yet', wanted: false, there: undefined, called: 'edge/n1' },
    { why: 'nor that it runs', wanted: false, there: 'starting', called: 'edge/n1' },
    { why: 'it runs there', wanted: false, there: 'running', called: 'core/c1' },
  ] as const
  for (const { why, wanted, there, called } of rows) {
    const instances = there && [
      { id: `${SERVICE}.0`, service: SERVICE, ordinal: 0, node: 'core/c1', state: there } as const,
    ]
    const known = { version: 7, service: serviceOf(SERVICE), instances: instances ?? [], nodes: [] }
    const record = { assignment, node: 'edge/n1', wanted, state: 'running', restarts: 0 } as const
    const shown = mergeEntry(known, [record], { cluster: 'edge', reachOf: () => undefined }).instances
    t.same([shown[0]?.node, shown.length], [called, 1], why)
  }
})

t.test('an entry names the nodes with other runs of an instance beside the one that serves', async (t) => {
  const assignment = assignmentOf({}, 0)
  const record = { assignment, node: 'edge/n1', wanted: true, state: 'running', restarts: 0 } as const
  const parts = { cluster: 'edge', reachOf: (id: string) => ({ id, addresses: [], relays: [] }) }
  const known = { version: 7, service: serviceOf(SERVICE), instances: [], nodes: [] }
  const also = (more: object) => mergeEntry(known, [{ ...record, ...more }], parts).instances.map((each) => each.also)
  const successor = (node: string) => ({ successor: { node, assignment, state: 'starting' as const, restarts: 0 } })
  t.same(also({}), [undefined])
  t.same(also(successor('edge/n1')), [undefined], 'a second run of its own node')
  t.same(also(successor('edge/n2')), [['edge/n2']], 'one that starts elsewhere')
  t.same(also({ ...successor('edge/n2'), leaving: ['edge/n3'] }), [['edge/n2', 'edge/n3']], 'one that still drains')
  t.same(mergeEntry(known, [{ ...record, ...successor('edge/n2') }], parts).instances[0]?.node, 'edge/n1')
})

const join_ = (world: World, name: string, token: string) =>
  enrol({ token, role: 'node', name, dir: join(world.dir, `join-${name}-${Math.random()}`) }, limit())

t.test('a valid join token gives an identity and is used up', async (t) => {
  await using world = await mesh()
  const { token } = await world.api.call<{ token: string }>('POST', '/tokens', { role: 'node', cluster: 'edge' })
  const { identity } = await join_(world, 'a1', token)
  t.match(identity.principal, { role: 'node', cluster: 'edge', node: 'a1' }, 'the identity has the name it asked for')
  await t.rejects(
    join_(world, 'a2', token),
    { code: 'TOKEN_REFUSED', details: { reason: /already used/ } },
    'a second node with the same token is refused',
  )
})

t.test('of several nodes with one join token at the same time one wins', async (t) => {
  await using world = await mesh()
  const token = world.cluster().nodeToken()
  const results = await Promise.allSettled(Array.from({ length: 6 }, (_, i) => join_(world, `race${i}`, token)))
  t.equal(results.filter(({ status }) => status === 'fulfilled').length, 1, 'one of six has joined')
  for (const result of results)
    if (result.status === 'rejected') t.match(result.reason, { code: 'TOKEN_REFUSED' }, 'each other is refused')
  const rows = await world.api.call<Array<{ id: string }>>('GET', '/nodes')
  t.equal(rows.filter(({ id }) => id.startsWith('edge/race')).length, 1, 'one node is recorded')
})

t.test('an expired, forged or foreign join token is refused with the reason', async (t) => {
  await using world = await mesh()
  const content = (token: string) =>
    JSON.parse(Buffer.from(token.slice(14), 'base64url').toString()) as Record<string, string>
  const forge = (changes: Record<string, string>) =>
    `hedgerow-join.${Buffer.from(JSON.stringify({ ...content(world.cluster().nodeToken()), ...changes })).toString('base64url')}`
  // made when its turn comes: a new token makes the issuer forget those that have expired
  const rows = [
    {
      why: 'expired',
      token: () => world.cluster().nodeToken(-1),
      reason: /^it has expired \d seconds? ago, by the clock of its issuer/,
    },
    { why: 'forged with another secret', token: () => forge({ secret: 'A'.repeat(43) }), reason: /unknown/ },
    { why: 'forged with another id', token: () => forge({ id: '0123456789abcdef' }), reason: /unknown/ },
    { why: 'of another mesh', token: () => forge({ fingerprint: 'a'.repeat(64) }), reason: /another mesh/ },
    { why: 'for a cluster', token: () => world.root.clusterToken('core'), reason: /a cluster/ },
  ]
  for (const [at, { why, token, reason }] of rows.entries()) {
    const refusal = { code: 'TOKEN_REFUSED', details: { reason } }
    await t.rejects(join_(world, `b${at}`, token()), refusal, `a token that is ${why} is refused`)
  }
  await t.rejects(
    join_(world, 'b6', 'hedgerow-join.nonsense'),
    { code: 'TOKEN_INVALID' },
    'what is no token is refused',
  )
  await t.rejects(
    join_(world, 'Not A Name', world.cluster().nodeToken()),
    { code: 'MESSAGE_INVALID' },
    'a name that cannot be one is refused',
  )
})

t.test('a name that is in use is not given twice', async (t) => {
  await using world = await mesh()
  await using node = await taken(world, 'c1')
  await t.rejects(
    join_(world, 'c1', world.cluster().nodeToken()),
    {
      code: 'TOKEN_REFUSED',
      details: { reason: /is connected/ },
    },
    'another node under its name is refused',
  )
  t.ok(node.uplink.isUp, 'the node that has the name stays connected')
})

t.test('a link needs a certificate of a node of this cluster', async (t) => {
  await using world = await mesh()
  const { url, identity: ofCluster } = world.cluster()
  const { ca } = ofCluster
  const dial = (at: string, tls: DialOptions['tls']) =>
    dialText(`${at.replace('https', 'wss')}/link`, { tls }, limit()).then(
      () => 'open',
      (error: MeshError) => `${error.code} ${error.details['status'] as number}`,
    )
  const { identity: node } = await join_(world, 'd1', world.cluster().nodeToken())
  const own = clientOptions(node)
  t.equal(await dial(url, clientOptions({ ca })), 'REQUEST_FAILED 403', 'no certificate is refused')
  t.equal(await dial(url, clientOptions(ofCluster)), 'REQUEST_FAILED 403', 'the certificate of a cluster is refused')
  t.equal(await dial(world.root.url, own), 'REQUEST_FAILED 403', 'the certificate of a node is refused at the root')
  t.equal(
    await dial(world.root.url, clientOptions({ ca })),
    'REQUEST_FAILED 403',
    'no certificate is refused at the root',
  )
  await using foreign = await mesh()
  const { identity: stranger } = await enrol(
    { token: foreign.cluster().nodeToken(), role: 'node', name: 'd1', dir: join(foreign.dir, 'stranger') },
    limit(),
  )
  const forged = { ...clientOptions({ ca }), key: stranger.key, cert: stranger.chain }
  t.equal(await dial(url, forged), 'REQUEST_FAILED 403', 'a certificate of another mesh with the same names is refused')
  await t.rejects(
    dialText(`${url.replace('https', 'wss')}/link`, { tls: clientOptions(stranger) }, limit()),
    { code: 'NOT_RUNNING' },
    'who holds that one does not trust us either',
  )
  t.equal(await dial(url, own), 'open', 'the certificate of a node of this cluster opens the link')
})

t.test('a cluster has no API, and a large body is refused', async (t) => {
  await using world = await mesh()
  const { url, identity } = world.cluster()
  const { ca } = identity
  t.equal(await statusOf(`${url}/api/v1/apps`, ca), 401, 'a cluster serves no API')
  t.equal(await statusOf(`${url}/healthz`, ca), 200, 'its health answers')
  t.equal(await statusOf(`${url}/enrol`, ca, 'x'.repeat(20_000)), 413, 'a body of 20 kB is refused')
})

t.test('a cluster joins once and needs no token afterwards', async (t) => {
  await using world = await mesh()
  const token = world.root.clusterToken('core')
  const again = { token, role: 'cluster', dir: join(world.dir, 'core-identity') } as const
  t.match(
    (await enrol(again, limit())).identity.principal,
    { role: 'cluster', cluster: 'core' },
    'the token makes it a cluster',
  )
  await t.rejects(enrol(again, limit()), { code: 'TOKEN_REFUSED' }, 'the token works once')
  t.match(await HeldIdentity.open(again.dir), { principal: { cluster: 'core' } }, 'its identity is kept')
  await world.stopCluster()
  await world.startCluster()
  t.ok(world.cluster().isLinked, 'a cluster that is started again has its link without a token')
})

t.test('scaling, updating and deleting leave nothing behind', async (t) => {
  await using world = await mesh()
  const [n1, n2] = [await world.node('n1'), await world.node('n2')]
  await world.api.call('POST', '/apps', sla({ microservice_name: 'cart', replicas: 4 }))
  const rows = await world.running(4)
  t.same(
    Object.values(Object.groupBy(rows, ({ node }) => node ?? '')).map((on) => on?.length),
    [2, 2],
    'spread',
  )
  await world.api.call('POST', `/services/${SERVICE}/scale`, { replicas: 2 })
  await until(async () => (await world.instances()).length === 2, 'two are left')
  t.same(
    (await world.instances()).map(({ id }) => id),
    [`${SERVICE}.0`, `${SERVICE}.1`],
    'the highest went',
  )
  t.equal(n1.has.size + n2.has.size, 2)

  const before = n1.assigned.length + n2.assigned.length
  await world.api.call('POST', '/apps', sla({ microservice_name: 'cart', replicas: 2, cmd: ['sleep', '9'] }))
  await until(
    async () => (await world.instances()).every(({ generation, state }) => generation > 1 && state === 'running'),
    'renewed',
  )
  t.equal(n1.assigned.length + n2.assigned.length, before + 2, 'each was assigned once')
  t.same(
    [...n1.has.values(), ...n2.has.values()].map(({ spec }) => spec.cmd),
    [
      ['sleep', '9'],
      ['sleep', '9'],
    ],
  )

  const measured = await world.api.call<Array<{ id: string; usage?: object }>>('GET', '/instances?usage=true')
  t.match(
    measured.map(({ usage }) => usage),
    measured.map(({ id }) => ({ instance: id, cpu: 0.5, memoryMb: 12 })),
    'what each uses, by its own node alone',
  )

  let text = ''
  for await (const lines of world.api.text(
    '/v1/instances/{name}/logs',
    { path: { name: `${SERVICE}.0` }, query: { tail: 2 } },
    limit(),
  ))
    text += lines
  t.equal(text, `${SERVICE}.0 line 1\n${SERVICE}.0 line 2\n`)

  await world.api.call('DELETE', '/apps/shop.acme')
  await until(async () => (await world.instances()).length === 0, 'no instances')
  await until(() => n1.has.size + n2.has.size === 0, 'nothing runs')
  t.match(await world.api.call('GET', '/status'), { apps: 0, services: 0, instances: {}, vipsUsed: 0 })
  await until(async () => {
    const [cluster] = await world.api.call<Array<{ instances: number; free: object; total: object }>>(
      'GET',
      '/clusters',
    )
    return cluster?.instances === 0 && JSON.stringify(cluster.free) === JSON.stringify(cluster.total)
  }, 'all capacity is free again')
  t.same((await n1.uplink.ask(KEY, limit())).entries, [])
})

t.test('what fits nowhere waits with counted reasons, and is placed when it fits', async (t) => {
  await using world = await mesh()
  const n1 = await world.node('n1', { refuses: 'it is raining' })
  const n2 = await world.node('n2')
  await world.api.call('POST', '/apps', sla({ microservice_name: 'cart', replicas: 2 }))
  const rows = await world.running(2)
  t.same(new Set(rows.map(({ node }) => node)), new Set(['edge/n2']))
  t.equal(n1.has.size, 0)
  await world.api.call('POST', '/apps', sla({ microservice_name: 'big', memory: 100_000 }))
  const big = async () => (await world.instances()).find(({ id }) => id.startsWith('shop.acme.big'))
  await until(async () => (await big())?.state === 'unplaceable', 'too big')
  t.match((await big())?.detail, /too little memory free/)
  await world.node('n3', { memoryMb: 200_000 })
  await until(async () => (await big())?.node === 'edge/n3', 'it went to the large one')
  n2.say(`${SERVICE}.0`, 'failed', 'no such program')
  await until(
    async () => (await world.instances()).find(({ id }) => id === `${SERVICE}.0`)?.node === 'edge/n3',
    'what cannot be started is tried elsewhere',
  )
})

t.test('a lost node is seen in tables at once, its instances move, and it ends them when it is back', async (t) => {
  await using world = await mesh()
  const [n1, n2] = [await world.node('n1'), await world.node('n2')]
  await world.api.call('POST', '/apps', sla({ microservice_name: 'cart', replicas: 2 }))
  await world.running(2)
  const seen = await follow(t, n1)
  await n2.stop()
  await until(async () => {
    const rows = await world.instances()
    return rows.length === 2 && rows.every(({ node, state }) => node === 'edge/n1' && state === 'running')
  }, 'all on n1')
  await until(() => seen.entry()?.instances.every(({ node }) => node === 'edge/n1') === true, 'the table says so')
  const [moved] = (seen.all[0]?.instances ?? []).filter(({ node }) => node === 'edge/n2')
  const lives = seen.all
    .map(({ instances }) => instances.find(({ id }) => id === moved?.id))
    .map((i) => `${i?.node} ${i?.state}`)
  t.equal(lives[0], 'edge/n2 running')
  t.not(lives[1], 'edge/n1 running', 'no flow is sent there before it runs')
  t.equal(lives.at(-1), 'edge/n1 running')
  t.ok(
    seen.versions().every((version, i, all) => i === 0 || version > (all[i - 1] ?? 0)),
    'versions only grow',
  )
  const nodes = await world.api.call('GET', '/nodes')
  t.match(nodes, [
    { id: 'edge/n1', condition: 'alive' },
    { id: 'edge/n2', condition: 'lost', linksLost: 1, mayStillRun: [`${SERVICE}.1`] },
  ])
  const twice = async () =>
    (await world.instances()).flatMap((row) => ('mayAlsoRunOn' in row ? [[row.id, row.mayAlsoRunOn]] : []))
  await until(async () => (await twice()).length > 0, 'the root knows')
  t.same(await twice(), [[`${SERVICE}.1`, ['edge/n2']]], 'the instances say that one may run twice')
  const again = await world.node('n2')
  again.has.set(`${SERVICE}.1`, assignmentOf({}, 1))
  again.uplink.report({ instance: `${SERVICE}.1`, generation: 1, state: 'running', restarts: 0 })
  await until(() => again.has.size === 0, 'it ended what had moved elsewhere')
  t.match(await world.api.call('GET', '/nodes'), [{ silentMs: Number }, { condition: 'alive', silentMs: Number }])
  await until(async () => (await twice()).length === 0, 'the root knows that it runs once')
})

t.test(
  'an agent that ends and leaves its instances finds them when it is back, although they would fit elsewhere',
  async (t) => {
    await using world = await mesh({ cluster: { nodeReturnMs: 60_000 } })
    const [n1, n2] = [await world.node('n1'), await world.node('n2')]
    await world.api.call('POST', '/apps', sla({ microservice_name: 'cart', replicas: 2 }))
    await world.running(2)
    n2.uplink.leave()
    await n2.stop()
    await until(
      async () => (await world.instances()).some(({ state }) => state === 'lost'),
      'its instance is not chosen',
    )
    const again = await world.node('n2', { runs: n2.has.values() })
    const rows = await world.running(2)
    t.same(new Set(rows.map(({ node }) => node)), new Set(['edge/n1', 'edge/n2']))
    t.same([n1.assigned.length, again.assigned.length], [1, 0], 'neither was started a second time')
    t.equal(again.has.size, 1)
  },
)

t.test('an agent that hands over while the cluster answers its hello is one that leaves its instances', async (t) => {
  await using world = await mesh({ cluster: { nodeReturnMs: 60_000 } })
  const n1 = await world.node('n1')
  await world.api.call('POST', '/apps', sla({ microservice_name: 'cart' }))
  await world.running(1)
  const n2 = await world.node('n2')
  n1.uplink.leave()
  await n1.stop()

  // eslint-disable-next-line typescript/unbound-method -- called with what it is of
  const { hello } = Nodes.prototype
  const taken = Promise.withResolvers<void>()
  const busy = t.capture(Nodes.prototype, 'hello', async function (this: Nodes, ...args: Parameters<typeof hello>) {
    await hello.apply(this, args)
    taken.resolve()
    return new Promise<LinkedNode>(() => undefined) // a cluster that is busy answers later than the successor is there
  })
  const between = await world.node('n1', { runs: n1.has.values(), isAwaited: false })
  await taken.promise
  busy.restore()
  between.uplink.leave()
  await until(async () => (await world.instances()).some(({ state }) => state === 'lost'), 'it is lost')
  await between.stop()
  const last = await world.node('n1', { runs: n1.has.values() })
  t.match(await world.running(1), [{ node: 'edge/n1' }])
  t.same([n2.assigned.length, last.assigned.length], [0, 0], 'nobody has started it again')
})

t.test('a node that said that it hands over is waited for longer than one whose process just ended', async (t) => {
  await using world = await mesh({ cluster: { nodeGraceMs: 400, nodeReturnMs: 60_000 } })
  const [n1, n2] = [await world.node('n1'), await world.node('n2')]
  await world.api.call('POST', '/apps', sla({ microservice_name: 'cart', replicas: 2 }))
  await world.running(2)
  n2.uplink.leave()
  await Promise.all([n1.stop(), n2.stop()])
  const on = async (node: string) => (await world.instances()).find((row) => row.node === `edge/${node}`)
  await until(async () => (await on('n1'))?.state === 'lost', 'the one that said nothing is lost')
  t.match(await on('n2'), { state: 'running' }, 'the other one is still expected')
})

t.test('an agent that crashed finds its instances when it is back, where they fitted nowhere else', async (t) => {
  await using world = await mesh({ cluster: { nodeReturnMs: 60_000 } })
  const node = await world.node('n1')
  await world.api.call('POST', '/apps', sla({ microservice_name: 'cart' }))
  await world.running(1)
  await node.stop()
  await until(async () => (await world.instances()).some(({ state }) => state === 'lost'), 'it is lost')
  const again = await world.node('n1', { runs: node.has.values() })
  await world.running(1)
  t.same([again.assigned.length, again.has.size], [0, 1], 'it went on')
})

t.test('what an agent left that does not come back is handed back to the root', async (t) => {
  await using world = await mesh({ clusters: ['edge', 'core'], cluster: { nodeReturnMs: 300 } })
  const node = await world.node('n1')
  await world.api.call('POST', '/apps', sla({ microservice_name: 'cart' }))
  await world.running(1)
  await world.node('n2', { cluster: 'core' })
  node.uplink.leave()
  await node.stop()
  await until(async () => (await world.instances()).some((row) => row.node === 'core/n2'), 'another cluster has it')
  t.equal((await world.running(1)).length, 1)
})

t.test('without the root names, failover and joining go on, and it catches up on its return', async (t) => {
  await using world = await mesh()
  const [n1, n2] = [await world.node('n1'), await world.node('n2')]
  await world.api.call('POST', '/apps', sla({ microservice_name: 'cart', replicas: 2 }, { microservice_name: 'stock' }))
  await world.running(3)
  await n1.uplink.ask(KEY, limit())
  const spare = world.cluster().nodeToken()
  await world.stopRoot()
  await until(() => !world.cluster().isLinked, 'the link is down')
  t.match(
    await n2.uplink.ask(KEY, limit()),
    { entries: [{ service: { id: SERVICE } }] },
    'what the cluster knows is answered',
  )
  await t.rejects(
    n1.uplink.ask('shop.acme.web', limit()),
    { code: 'LINK_CLOSED' },
    'what it does not know is not guessed',
  )
  const seen = await follow(t, n1)
  await n2.stop()
  await until(
    () => seen.entry()?.instances.every(({ node, state }) => node === 'edge/n1' && state === 'running') === true,
    'moved without a root',
  )
  const { identity } = await enrol({ token: spare, role: 'node', name: 'n3', dir: join(world.dir, 'n3') }, limit())
  t.match(identity.principal, { node: 'n3' }, 'a node with a token joins')
  await world.startRoot()
  await until(() => world.cluster().isLinked, 'linked again')
  await until(
    async () => (await world.instances()).every(({ node }) => node === 'edge/n1'),
    'the root knows where they are',
  )
  t.same(await n1.uplink.ask('shop.acme.web', limit()).then(({ entries }) => entries), [])
})

t.test('without their cluster nodes keep what they run, and resume from their number', async (t) => {
  await using world = await mesh()
  const n1 = await world.node('n1')
  await world.api.call('POST', '/apps', sla({ microservice_name: 'cart', replicas: 2 }))
  await world.running(2)
  const seen = await follow(t, n1)
  const { assigned } = n1
  const before = assigned.length
  const { epoch } = seen.resumed[0] ?? {}
  await world.stopCluster()
  await until(() => !n1.uplink.isUp, 'the link is down')
  t.equal(n1.has.size, 2)
  await world.startCluster()
  await until(() => seen.resumed.length === 2, 'resumed')
  t.match(seen.resumed[1], { epoch, full: false, changes: [] }, 'nothing was missed')
  await world.api.call('POST', `/services/${SERVICE}/scale`, { replicas: 1 })
  await until(() => seen.entry()?.instances.length === 1, 'changes go on')
  t.equal(assigned.length, before, 'nothing was started again')
  t.same([...n1.has.keys()], [`${SERVICE}.0`])
})

t.test('the instances of a lost cluster move to one that has room, and end when it is back', async (t) => {
  await using world = await mesh({ clusters: ['edge', 'core'], root: { clusterLostSeconds: 1 } })
  const n1 = await world.node('n1')
  await world.api.call('POST', '/apps', sla({ microservice_name: 'cart', replicas: 2 }))
  await world.running(2)
  await world.stopCluster('edge')
  await until(
    async () =>
      (await world.api.call<Array<{ name: string; condition: string }>>('GET', '/clusters')).some(
        ({ name, condition }) => name === 'edge' && condition === 'lost',
      ),
    'edge is lost',
  )
  t.ok(
    (await world.instances()).every(({ cluster }) => cluster === 'edge'),
    'no other has room: it stays',
  )
  const c1 = await world.node('c1', { cluster: 'core' })
  await until(
    async () => (await world.instances()).every(({ node, state }) => node === 'core/c1' && state === 'running'),
    'moved',
  )
  await world.startCluster('edge')
  await until(() => n1.has.size === 0, 'edge ended what had moved elsewhere')
  t.equal(c1.has.size, 2)
  t.match(await c1.uplink.ask(KEY, limit()), { entries: [{ nodes: [{ id: 'core/c1', relays: [/\/relay$/] }] }] })
  t.match(
    await n1.uplink.ask(KEY, limit()),
    { entries: [{ nodes: [{ id: 'core/c1' }] }] },
    'both clusters’ nodes can reach it',
  )
})

t.test('a node follows the services it asks for, also those that come later, until it forgets them', async (t) => {
  await using world = await mesh()
  const n1 = await world.node('n1')
  t.same((await n1.uplink.ask(KEY, limit())).entries, [], 'not there yet')
  const seen = await follow(t, n1)
  await world.api.call('POST', '/apps', sla({ microservice_name: 'cart' }))
  await until(() => seen.entry()?.instances.some(({ state }) => state === 'running') === true, 'published when it came')
  const { entries } = await n1.uplink.ask(KEY, limit())
  const vip = entries[0]?.service.vips['any.rr'] ?? 0
  t.equal(await n1.uplink.askVip(vip, limit()), KEY)
  t.equal(await n1.uplink.askVip(5, limit()), undefined)
  const other = await world.node('n2')
  t.equal(await other.uplink.askVip(vip, limit()), KEY, 'a node that never asked the name')
  n1.uplink.forget([KEY])
  await n1.uplink.askVip(5, limit()) // in order on the link: the cluster has heard it
  const count = seen.all.length
  await world.api.call('POST', `/services/${SERVICE}/scale`, { replicas: 2 })
  await world.running(2)
  await n1.uplink.askVip(5, limit())
  t.equal(seen.all.length, count, 'forgotten keys are not published')
})

t.test('a revoked node is cut off, its revocation is spread, and its instances move', async (t) => {
  await using world = await mesh({ clusters: ['edge', 'core'] })
  const [n1, n2, c1] = [
    await world.node('n1'),
    await world.node('n2'),
    await world.node('c1', { cluster: 'core', memoryMb: 50 }),
  ]
  await world.api.call('POST', '/apps', sla({ microservice_name: 'cart', replicas: 2 }))
  await world.running(2)
  await world.api.call('DELETE', '/nodes/edge/n2')
  await until(() => !n2.uplink.isUp, 'cut')
  await until(() => n1.revoked.has('edge/n2') && c1.revoked.has('edge/n2'), 'nodes of every cluster know')
  await until(
    async () => (await world.instances()).every(({ node, state }) => node === 'edge/n1' && state === 'running'),
    'moved',
  )
  const late = await world.node('n3')
  t.ok(late.revoked.has('edge/n2'), 'a node that joins later learns of it too')
  t.notOk(n2.uplink.isUp, 'and it does not come back')
  const again = await world.node('n2', { dir: 'n2-again' })
  await until(() => again.uplink.isUp, 'another machine joins under its name at once, with a new token')
  t.notOk(n2.uplink.isUp, 'the old certificate stays dead')
  await t.rejects(world.api.call('DELETE', '/nodes/edge/n9'), { code: 'NODE_UNKNOWN' })
})

t.test('certificates are renewed over the link', async (t) => {
  await using world = await mesh()
  const n1 = await world.node('n1')
  const before = n1.identity.chain
  const stop = new AbortController()
  const renewed = new Promise<void>((resolve) => n1.identity.onRenewed(() => resolve()))
  // as if two thirds of its life were over: the loop asks at once
  const hurried = HeldIdentity.prototype.renewLoop.call(
    n1.identity,
    { renew: (csr, signal) => n1.uplink.renew(csr, signal), random: () => -20 },
    stop.signal,
  )
  await renewed
  stop.abort()
  await hurried
  t.not(n1.identity.chain, before)
  t.match(n1.identity.principal, { role: 'node', cluster: 'edge', node: 'n1' })
})

/** What a node's table would see of the cart. */
async function follow(t: Test, node: FakeNode) {
  const all: ServiceEntry[] = []
  const resumed: Array<Extract<FeedMessage, { kind: 'resumed' }>['resumed']> = []
  const point = { epoch: '', seq: 0 }
  const stop = new AbortController()
  let isGone = false
  const take = (message: FeedMessage) => {
    if (message.kind === 'resumed') {
      resumed.push(message.resumed)
      point.epoch = message.resumed.epoch
      point.seq = message.resumed.seq
    }
    for (const change of message.kind === 'resumed' ? message.resumed.changes : message.changes) {
      point.seq = Math.max(point.seq, change.seq)
      isGone = change.kind === 'gone'
      if (change.kind === 'service') all.push(change.entry)
    }
  }
  const running = (async () => {
    for await (const message of node.uplink.messages(() => ({ ...point, keys: [KEY] }), stop.signal)) take(message)
  })()
  t.teardown(async () => {
    stop.abort()
    await running
  })
  await until(() => resumed.length > 0, 'the feed began')
  return {
    all,
    resumed,
    entry: () => (isGone ? undefined : all.at(-1)),
    versions: () => all.map(({ version }) => version),
  }
}

async function taken(world: World, name: string): Promise<FakeNode & AsyncDisposable> {
  const node = await world.node(name)
  return Object.assign(node, { [Symbol.asyncDispose]: () => node.stop() })
}

function statusOf(url: string, ca: string, body?: string): Promise<number> {
  return new Promise((resolve, reject) => {
    const asking = request(
      url,
      {
        ca,
        agent: false,
        method: body === undefined ? 'GET' : 'POST',
        checkServerIdentity: () => undefined,
        headers: body === undefined ? {} : { 'content-type': 'application/json' },
      },
      (response) => {
        response.resume()
        response.on('end', () => resolve(response.statusCode ?? 0))
      },
    )
    asking.on('error', reject)
    asking.end(body)
  })
}
