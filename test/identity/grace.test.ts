import { X509Certificate } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:https'
import t, { type Test } from 'tap'
import { isMeshError } from '../../src/core/errors.ts'
import type { Identity } from '../../src/core/identity/contract.ts'
import { provenInGrace, renewBy, renewInGrace } from '../../src/core/identity/grace.ts'
import { HeldIdentity } from '../../src/core/identity/held.ts'
import { issueNode } from '../../src/core/identity/issuer.ts'
import { createRequest } from '../../src/core/identity/keys.ts'
import { printPrincipal } from '../../src/core/identity/principal.ts'
import { Revocations } from '../../src/core/identity/revocation.ts'
import { serverOptions } from '../../src/core/identity/tls.ts'
import { enrolmentOf } from '../../src/core/identity/x509.ts'
import { systemClock, type Clock } from '../../src/core/kit/clock.ts'
import { forge, TestMesh, wear } from './mesh.ts'

const DAY_MS = 24 * 3_600_000
const limit = () => AbortSignal.timeout(30_000)
await using mesh = await TestMesh.create()
await using stranger = await TestMesh.create()
const edge = await mesh.cluster('edge')
const other = await mesh.cluster('other')

/** A clock two hours ahead, and the cluster with a certificate of that time: it begins in an hour. */
const aheadClock: Clock = { ...systemClock, wall: () => Date.now() + 2 * 3_600_000 + 60_000 }
const { keyPem, csrPem: aheadRequest } = await createRequest(edge.principal)
const ahead = HeldIdentity.inMemory({
  keyPem,
  chain: await mesh.issueAt(aheadClock, aheadRequest, edge.principal),
  ca: mesh.ca,
})

/** The certificate of a node, issued `days` ago: it lived for one. */
async function issuedAgo(days: number, cluster = edge, node = 'n1'): Promise<HeldIdentity> {
  const clock: Clock = { ...systemClock, wall: () => Date.now() - days * DAY_MS }
  if (cluster.principal.role !== 'cluster') throw new Error('not a cluster')
  const { keyPem, csrPem } = await createRequest({ ...cluster.principal, role: 'node', node })
  return HeldIdentity.inMemory({ keyPem, chain: await issueNode(cluster, csrPem, node, { clock }), ca: mesh.ca })
}

/** An issuer that renews for whoever is proven in grace. */
async function issuer(t: Test, revocations = new Revocations(mesh.ca), graceDays?: number): Promise<string> {
  const server = createServer(serverOptions(edge, { requestClient: true }) as object, (request, response) => {
    void (async () => {
      const { csr, chain } = JSON.parse(String(await request.toArray())) as { csr: string; chain: string }
      const options = { now: Date.now(), ...(graceDays === undefined ? {} : { graceDays }) }
      try {
        const proven = provenInGrace(request.socket, chain, { ca: mesh.ca, revocations }, options)
        if (proven.principal.role !== 'node') throw new Error('not a node')
        const renewed = await issueNode(edge, csr, proven.principal.node, { enrolment: proven.enrolment })
        response.end(JSON.stringify({ chain: renewed }))
      } catch (error) {
        response.statusCode = 403
        response.end(JSON.stringify(isMeshError(error) ? { error: error.code, details: error.details } : {}))
      }
    })()
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  return `https://127.0.0.1:${(server.address() as { port: number }).port}`
}

async function renew(url: string, identity: Identity): Promise<X509Certificate> {
  const { csrPem } = await createRequest(identity.principal)
  return new X509Certificate(await renewInGrace({ url, identity }, csrPem, limit()))
}

t.test('a node that was off for three days, or for 29, gets a new certificate of the same enrolment', async (t) => {
  const url = await issuer(t)
  for (const days of [0, 4, 30]) {
    const node = await issuedAgo(days)
    t.equal(node.isExpired, days > 0)
    const renewed = await renew(url, node)
    t.equal(enrolmentOf(renewed), enrolmentOf(new X509Certificate(node.chain)))
    t.ok(renewed.validToDate.getTime() > Date.now() + 23 * 3_600_000, `${days} days`)
  }
})

t.test('the grace period ends, and is configurable', async (t) => {
  await t.rejects(renew(await issuer(t), await issuedAgo(32)), {
    code: 'PEER_REFUSED',
    details: { reason: /30 days ago/ },
  })
  const strict = await issuer(t, undefined, 2)
  await t.rejects(renew(strict, await issuedAgo(4)), { code: 'PEER_REFUSED', details: { reason: /2 days ago/ } })
  await t.resolves(renew(strict, await issuedAgo(2)))
})

t.test('whoever is revoked, forged or of another mesh gets nothing', async (t) => {
  const old = await issuedAgo(4)
  const revocations = new Revocations(mesh.ca)
  const enrolment = enrolmentOf(new X509Certificate(old.chain))
  const entry = { kind: 'enrolment', id: enrolment, until: Date.now() + 30 * DAY_MS, principal: 'n1' } as const
  revocations.offer(mesh.authority.signRevocations(1, [entry]))
  await t.rejects(renew(await issuer(t, revocations), old), { code: 'PEER_REFUSED', details: { reason: /revoked/ } })

  const url = await issuer(t)
  const names = [{ type: 'url' as const, value: printPrincipal(old.principal) }]
  const subject = `O=${mesh.mesh}, OU=edge, CN=n1`
  const past = { from: -3 * DAY_MS, until: -2 * DAY_MS }
  const thief = await stranger.cluster('edge')
  const rows: [string, Identity][] = [
    ['signed by itself', wear(await forge({ subject, names, ...past }), old)],
    ['signed by another mesh', wear(await forge({ subject, names, ...past, by: thief }), old)],
    ['signed by another cluster of the mesh', wear(await forge({ subject, names, ...past, by: other }), old)],
    ['signed by a node', wear(await forge({ subject, names, ...past, by: old }), old)],
    [
      'with a foreign chain behind a leaf of its own',
      wear(await forge({ subject, names, ...past, by: thief, sends: edge.chain }), old),
    ],
  ]
  for (const [why, identity] of rows) await t.rejects(renew(url, identity), { code: 'PEER_REFUSED' }, why)

  // the chain of somebody else, with a key of one's own
  const own = await issuedAgo(4, edge, 'n2')
  const borrowed = { ...wear({ key: own.key, chain: own.chain }, old), chain: old.chain }
  await t.rejects(renew(url, borrowed), { code: 'PEER_REFUSED', details: { reason: /does not begin with/ } })
})

t.test('renewal goes over the link while that is up, and past it when it is down', async (t) => {
  const identity = await issuedAgo(4)
  const url = await issuer(t)
  const link = { isUp: true }
  const asked: string[] = []
  const overLink = async () => {
    asked.push('link')
    return identity.chain
  }
  const renewal = renewBy({ link, overLink, url: () => url, identity })
  const { csrPem } = await createRequest(identity.principal)
  t.equal(await renewal(csrPem, limit()), identity.chain)
  link.isUp = false
  t.not(await renewal(csrPem, limit()), identity.chain)
  t.same(asked, ['link'])
})

t.test('a clock that is the cause is named', async (t) => {
  const server = createServer(serverOptions(ahead, { requestClient: true }) as object, (_, response) => {
    response.setHeader('date', new Date(aheadClock.wall()).toUTCString())
    response.end('{}')
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  const url = `https://127.0.0.1:${(server.address() as { port: number }).port}`
  await t.rejects(renew(url, await issuedAgo(0)), {
    code: 'CLOCK_SKEW',
    details: { difference: '2 h behind', of: url },
  })
})
