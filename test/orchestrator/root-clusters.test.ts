import { join } from 'node:path'
import t from 'tap'
import { enrol } from '../../src/core/identity/enrol.ts'
import { clientOptions, verifyServer } from '../../src/core/identity/tls.ts'
import { systemClock } from '../../src/core/kit/clock.ts'
import { silentLog } from '../../src/core/kit/log.ts'
import { dialText } from '../../src/core/kit/websocket.ts'
import { openMetrics } from '../../src/core/metrics.ts'
import { Link } from '../../src/orchestrator/link/link.ts'
import { Clusters } from '../../src/orchestrator/root/clusters.ts'
import type { PlacementExplanation } from '../../src/orchestrator/root/explain.ts'
import { clusterToRoot, rootToCluster } from '../../src/orchestrator/link/messages/cluster-root.ts'
import type { NodeView } from '../../src/orchestrator/scheduling/candidate.ts'
import { summarise } from '../../src/orchestrator/scheduling/summary.ts'
import type { Assignment } from '../../src/orchestrator/spec.ts'
import { mesh, sla, type World } from './mesh.ts'
import { factsOf } from './specs.ts'
import { until } from '../support/until.ts'

/* What the root believes of its clusters, and what it shows of those that are away. */

t.setTimeout(280_000) // a busy machine takes several times as long
const CART = 'shop.acme.cart.prod'

/** What a cluster of an earlier version understands. */
const { 'placement.judge': _unknown, ...requests } = rootToCluster.requests
const understood = { ...rootToCluster, requests }

/** A cluster with a valid certificate that says what it likes, of an earlier version. */
async function rogueCluster(world: World, name: string) {
  const token = world.root.clusterToken(name)
  const signal = AbortSignal.timeout(30_000)
  const { identity, url } = await enrol({ token, role: 'cluster', dir: join(world.dir, `rogue-${name}`) }, signal)
  const isRoot = ({ role }: { role: string }) => role === 'root'
  const tls = clientOptions(identity, isRoot)
  const channel = await dialText(`${url.replace(/^http/, 'ws')}/link`, { tls, verify: verifyServer(isRoot) }, signal)
  const delegated: Assignment[] = []
  const foreign = { id: 'edge/n1', condition: 'alive', instances: 0, since: 0 } as const
  const link = new Link(
    channel,
    {
      sends: clusterToRoot,
      receives: understood,
      onRequest: {
        delegate: ({ assignment }) => (delegated.push(assignment), {}),
        'delegate.many': ({ assignments }) => (
          delegated.push(...assignments), { outcomes: assignments.map(() => ({})) }
        ),
        'withdraw.many': ({ instances }) => ({ ended: instances }),
        withdraw: () => ({ ended: true }),
        'nodes.list': () => ({ nodes: [foreign, { ...foreign, id: `${name}/own` }], more: false }),
        'placement.explain': () => ({ nodes: 1, reasons: [] }),
        'placement.preview': () => ({ nodes: [] }),
        'relays.list': () => ({
          relays: ['edge', 'edge/r1', name, `${name}/r1`].map((id) => ({
            id,
            kind: 'cluster' as const,
            condition: 'alive' as const,
            nodes: 0,
          })),
        }),
        'node.cordon': () => ({ changed: true }),
        'node.uncordon': () => ({ changed: true }),
        'node.drain': () => ({ isDraining: true, left: [], leaving: 0 }),
        'node.drained': () => ({ isDraining: true, left: [], leaving: 0 }),
        'instance.replace': () => ({ node: 'edge/n1', epoch: 1 }),
        'interest.used': () => ({ used: [] }),
        'token.mint': () => ({ token: '', expiresAt: 0 }),
        'logs.open': () => ({ stream: '' }),
        'logs.next': () => ({ text: '', done: true }),
        'usage.list': () => ({ usage: [] }),
        'links.list': () => ({ links: [] }),
        'volumes.list': () => ({ volumes: [] }),
        'volumes.remove': () => ({}),
        'exec.open': () => ({ stream: '' }),
        'exec.read': () => ({ printed: [], exitCode: 0 }),
        'exec.write': () => ({ taken: true }),
      },
      onNotification: {
        duplicate: () => undefined,
        known: () => undefined,
        revocations: () => undefined,
        renew: () => undefined,
        'logs.close': () => undefined,
        'exec.close': () => undefined,
      },
    },
    { tier: 'root', peer: 'root', clock: systemClock, log: silentLog, metrics: openMetrics('cluster') },
  )
  const view: NodeView = {
    facts: factsOf({ id: `${name}/own`, capacity: { memoryMb: 1e6, vcpus: 100, vgpus: 0, vtpus: 0, storageMb: 0 } }),
    condition: 'alive',
    free: { memoryMb: 1e6, vcpus: 100, vgpus: 0, vtpus: 0, storageMb: 0 },
    portsTaken: [],
    instances: 0,
    perService: new Map(),
  }
  const summary = summarise(name, [view])
  await link.request('cluster.hello', {
    summary,
    url: 'https://rogue',
    version: '1',
    instances: [],
    keys: [],
    enrolments: [],
  })
  return { link, delegated }
}

t.test('a cluster speaks only of its own nodes', async (t) => {
  await using world = await mesh()
  const n1 = await world.node('n1')
  await world.api.call(
    'POST',
    '/apps',
    sla({ microservice_name: 'cart', constraints: [{ type: 'clusters', allowed: ['rogue'] }] }),
  )
  const { link, delegated } = await rogueCluster(world, 'rogue')
  await until(() => delegated.length === 1, 'the instance was delegated to it')
  const seen = async () => (await n1.uplink.ask('shop.acme.cart', AbortSignal.timeout(30_000))).entries[0]
  const { generation = 0 } = delegated[0] ?? {}
  const report = (instance: string, id: string) => ({
    report: { instance, generation, state: 'running' as const, restarts: 0 },
    node: { id, addresses: ['192.0.2.66:1'], relays: [] },
  })
  const { clusters } = await world.api.call<PlacementExplanation>('GET', `/instances/${CART}.0/explain`)
  const unknown = 'it runs version 1, which cannot explain its decisions'
  t.same(clusters, [{ cluster: 'rogue', unknown }], 'one of an earlier version cannot explain, and that is said')
  link.notify('standings', { standings: [report(`${CART}.0`, 'edge/n1')] })
  await link.request('interest.vip', { vip: 5 }) // in order on the link: the root has read it
  t.match(await seen(), { instances: [], nodes: [] }, 'an instance on the node of another cluster is not published')
  link.notify('standings', { standings: [report(`${CART}.0`, 'rogue/own')] })
  await until(async () => (await seen())?.instances.length === 1, 'one on its own node is')
  t.match(await seen(), { nodes: [{ id: 'rogue/own' }] })

  await world.api.call(
    'POST',
    '/apps',
    sla({ microservice_name: 'stock', constraints: [{ type: 'clusters', allowed: ['edge'] }] }),
  )
  await until(async () => (await world.instances()).some(({ node }) => node === 'edge/n1'), 'stock runs at edge')
  link.notify('standings', { standings: [report('shop.acme.stock.prod.0', 'rogue/own')] })
  link.notify('handback', { instance: 'shop.acme.stock.prod.0', reason: 'I like it' })
  await link.request('interest.vip', { vip: 5 })
  t.match(
    (await world.instances()).find(({ id }) => id.startsWith('shop.acme.stock')),
    { cluster: 'edge', node: 'edge/n1' },
    'nor has it a say in what others run',
  )
  const nodes = await world.api.call<{ id: string; condition: string }[]>('GET', '/nodes')
  t.same(
    nodes.map(({ id }) => id),
    ['edge/n1', 'rogue/own'],
  )
  const relays = await world.api.call<{ id: string }[]>('GET', '/relays')
  t.same(
    relays.map(({ id }) => id),
    ['edge', 'rogue', 'rogue/r1'],
  )
  link.close('done')
})

t.test('what needs a cluster waits for its link, which may be a moment away', async (t) => {
  await using world = await mesh({ root: { clusterReturnMs: 30_000 } })
  const token = () => world.api.call('POST', '/tokens', { role: 'node' })
  await world.stopCluster()
  const asked = [token(), token()]
  await world.startCluster()
  t.match(await Promise.all(asked), [{ token: String }, { token: String }], 'of a cluster that was just started')
  await world.stopRoot()
  await world.startRoot()
  t.match(await token(), { token: String }, 'of a root that was just started')
  await world.stopCluster()
  // eslint-disable-next-line typescript/unbound-method -- called with what it is of
  const { linkedSoon } = Clusters.prototype
  const waits = Promise.withResolvers<void>()
  t.capture(Clusters.prototype, 'linkedSoon', function (this: Clusters, name: string) {
    waits.resolve()
    return linkedSoon.call(this, name)
  })
  const inVain = t.rejects(token(), { code: 'LINK_CLOSED', details: { cluster: 'edge' } }, 'it is removed meanwhile')
  await waits.promise // the two requests are on connections of their own
  await world.api.call('DELETE', '/clusters/edge')
  await inVain
})

t.test('nodes and instances of a cluster that is away are shown as last known, with their age', async (t) => {
  await using world = await mesh()
  await world.node('n1')
  await world.node('n2')
  await world.api.call('POST', '/apps', sla({ microservice_name: 'cart', replicas: 2 }))
  await world.running(2)
  const before = await world.api.call<Record<string, unknown>[]>('GET', '/nodes')
  t.match(before, [{ id: 'edge/n1', condition: 'alive' }, { condition: 'alive' }])
  t.notOk('ageSeconds' in (before[0] ?? {}), 'a fresh report has no age')
  await world.stopCluster()
  const away = await world.api.call<{ asOf: number; ageSeconds: number }[]>('GET', '/nodes')
  t.match(away, [
    { id: 'edge/n1', condition: 'away', instances: 1, addresses: ['127.0.0.1:1'], ageSeconds: Number },
    { id: 'edge/n2', condition: 'away' },
  ])
  t.ok(Math.abs(Date.now() - (away[0]?.asOf ?? 0)) < 60_000, 'the report has the time as of which it holds')
  const clusters = await world.api.call('GET', '/clusters')
  t.match(clusters, [{ name: 'edge', condition: 'away', nodes: 2, instances: 2, asOf: Number }])
  await world.stopRoot()
  await world.startRoot()
  t.match(
    await world.api.call('GET', '/nodes'),
    [{ id: 'edge/n1', condition: 'away' }, { id: 'edge/n2' }],
    'over a restart',
  )
  await world.startCluster()
  await until(
    async () =>
      (await world.api.call<{ condition: string }[]>('GET', '/nodes')).every(({ condition }) => condition === 'alive'),
    'live again',
  )
})
