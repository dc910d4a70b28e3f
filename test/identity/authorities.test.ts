import { X509Certificate } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { duplexPair } from 'node:stream'
import t, { type Test } from 'tap'
import { authorityIdOf, pathOf } from '../../src/core/identity/authorities.ts'
import { Authority } from '../../src/core/identity/authority.ts'
import type { Identity, Principal } from '../../src/core/identity/contract.ts'
import { HeldIdentity } from '../../src/core/identity/held.ts'
import { issueNode } from '../../src/core/identity/issuer.ts'
import { createRequest } from '../../src/core/identity/keys.ts'
import { connectSecure, createAcceptor } from '../../src/core/identity/peer-tls.ts'
import { readRevocations, signRevocations } from '../../src/core/identity/revocation-list.ts'
import { certificatesIn } from '../../src/core/identity/x509.ts'
import { forge, wear } from './mesh.ts'
import { closed } from '../support/closed.ts'
import { heard } from '../support/heard.ts'

const limit = () => AbortSignal.timeout(30_000)

/** An authority with the two nodes n1 and n2 of one cluster, which hold certificates of the authority that signed then. */
async function world(t: Test) {
  const dir = t.testdir()
  const authority = await Authority.open(dir)
  const { mesh } = authority
  const present = authority.ca
  const hold = async (principal: Principal, issue: (csr: string) => Promise<string>, ca: string) => {
    const { keyPem, csrPem } = await createRequest(principal)
    return HeldIdentity.inMemory({ keyPem, chain: await issue(csrPem), ca })
  }
  const cluster = (ca: string, name = 'edge') => {
    const principal: Principal = { role: 'cluster', mesh, cluster: name }
    return hold(principal, (csr) => authority.issue(csr, principal), ca)
  }
  const node = (of: HeldIdentity, name: string, ca: string) =>
    hold({ role: 'node', mesh, cluster: 'edge', node: name }, (csr) => issueNode(of, csr, name), ca)
  return { dir, authority, mesh, present, cluster, node }
}

async function meets(dialler: Identity, acceptor: Identity): Promise<boolean> {
  const [near, far] = duplexPair()
  using accepts = createAcceptor(acceptor)
  const accepted = accepts.accept(far)
  accepted.catch(() => undefined)
  try {
    const stream = await connectSecure(near, dialler, 'edge/n2', limit())
    const { stream: there } = await accepted
    stream.destroy()
    there.destroy()
    return true
  } catch {
    return false
  }
}

t.test('a rotation goes through its steps, each saved whole', async (t) => {
  const { dir, authority, mesh, present } = await world(t)
  const first = authority.ids.signs
  t.same([authority.step, authority.ids], ['steady', { signs: first }])
  await t.rejects(authority.issueByNext(), 'no step is left out')
  await t.rejects(authority.retire())

  await authority.rotate()
  const next = authority.ids.beside as string
  t.not(next, first)
  t.equal(authority.mesh, mesh, 'the mesh keeps its name')
  t.same([authority.step, authority.ids], ['spreading', { signs: first, beside: next }])
  t.equal(authority.ca, present)
  t.equal(certificatesIn(authority.trusted).length, 2)
  await t.rejects(authority.rotate(), 'one at a time')
  t.same((await Authority.open(dir)).ids, authority.ids, 'after a restart')

  await authority.issueByNext()
  t.same([authority.step, authority.ids], ['issuing', { signs: next, beside: first }])
  const again = await Authority.open(dir)
  t.same([again.step, again.ids, again.trusted], ['issuing', authority.ids, authority.trusted])

  await again.retire()
  t.same([again.step, again.ids], ['steady', { signs: next }])
  const text = readFileSync(join(dir, 'authority.pem'), 'utf8')
  t.equal(text.match(/BEGIN PRIVATE KEY/g)?.length, 1, 'the key of the first one is gone')
  t.same((await Authority.open(dir)).ids, { signs: next })
})

t.test('a damaged file of authorities is named, and left as it is', async (t) => {
  const { dir, authority } = await world(t)
  const steady = readFileSync(join(dir, 'authority.pem'), 'utf8')
  await authority.rotate()
  const path = join(dir, 'authority.pem')
  const good = readFileSync(path, 'utf8')
  const rows = [
    ['an unknown step', good.replace('spreading', 'dancing')],
    ['two pairs without a step', good.replace(/^step.*\n/, '')],
    ['a step with one pair', `step: spreading\n${steady}`],
    ['cut short', good.slice(0, -60)],
    ['nothing', ''],
  ] as const
  for (const [why, text] of rows) {
    writeFileSync(path, text)
    await t.rejects(Authority.open(dir), { code: 'STATE_CORRUPT' }, why)
    t.equal(readFileSync(path, 'utf8'), text, why)
  }
})

t.test('nodes meet in every step, whichever authorities they know', async (t) => {
  const { authority, present, cluster, node } = await world(t)
  const oldEdge = await cluster(present)
  await authority.rotate()
  const both = authority.trusted
  await authority.issueByNext()
  const next = authority.ca
  const newEdge = await cluster(both)
  t.equal(certificatesIn(newEdge.chain).length, 2, 'the introduction of the next authority follows')

  const old = (name: string, trusted: string) => node(oldEdge, name, trusted)
  const renewed = (name: string, trusted: string) => node(newEdge, name, trusted)
  const rows: [string, HeldIdentity, HeldIdentity, boolean][] = [
    ['both old', await old('n1', present), await old('n2', present), true],
    ['one knows both', await old('n1', both), await old('n2', present), true],
    ['one has renewed', await renewed('n1', both), await old('n2', both), true],
    [
      'one has renewed, and the other knows only the old one',
      await renewed('n1', both),
      await old('n2', present),
      true,
    ],
    ['the same, the other way round', await old('n1', present), await renewed('n2', both), true],
    ['both have renewed', await renewed('n1', both), await renewed('n2', both), true],
    ['one trusts only the new one', await renewed('n1', both), await renewed('n2', next), true],
  ]
  for (const [why, dialler, acceptor, expected] of rows) t.equal(await meets(dialler, acceptor), expected, why)

  // who trusts the new one alone does not know the old one's certificates, whoever dials
  const strict = { to: await renewed('n2', next), from: await renewed('n1', next) }
  t.equal(await meets(await old('n1', both), strict.to), false, 'an old certificate, accepting')
  t.equal(await meets(strict.from, await old('n2', both)), false, 'an old certificate, dialling')
})

t.test('an introduction is worth something only as the signature of a trusted authority', async (t) => {
  const { authority, mesh, present, cluster } = await world(t)
  const edge = await cluster(present)
  await authority.rotate()
  await authority.issueByNext()
  const renewed = await cluster(authority.trusted)
  const ids = (chain: string, trusted: string) => pathOf(certificatesIn(chain), trusted)?.certificates.length
  t.equal(ids(renewed.chain, present), 1)
  t.equal(
    authorityIdOf(pathOf(certificatesIn(renewed.chain), present)?.authority as X509Certificate),
    authority.ids.signs,
  )

  // a cluster writes an authority's name into what it signs
  const subject = `O=${mesh}, CN=mesh authority`
  const false1 = await forge({ subject, isCa: true, by: { key: edge.key, chain: edge.chain } })
  const names = [{ type: 'url' as const, value: `spiffe://${mesh}/cluster/other` }]
  const victim = { subject: `O=${mesh}, OU=cluster, CN=other`, names, isCa: true }
  const by = await forge({ ...victim, by: false1 })
  t.equal(pathOf(certificatesIn(by.chain), present), undefined)
  const acceptor = await cluster(present)
  t.equal(await meets(wear(by, acceptor), acceptor), false, 'nor for TLS')
})

t.test('the list of revocations tells everybody whom to trust', async (t) => {
  const { authority, mesh, present, cluster } = await world(t)
  const stranger = await Authority.open(join(t.testdir({ there: {} }), 'there'))
  const edge = await cluster(present)
  const changes: boolean[] = []
  edge.revocations.onTrust(({ isDropped }) => changes.push(isDropped))
  edge.revocations.offer(authority.signRevocations(1, []))
  t.same(changes, [], 'nothing new')

  await authority.rotate()
  const rotated = authority.signRevocations(2, [])
  t.equal(JSON.parse(rotated).signature !== JSON.parse(rotated).second, true)
  edge.revocations.offer(rotated)
  t.same(changes, [false])
  t.equal(edge.ca, authority.trusted)
  await edge.save()
  t.same(edge.trust, { trusts: [authority.ids.signs, authority.ids.beside], presents: authority.ids.signs })

  await authority.issueByNext()
  const newest = HeldIdentity.inMemory(await credentialsOf(authority, mesh))
  t.equal(newest.revocations.offer(authority.signRevocations(3, [])), true, 'read by who knows only the next one')

  await authority.retire()
  const last = authority.signRevocations(4, [])
  edge.revocations.offer(last)
  t.same(changes, [false, true])
  t.equal(edge.ca, authority.ca)
  t.equal(edge.isRevoked, true, 'its certificate was not renewed')
  t.same(edge.trust.presents, undefined)

  const key = /-----BEGIN PRIVATE KEY-----[^-]+-----END PRIVATE KEY-----/
  const taken = { present: (await cluster(authority.ca)).key }
  const rows: [string, string][] = [
    ['of a stranger', stranger.signRevocations(9, [])],
    ['of a cluster', signRevocations([taken.present], { number: 9, entries: [], authorities: [stranger.ca] })],
  ]
  t.match(taken.present, key)
  for (const [why, text] of rows) t.throws(() => edge.revocations.offer(text), { code: 'STATE_CORRUPT' }, why)
  t.throws(() => readRevocations(last, present), { code: 'STATE_CORRUPT' }, 'who knows only the old one is left behind')
})

t.test('what the dropped authority signs counts no more, and a signed list names no strangers', async (t) => {
  const dir = t.testdir()
  const authority = await Authority.open(dir)
  const stolen = /-----BEGIN PRIVATE KEY-----[^-]+-----END PRIVATE KEY-----/.exec(
    readFileSync(join(dir, 'authority.pem'), 'utf8'),
  )?.[0] as string
  const present = authority.ca
  const held = HeldIdentity.inMemory(await credentialsOf(authority, authority.mesh))
  const stranger = await Authority.open(join(dir, 'stranger'))
  const offer = (list: Parameters<typeof signRevocations>[1]) => held.revocations.offer(signRevocations([stolen], list))
  const bad: [string, string[]][] = [
    ['of another mesh', [stranger.ca]],
    ['a leaf', [certificatesIn(held.chain)[0]?.toString() ?? '']],
    ['two in one text, and one more', [`${present}${present}`, present]],
    ['no certificate', ['x']],
  ]
  for (const [why, authorities] of bad)
    t.throws(() => offer({ number: 50, entries: [], authorities }), { code: 'STATE_CORRUPT' }, why)
  t.throws(() => offer({ number: 50, entries: [], authorities: [present, present, present] }), {
    code: 'STATE_CORRUPT',
  })
  t.equal(held.revocations.number, 0)

  await authority.rotate()
  held.revocations.offer(authority.signRevocations(2, []))
  await authority.issueByNext()
  await authority.retire()
  held.revocations.offer(authority.signRevocations(3, []))
  t.throws(() => offer({ number: 60, entries: [], authorities: [present] }), { code: 'STATE_CORRUPT' })
  t.equal(held.ca, authority.ca)
})

t.test('a member keeps the authorities beside its certificate', async (t) => {
  const { dir, authority, mesh } = await world(t)
  const at = join(dir, 'member')
  const member = await HeldIdentity.save(at, await credentialsOf(authority, mesh))
  await authority.rotate()
  let told = 0
  member.onRenewed(() => told++)
  const before = member.secureContext()
  member.revocations.offer(authority.signRevocations(2, []))
  t.not(member.secureContext(), before, 'connections are made with the new trust at once')
  t.equal(member.trust.trusts.length, 1, 'and confirmed only when a restart would know it too')
  await member.save()
  t.equal(member.trust.trusts.length, 2)
  t.ok(told >= 2, 'whoever reports it is told')
  await member.revocations.saved()

  const opened = (await HeldIdentity.open(at)) as HeldIdentity
  t.equal(opened.ca, authority.trusted)
  writeFileSync(join(at, 'revocations.json'), 'damaged')
  t.equal((await HeldIdentity.open(at))?.ca, authority.trusted, 'also without the list')

  await authority.issueByNext()
  const { principal } = opened
  await opened.renewOnce((csr) => authority.issue(csr, principal), limit())
  t.equal(opened.trust.presents, authority.ids.signs)
  await authority.retire()
  opened.revocations.offer(authority.signRevocations(9, []))
  await opened.save()
  await opened.revocations.saved()
  const last = (await HeldIdentity.open(at)) as HeldIdentity
  t.same([last.ca, last.isRevoked], [authority.ca, false])
})

t.test('a member that was cut off can be opened, and says so', async (t) => {
  const { dir, authority, mesh } = await world(t)
  const at = join(dir, 'member')
  const member = await HeldIdentity.save(at, await credentialsOf(authority, mesh))
  await authority.rotate()
  member.revocations.offer(authority.signRevocations(2, []))
  await authority.issueByNext()
  await authority.retire()
  member.revocations.offer(authority.signRevocations(3, []))
  await member.save()
  await member.revocations.saved()
  const opened = (await HeldIdentity.open(at)) as HeldIdentity
  t.same([opened.isRevoked, opened.ca], [true, authority.ca])
})

t.test('a connection ends with the trust in an authority, and not when another one is added', async (t) => {
  const { authority, present, cluster, node } = await world(t)
  const edge = await cluster(present)
  const [n1, n2] = [await node(edge, 'n1', present), await node(edge, 'n2', present)]
  const [near, far] = duplexPair()
  using accepts = createAcceptor(n2)
  const [stream, { stream: there }] = await Promise.all([
    connectSecure(near, n1, 'edge/n2', limit()),
    accepts.accept(far),
  ])
  stream.on('error', () => undefined)
  await authority.rotate()
  n1.revocations.offer(authority.signRevocations(2, []))
  n2.revocations.offer(authority.signRevocations(2, []))
  there.write('still here')
  t.equal(String(await heard(stream)), 'still here')
  await authority.issueByNext()
  await authority.retire()
  const since = performance.now()
  n2.revocations.offer(authority.signRevocations(3, []))
  await closed(there)
  t.ok(performance.now() - since < 5_000, 'within the bound of a revocation')
})

async function credentialsOf(authority: Authority, mesh: string) {
  const principal: Principal = { role: 'cluster', mesh, cluster: 'edge' }
  const { keyPem, csrPem } = await createRequest(principal)
  return { keyPem, chain: await authority.issue(csrPem, principal), ca: authority.ca }
}
