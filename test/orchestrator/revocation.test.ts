import { X509Certificate } from 'node:crypto'
import { join } from 'node:path'
import t from 'tap'
import { Authority } from '../../src/core/identity/authority.ts'
import { enrol } from '../../src/core/identity/enrol.ts'
import { renewInGrace } from '../../src/core/identity/grace.ts'
import { HeldIdentity } from '../../src/core/identity/held.ts'
import { issueNode } from '../../src/core/identity/issuer.ts'
import { createRequest } from '../../src/core/identity/keys.ts'
import { enrolmentOf } from '../../src/core/identity/x509.ts'
import { systemClock, type Clock } from '../../src/core/kit/clock.ts'
import { enrolNode } from '../../src/orchestrator/worker/join.ts'
import { mesh } from './mesh.ts'
import { until } from '../support/until.ts'

/* Enrolments and their end, over the links of a real root, real clusters and nodes. The list itself: test/identity/revocation.test.ts */

t.setTimeout(280_000) // a busy machine takes several times as long
const DAY_MS = 24 * 3_600_000
const limit = () => AbortSignal.timeout(30_000)

t.test('a renewal keeps the enrolment, also past the link', async (t) => {
  await using world = await mesh()
  const n1 = await world.node('n1')
  const enrolmentNow = () => enrolmentOf(new X509Certificate(n1.identity.chain))
  const before = enrolmentNow()
  await n1.identity.renewOnce((csr, signal) => n1.uplink.renew(csr, signal), limit())
  t.equal(enrolmentNow(), before, 'over the link')
  const { url } = world.cluster()
  await n1.identity.renewOnce((csr, signal) => renewInGrace({ url, identity: n1.identity }, csr, signal), limit())
  t.equal(enrolmentNow(), before, 'at /renew')
  const cluster = world.cluster()
  const { csrPem } = await createRequest(cluster.identity.principal)
  const chain = await renewInGrace({ url: world.root.url, identity: cluster.identity }, csrPem, limit())
  t.equal(
    enrolmentOf(new X509Certificate(chain)),
    enrolmentOf(new X509Certificate(cluster.identity.chain)),
    'a cluster’s',
  )
})

t.test('of two machines that join under one name at the same time, one wins', async (t) => {
  await using world = await mesh()
  const join_ = (dir: string) =>
    enrolNode({ dir: join(world.dir, dir), name: 'twin', token: world.cluster().nodeToken() }, limit())
  const both = await Promise.allSettled([join_('one'), join_('other')])
  t.same(both.map(({ status }) => status).toSorted(), ['fulfilled', 'rejected'])
  const lost = both.find(({ status }) => status === 'rejected') as PromiseRejectedResult
  t.match(lost.reason, { code: 'TOKEN_REFUSED', details: { reason: /just joined/ } })
})

t.test(
  'of two clusters that join under one name at the same time, one wins, and a connected one keeps its name',
  async (t) => {
    await using world = await mesh()
    const join_ = (name: string, dir: string) =>
      enrol({ token: world.root.clusterToken(name), role: 'cluster', dir: join(world.dir, dir) }, limit())
    const both = await Promise.allSettled([join_('twin', 'one'), join_('twin', 'other')])
    t.same(both.map(({ status }) => status).toSorted(), ['fulfilled', 'rejected'])
    const lost = both.find(({ status }) => status === 'rejected') as PromiseRejectedResult
    t.match(lost.reason, { code: 'TOKEN_REFUSED', details: { reason: /just joined/ } })
    await t.rejects(join_('edge', 'third'), { code: 'TOKEN_REFUSED', details: { reason: /is connected/ } })
    t.ok(world.cluster().isLinked, 'the link of the first stays')
  },
)

t.test('a node can be removed while its cluster is away', async (t) => {
  await using world = await mesh({ clusters: ['edge', 'core'] })
  const n1 = await world.node('n1')
  const c1 = await world.node('c1', { cluster: 'core' })
  await world.stopCluster('edge')
  await world.api.call('DELETE', '/nodes/edge/n1')
  await until(() => c1.revoked.has('edge/n1'), 'nodes of other clusters know')
  await world.startCluster('edge')
  await until(
    () => world.cluster().identity.revocations.number === c1.identity.revocations.number,
    'its cluster learns',
  )
  await new Promise((resolve) => setTimeout(resolve, 600)) // twice the longest rest of its link
  t.notOk(n1.uplink.isUp, 'and does not let it in again')
})

t.test('a cluster that was removed and all it has signed are cut off', async (t) => {
  await using world = await mesh({ clusters: ['edge', 'core'] })
  const n1 = await world.node('n1')
  const c1 = await world.node('c1', { cluster: 'core' })
  t.same(await world.api.call('DELETE', '/clusters/edge'), { deleted: ['edge'] })
  await until(() => c1.identity.revocations.isRevoked(new X509Certificate(n1.identity.chain)), 'its nodes are revoked')
  const stolen = new X509Certificate(
    await issueNode(world.cluster().identity, (await createRequest(n1.identity.principal)).csrPem, 'n7'),
  )
  t.ok(c1.identity.revocations.isRevoked(stolen), 'so is what its key signs from now on')
  t.notOk(
    c1.identity.revocations.isRevoked(new X509Certificate(c1.identity.chain)),
    'a node of another cluster is not revoked',
  )
  t.same(
    (await world.api.call<{ name: string }[]>('GET', '/clusters')).map(({ name }) => name),
    ['core'],
  )
  await t.rejects(world.api.call('DELETE', '/clusters/edge'), { code: 'CLUSTER_UNKNOWN' })
  await t.rejects(world.api.call('DELETE', '/relays/core/r9'), { code: 'RELAY_UNKNOWN' })
})

t.test('cluster and nodes that were off for longer than their certificates live come back by themselves', async (t) => {
  await using world = await mesh()
  const n1 = await world.node('n1')
  const cluster = world.cluster()
  const enrolment = enrolmentOf(new X509Certificate(n1.identity.chain))
  const daysAgo = (days: number): Clock => ({ ...systemClock, wall: () => Date.now() - days * DAY_MS })

  // the node's is three days old, its cluster's 33: they lived for 1 and 30
  await n1.uplink[Symbol.asyncDispose]()
  const ofNode = await createRequest(n1.identity.principal)
  const chain = await issueNode(cluster.identity, ofNode.csrPem, 'n1', { clock: daysAgo(3), enrolment })
  await HeldIdentity.save(join(world.dir, 'node-edge-n1'), { keyPem: ofNode.keyPem, chain, ca: n1.identity.ca })
  const authority = await Authority.open(join(world.dir, 'root', 'authority'), daysAgo(33))
  const ofCluster = await createRequest(cluster.identity.principal)
  const old = await authority.issue(
    ofCluster.csrPem,
    cluster.identity.principal,
    enrolmentOf(new X509Certificate(cluster.identity.chain)),
  )
  await world.stopCluster()
  const dir = join(world.dir, 'edge', 'identity')
  const saved = await HeldIdentity.save(dir, { keyPem: ofCluster.keyPem, chain: old, ca: n1.identity.ca })
  t.ok(saved.isExpired, 'the saved certificate has expired')

  const back = await world.startCluster()
  await until(() => !back.identity.isExpired, 'the cluster has a new certificate')
  const again = await world.node('n1')
  await until(() => !again.identity.isExpired, 'so has the node, without a token')
  t.ok(again.uplink.isUp, 'the node is linked')
})
