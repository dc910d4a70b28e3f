import { X509Certificate } from 'node:crypto'
import { readFile, writeFile } from 'node:fs/promises'
import { createServer, type Server } from 'node:https'
import { once } from 'node:events'
import { join } from 'node:path'
import { duplexPair } from 'node:stream'
import { connect } from 'node:tls'
import t from 'tap'
import { Authority } from '../../src/core/identity/authority.ts'
import { HeldIdentity } from '../../src/core/identity/held.ts'
import { issueNode } from '../../src/core/identity/issuer.ts'
import { createRequest } from '../../src/core/identity/keys.ts'
import { connectSecure, createAcceptor } from '../../src/core/identity/peer-tls.ts'
import { printPrincipal } from '../../src/core/identity/principal.ts'
import type { Identity, Revocation } from '../../src/core/identity/contract.ts'
import { Revocations } from '../../src/core/identity/revocation.ts'
import { MAX_REVOCATIONS, readRevocations, signRevocations } from '../../src/core/identity/revocation-list.ts'
import { certificateOf, clientOptions, serverOptions } from '../../src/core/identity/tls.ts'
import { enrolmentOf, keyIdOf } from '../../src/core/identity/x509.ts'
import { forge, TestMesh, wear } from './mesh.ts'

const limit = () => AbortSignal.timeout(30_000)
await using mesh = await TestMesh.create()
const { authority } = mesh
const edge = await mesh.cluster('edge')
const core = await mesh.cluster('core')
const [n1, n2, m1] = [await mesh.node(edge, 'n1'), await mesh.node(edge, 'n2'), await mesh.node(core, 'n1')]

function leafOf({ chain }: { chain: string }): X509Certificate {
  return new X509Certificate(chain)
}

function revoke(identity: Identity): Revocation {
  const { principal, notAfter } = identity
  return {
    kind: 'enrolment',
    id: enrolmentOf(leafOf(identity)),
    until: notAfter.getTime(),
    principal: printPrincipal(principal),
  }
}

t.test('a list revokes the enrolments in it and no others', async (t) => {
  const revocations = new Revocations(authority.ca)
  t.equal(revocations.isRevoked(leafOf(n1)), false)
  t.equal(revocations.offer(authority.signRevocations(1, [revoke(n1)])), true)
  t.equal(revocations.isRevoked(leafOf(n1)), true)
  t.equal(revocations.isRevoked(leafOf(n2)), false)
  t.equal(revocations.isRevoked(leafOf(m1)), false, 'a node of the same name in another cluster')
})

t.test('a renewed certificate stays revoked, and the name is free for a new enrolment', async (t) => {
  const revocations = new Revocations(authority.ca)
  revocations.offer(authority.signRevocations(1, [revoke(n1)]))
  const { csrPem } = await createRequest(n1.principal)
  const renewed = await issueNode(edge, csrPem, 'n1', { enrolment: enrolmentOf(leafOf(n1)) })
  t.equal(revocations.isRevoked(new X509Certificate(renewed)), true, 'renewed before it was known here')
  const joinedAgain = await issueNode(edge, csrPem, 'n1')
  t.equal(revocations.isRevoked(new X509Certificate(joinedAgain)), false, 'joined again with a new token')
})

t.test('the key of a cluster: everything that it has signed is revoked', async (t) => {
  const revocations = new Revocations(authority.ca)
  const issuer: Revocation = {
    kind: 'issuer',
    id: keyIdOf(edge.chain) ?? '',
    until: edge.notAfter.getTime(),
    principal: printPrincipal(edge.principal),
  }
  revocations.offer(authority.signRevocations(1, [issuer, revoke(edge)]))
  t.equal(revocations.isRevoked(leafOf(n1)), true)
  t.equal(revocations.isRevoked(leafOf(n2)), true)
  t.equal(revocations.isRevoked(leafOf(edge)), true, 'the cluster itself')
  t.equal(revocations.isRevoked(leafOf(m1)), false, 'nodes of other clusters')

  const names = [{ type: 'url' as const, value: printPrincipal(n1.principal) }]
  const subject = `O=${mesh.mesh}, OU=edge, CN=n1`
  const silent = await forge({ subject, names, by: edge })
  t.equal(revocations.isRevoked(leafOf(silent)), true, 'a leaf that does not name the key of its issuer')
  const lying = await forge({ subject, names, by: edge, issuerKeyId: keyIdOf(core.chain) ?? '' })
  t.equal(revocations.isRevoked(leafOf(lying)), false, 'a leaf that names the key of another cluster')
  const judge = await HeldIdentity.save(t.testdir(), { keyPem: m1.key, chain: m1.chain, ca: m1.ca })
  const [near, far] = duplexPair()
  using acceptor = createAcceptor(judge)
  connectSecure(near, wear(lying, n1), 'core/n1', limit()).then(
    (socket) => socket.on('error', () => undefined),
    () => undefined,
  )
  await t.rejects(acceptor.accept(far), { code: 'PEER_REFUSED' }, 'but TLS does not verify that one')
})

t.test('only a newer list that the authority signed is taken', async (t) => {
  const revocations = new Revocations(authority.ca)
  let changes = 0
  const forget = revocations.onChanged(() => {
    changes += 1
  })
  const second = authority.signRevocations(2, [revoke(n1)])
  t.equal(revocations.offer(second), true)
  t.equal(revocations.offer(second), false, 'the same')
  t.equal(revocations.offer(authority.signRevocations(1, [])), false, 'an older one, which would set n1 free')
  t.equal(revocations.isRevoked(leafOf(n1)), true)
  t.equal(changes, 1)

  const stranger = await Authority.open(t.testdir())
  const rows: [string, string][] = [
    ['of another mesh', stranger.signRevocations(3, [])],
    ['signed by a cluster', signRevocations([edge.key], { number: 3, entries: [] })],
    ['cut short', second.slice(0, -10)],
    ['nothing', ''],
    ['changed', second.replace(/\\"number\\":2/, '\\"number\\":9')],
    ['a certificate', authority.ca],
  ]
  for (const [why, text] of rows) t.throws(() => revocations.offer(text), { code: 'STATE_CORRUPT' }, why)
  t.equal(revocations.number, 2)
  forget()
  revocations.offer(authority.signRevocations(4, []))
  t.equal(changes, 1, 'who no longer listens is not called')
  t.equal(revocations.isRevoked(leafOf(n1)), false, 'what has expired leaves the list')
})

t.test('a list at its largest is read, a larger one refused', async (t) => {
  const entry = { ...revoke(n1), principal: 'x'.repeat(250) }
  const full = authority.signRevocations(
    1,
    Array.from({ length: MAX_REVOCATIONS }, () => entry),
  )
  t.equal(readRevocations(full, authority.ca).entries.length, MAX_REVOCATIONS)
  const over = authority.signRevocations(
    1,
    Array.from({ length: MAX_REVOCATIONS + 1 }, () => entry),
  )
  t.throws(() => readRevocations(over, authority.ca), { code: 'STATE_CORRUPT' })
})

t.test('a restart forgets nobody, and a damaged copy stops nobody', async (t) => {
  const dir = t.testdir()
  const parts = { keyPem: n2.key, chain: n2.chain, ca: n2.ca }
  const before = await HeldIdentity.save(dir, parts)
  before.revocations.offer(authority.signRevocations(7, [revoke(n1)]))
  await before.revocations.saved()
  const after = await HeldIdentity.open(dir)
  t.equal(after?.revocations.number, 7)
  t.equal(after?.revocations.isRevoked(leafOf(n1)), true)
  t.equal(after?.revocations.text, await readFile(join(dir, 'revocations.json'), 'utf8'))
  await writeFile(join(dir, 'revocations.json'), '{"list":')
  const damaged = await HeldIdentity.open(dir)
  t.equal(damaged?.revocations.number, 0)
  t.equal(damaged?.revocations.offer(authority.signRevocations(7, [revoke(n1)])), true, 'it is taken again')
  await damaged?.revocations.saved()
})

t.test('tunnels are refused to a revoked node, at both ends', async (t) => {
  for (const side of ['dialler', 'acceptor'] as const) {
    const one = await HeldIdentity.save(t.testdir(), { keyPem: n1.key, chain: n1.chain, ca: n1.ca })
    const other = await HeldIdentity.save(t.testdir(), { keyPem: n2.key, chain: n2.chain, ca: n2.ca })
    const dial = async () => {
      const [near, far] = duplexPair()
      using acceptor = createAcceptor(other)
      const accepted = acceptor.accept(far)
      accepted.catch(() => undefined)
      const dialled = await connectSecure(near, one, 'edge/n2', limit())
      const { certificate, stream } = await accepted
      dialled.destroy()
      stream.destroy()
      return certificate
    }
    const certificate = await dial()
    t.equal(certificate.enrolment, enrolmentOf(leafOf(n1)), 'the acceptor knows the enrolment')
    t.same(certificate.notAfter, n1.notAfter)
    const [judge, revoked] = side === 'dialler' ? [one, n2] : [other, n1]
    judge.revocations.offer(authority.signRevocations(1, [revoke(revoked)]))
    await t.rejects(dial(), { code: 'PEER_REFUSED' }, `the ${side} refuses`)
    await judge.revocations.saved()
  }
})

t.test('control links are refused to who was revoked', async (t) => {
  const server: Server = createServer(serverOptions(edge, { requestClient: true }) as object).listen(0, '127.0.0.1')
  t.teardown(() => server.close())
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  const judged = new Promise<unknown>((resolve) => {
    const revocations = new Revocations(authority.ca)
    revocations.offer(authority.signRevocations(1, [revoke(n1)]))
    server.once('secureConnection', (socket) => {
      try {
        resolve(certificateOf(socket, revocations))
      } catch (error) {
        resolve(error)
      }
    })
  })
  const client = connect({ ...clientOptions(n1), host: '127.0.0.1', port })
  client.on('error', () => undefined)
  t.match(await judged, { code: 'PEER_REFUSED' })
  client.destroy()

  const wary = await HeldIdentity.save(t.testdir(), { keyPem: n2.key, chain: n2.chain, ca: n2.ca })
  wary.revocations.offer(authority.signRevocations(1, [revoke(edge)]))
  const refused = connect({ ...clientOptions(wary), host: '127.0.0.1', port })
  const [error] = (await once(refused, 'error')) as [Error]
  t.match(error, { code: 'PEER_REFUSED' }, 'a node refuses a cluster that was revoked')
  await wary.revocations.saved()
})
