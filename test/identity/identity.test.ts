import { X509Certificate } from 'node:crypto'
import { chmod, mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import fc from 'fast-check'
import t from 'tap'
import { explain, isMeshError } from '../../src/core/errors.ts'
import { Authority, fingerprintOf, meshOf } from '../../src/core/identity/authority.ts'
import type { Principal } from '../../src/core/identity/contract.ts'
import { HeldIdentity } from '../../src/core/identity/held.ts'
import { renewalAt } from '../../src/core/identity/renewal.ts'
import { issueNode } from '../../src/core/identity/issuer.ts'
import { createRequest } from '../../src/core/identity/keys.ts'
import { isPrincipalName, nodeIdOf, parsePrincipal, printPrincipal } from '../../src/core/identity/principal.ts'
import { hashSecret, matchesToken, mintToken, parseToken } from '../../src/core/identity/token.ts'
import { systemClock, type Clock } from '../../src/core/kit/clock.ts'
import { requestOnP384, TestMesh } from './mesh.ts'

const HOUR_MS = 3_600_000
const PARTS = { mesh: 'hedgerow-1a2b3c4d', cluster: 'edge', node: 'n1' }

t.test('principals are URIs, and only these', async (t) => {
  const rows: ReadonlyArray<[string, Principal | undefined]> = [
    ['spiffe://m/root', { role: 'root', mesh: 'm' }],
    ['spiffe://m/cluster/edge', { role: 'cluster', mesh: 'm', cluster: 'edge' }],
    ['spiffe://m/cluster/edge/node/n-1', { role: 'node', mesh: 'm', cluster: 'edge', node: 'n-1' }],
    ['spiffe://m/cluster/edge/relay/r1', { role: 'relay', mesh: 'm', cluster: 'edge', relay: 'r1' }],
    ['spiffe://m/cluster/edge/relay', undefined],
    ['spiffe://m/cluster/edge/relays/r1', undefined],
    ['spiffe://m/cluster/root/node/root', { role: 'node', mesh: 'm', cluster: 'root', node: 'root' }],
    ['spiffe://m', undefined],
    ['spiffe://m/', undefined],
    ['spiffe:///root', undefined],
    ['https://m/root', undefined],
    ['SPIFFE://m/root', undefined],
    ['spiffe://m/root/', undefined],
    ['spiffe://m/root?x', undefined],
    ['spiffe://m/root\n', undefined],
    ['spiffe://m/root, URI:spiffe://m/cluster/a', undefined],
    ['spiffe://m/cluster/', undefined],
    ['spiffe://m/cluster/a/node', undefined],
    ['spiffe://m/cluster/a/node/', undefined],
    ['spiffe://m/cluster/a/node/b/c', undefined],
    ['spiffe://m/cluster/a/../node/b', undefined],
    ['spiffe://m/cluster/a%2Fb', undefined],
    ['spiffe://m/cluster/Edge', undefined],
    ['spiffe://m/cluster/-a', undefined],
    [`spiffe://m/cluster/${'a'.repeat(63)}`, { role: 'cluster', mesh: 'm', cluster: 'a'.repeat(63) }],
    [`spiffe://m/cluster/${'a'.repeat(64)}`, undefined],
    ['spiffe://m:1/root', undefined],
    ['spiffe://u@m/root', undefined],
  ]
  for (const [uri, principal] of rows) t.same(parsePrincipal(uri), principal, JSON.stringify(uri))
  const names = fc.stringMatching(/^[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?$/)
  fc.assert(
    fc.property(names, names, names, (mesh, cluster, node) => {
      const all: Principal[] = [
        { role: 'root', mesh },
        { role: 'cluster', mesh, cluster },
        { role: 'node', mesh, cluster, node },
        { role: 'relay', mesh, cluster, relay: node },
      ]
      for (const principal of all) t.strictSame(parsePrincipal(printPrincipal(principal)), principal)
      t.ok(isPrincipalName(node))
    }),
    { numRuns: 30 },
  )
  t.equal(nodeIdOf({ role: 'node', ...PARTS }), 'edge/n1')
})

t.test('the authority', async (t) => {
  const dir = join(t.testdir(), 'deep', 'ca')
  const authority = await Authority.open(dir)

  await t.test('is made once, readable by its owner only', async (t) => {
    t.match(authority.mesh, /^hedgerow-[0-9a-f]{8}$/)
    t.equal((await stat(dir)).mode & 0o777, 0o700)
    for (const file of await readdir(dir)) t.equal((await stat(join(dir, file))).mode & 0o777, 0o600, file)
    t.same(await readdir(dir), ['authority.pem'], 'no drafts are left')
    const again = await Authority.open(dir)
    t.equal(again.ca, authority.ca)
    t.equal(again.fingerprint, authority.fingerprint)
    t.equal(meshOf(authority.ca), authority.mesh)
    t.equal(fingerprintOf(authority.ca), authority.fingerprint)
  })

  await t.test('is the same for all who start it at once', async (t) => {
    const place = join(t.testdir(), 'ca')
    const all = await Promise.all(Array.from({ length: 6 }, () => Authority.open(place)))
    t.equal(new Set(all.map(({ ca }) => ca)).size, 1)
    t.same(await readdir(place), ['authority.pem'])
  })

  await t.test('tells when its state is damaged, and changes nothing', async (t) => {
    const whole = await readFile(join(dir, 'authority.pem'), 'utf8')
    const [key, certificate] = whole.split(/(?<=-----END PRIVATE KEY-----)/)
    const other = await Authority.open(join(t.testdir(), 'other'))
    const damaged: Record<string, string> = {
      empty: '',
      'cut short': whole.slice(0, 300),
      'no key': certificate ?? '',
      'no certificate': key ?? '',
      "another key's certificate": `${key}\n${other.ca}`,
      'two certificates': `${whole}\n${other.ca}`,
      noise: '\u0000\u0001'.repeat(400),
    }
    for (const [why, text] of Object.entries(damaged)) {
      const place = t.testdir({ ca: { 'authority.pem': text } })
      await t.rejects(Authority.open(join(place, 'ca')), { code: 'STATE_CORRUPT' }, why)
      t.equal(await readFile(join(place, 'ca', 'authority.pem'), 'utf8'), text, `${why}: untouched`)
    }
  })

  await t.test('tells when its directory cannot be used', async (t) => {
    const place = t.testdir({ file: 'in the way', ca: { 'authority.pem': {} } })
    await t.rejects(Authority.open(join(place, 'file')), { code: 'STATE_UNREADABLE' }, 'a file')
    await t.rejects(Authority.open(join(place, 'file', 'below')), { code: 'STATE_UNREADABLE' }, 'below a file')
    await t.rejects(Authority.open(join(place, 'ca')), { code: 'STATE_UNREADABLE' }, 'a directory in place of the file')
    if (process.getuid?.() !== 0) {
      await mkdir(join(place, 'closed'))
      await chmod(join(place, 'closed'), 0o500)
      await t.rejects(Authority.open(join(place, 'closed', 'ca')), { code: 'STATE_UNREADABLE' }, 'read-only')
    }
  })

  await t.test('issues what it says', async (t) => {
    const rows: ReadonlyArray<{ principal: Principal; ca: boolean; hours: number }> = [
      { principal: { role: 'root', mesh: authority.mesh }, ca: false, hours: 24 },
      { principal: { role: 'cluster', mesh: authority.mesh, cluster: 'edge' }, ca: true, hours: 30 * 24 },
    ]
    for (const { principal, ca, hours } of rows) {
      const { csrPem } = await createRequest(principal)
      const certificate = new X509Certificate(await authority.issue(csrPem, principal))
      t.equal(certificate.subjectAltName, `URI:${printPrincipal(principal)}`)
      t.equal(certificate.ca, ca)
      t.ok(certificate.verify(new X509Certificate(authority.ca).publicKey))
      const fromNow = (certificate.validToDate.getTime() - Date.now()) / HOUR_MS
      t.ok(Math.abs(fromNow - hours) < 0.1, `${hours} hours`)
      const since = (Date.now() - certificate.validFromDate.getTime()) / HOUR_MS
      t.ok(Math.abs(since - 1) < 0.1, 'good for clocks an hour behind')
    }
  })

  await t.test('decides the name itself: what the request says is nothing', async (t) => {
    const edge: Principal = { role: 'cluster', mesh: authority.mesh, cluster: 'edge' }
    const { csrPem } = await createRequest({ role: 'root', mesh: authority.mesh })
    const certificate = new X509Certificate(await authority.issue(csrPem, edge))
    t.equal(certificate.subjectAltName, `URI:${printPrincipal(edge)}`)
    t.match(certificate.subject, /CN=edge$/)
  })

  await t.test('refuses', async (t) => {
    const edge: Principal = { role: 'cluster', mesh: authority.mesh, cluster: 'edge' }
    const { csrPem } = await createRequest(edge)
    const [head = '', body = '', tail = ''] = csrPem.split(/(?<=REQUEST-----\n)|(?=\n-----END)/)
    const der = Buffer.from(body, 'base64')
    der[der.length - 3] = (der.at(-3) ?? 0) ^ 1
    const rows: ReadonlyArray<{ why: string; csr?: string; principal?: Principal }> = [
      { why: 'a node: its cluster issues that', principal: { ...edge, role: 'node', node: 'n1' } },
      { why: 'another mesh', principal: { ...edge, mesh: 'hedgerow-00000000' } },
      { why: 'a name that is none', principal: { ...edge, cluster: 'a/node/b' } },
      { why: 'a signature that does not fit', csr: `${head}${der.toString('base64')}${tail}` },
      { why: 'no request', csr: 'hello' },
      { why: 'a certificate', csr: authority.ca },
      { why: 'too much', csr: csrPem + ' '.repeat(9_000) },
      { why: 'another kind of key', csr: await requestOnP384() },
    ]
    for (const { why, csr = csrPem, principal = edge } of rows)
      await t.rejects(authority.issue(csr, principal), { code: 'CERTIFICATE_REFUSED' }, why)
  })
})

t.test('a cluster issues to its nodes', async (t) => {
  await using mesh = await TestMesh.create()
  const edge = await mesh.cluster('edge')
  const principal = { role: 'node', mesh: mesh.mesh, cluster: 'edge', node: 'n1' } as const
  const { keyPem, csrPem } = await createRequest(principal)
  const chain = await issueNode(edge, csrPem, 'n1')
  t.equal(chain.match(/BEGIN CERTIFICATE/g)?.length, 2, 'leaf and intermediate')
  t.same(HeldIdentity.inMemory({ keyPem, chain, ca: mesh.ca }).principal, principal)

  const nearEnd = { ...systemClock, wall: () => edge.notAfter.getTime() - HOUR_MS }
  const late = new X509Certificate(await issueNode(edge, csrPem, 'n1', { clock: nearEnd }))
  t.same(late.validToDate, edge.notAfter, 'never past its own end')
  const tooLate = { ...systemClock, wall: () => edge.notAfter.getTime() + 1 }
  await t.rejects(issueNode(edge, csrPem, 'n1', { clock: tooLate }), { code: 'CERTIFICATE_REFUSED' })
  for (const name of ['', 'N1', 'a.b', 'a/b', '../x', '-', 'a'.repeat(64)])
    await t.rejects(issueNode(edge, csrPem, name), { code: 'CERTIFICATE_REFUSED' }, JSON.stringify(name))
  await t.rejects(issueNode(edge, 'x', 'n1'), { code: 'CERTIFICATE_REFUSED' })
  await t.rejects(issueNode(await mesh.node(edge, 'n1'), csrPem, 'n1'), /only a cluster/)
})

t.test('join tokens', async (t) => {
  const clock: Clock = { ...systemClock, wall: () => 1_000_000 }
  const options = {
    role: 'node',
    url: 'https://127.0.0.1:7000',
    fingerprint: 'ab'.repeat(32),
    ttlSeconds: 60,
    clock,
  } as const
  const { token, id, hash, expiresAt } = mintToken(options)
  const parsed = parseToken(`  ${token}\n`)
  t.match(parsed, { role: 'node', url: options.url, fingerprint: options.fingerprint, id })
  t.equal(expiresAt, 1_060_000)
  t.equal(hash, hashSecret(parsed.secret))
  t.notMatch(token, hash)
  t.ok(matchesToken(hash, parsed.secret))
  t.notOk(matchesToken(hash, `${parsed.secret}x`))
  t.notOk(matchesToken('', parsed.secret))
  t.not(mintToken(options).token, token)

  const written = (content: unknown) => `hedgerow-join.${Buffer.from(JSON.stringify(content)).toString('base64url')}`
  const rows: ReadonlyArray<{ why: string; text: string; reason: RegExp }> = [
    { why: 'nothing', text: '', reason: /starts with/ },
    { why: 'a word', text: 'hello', reason: /starts with/ },
    { why: 'cut short', text: token.slice(0, -20), reason: /cut short/ },
    { why: 'a character gone wrong', text: `${token}!`, reason: /character/ },
    { why: 'too long', text: token + 'A'.repeat(3_000), reason: /too long/ },
    { why: 'another role', text: written({ ...parsed, role: 'root' }), reason: /role/ },
    { why: 'no fingerprint', text: written({ ...parsed, fingerprint: undefined }), reason: /fingerprint/ },
    { why: 'a short fingerprint', text: written({ ...parsed, fingerprint: 'ab' }), reason: /fingerprint/ },
    { why: 'more than there should be', text: written({ ...parsed, admin: true }), reason: /more fields/ },
    { why: 'plain http', text: written({ ...parsed, url: 'http://a' }), reason: /url/ },
    { why: 'no address', text: written({ ...parsed, url: 'a' }), reason: /url/ },
    { why: 'an array', text: written([]), reason: /./ },
    { why: 'null', text: written(null), reason: /./ },
  ]
  for (const { why, text, reason } of rows) {
    const error = thrown(() => parseToken(text))
    t.ok(isMeshError(error, 'TOKEN_INVALID'), why)
    t.match(explain(error), reason, why)
    t.notMatch(explain(error), parsed.secret, `${why}: the secret is not repeated`)
  }
  fc.assert(
    fc.property(
      fc.oneof(
        fc.string(),
        fc.json().map((text) => written(text)),
        fc.base64String().map((s) => `hedgerow-join.${s}`),
      ),
      (text) => {
        const error = thrown(() => parseToken(text))
        t.ok(isMeshError(error, 'TOKEN_INVALID'))
      },
    ),
    { numRuns: 100 },
  )
})

t.test('a held identity', async (t) => {
  await using mesh = await TestMesh.create()
  const edge = await mesh.cluster('edge')
  const n1 = await mesh.node(edge, 'n1')
  const n2 = await mesh.node(edge, 'n2')

  await t.test('is saved and opened', async (t) => {
    const dir = join(t.testdir(), 'identity')
    t.equal(await HeldIdentity.open(dir), undefined)
    await HeldIdentity.save(dir, { keyPem: n1.key, chain: n1.chain, ca: n1.ca })
    const opened = await HeldIdentity.open(dir)
    t.same(opened?.principal, n1.principal)
    t.equal(opened?.key.trim(), n1.key.trim())
    t.same(opened?.notAfter, n1.notAfter)
    t.notOk(opened?.isExpired)
    t.equal((await stat(dir)).mode & 0o777, 0o700)
    for (const file of await readdir(dir)) t.equal((await stat(join(dir, file))).mode & 0o777, 0o600, file)
    const later = await HeldIdentity.open(dir, { ...systemClock, wall: () => n1.notAfter.getTime() })
    t.ok(later?.isExpired)
  })

  await t.test('says when it is damaged', async (t) => {
    const saved = `${n1.key}\n${n1.chain}`
    const rows: Record<string, Record<string, string>> = {
      'no authority': { 'identity.pem': saved },
      empty: { 'identity.pem': '', 'ca.pem': n1.ca },
      'no key': { 'identity.pem': n1.chain, 'ca.pem': n1.ca },
      'no certificate': { 'identity.pem': n1.key, 'ca.pem': n1.ca },
      "another's key": { 'identity.pem': `${n2.key}\n${n1.chain}`, 'ca.pem': n1.ca },
      'another authority': { 'identity.pem': saved, 'ca.pem': edge.chain },
      'no intermediate': { 'identity.pem': `${n1.key}\n${new X509Certificate(n1.chain).toString()}`, 'ca.pem': n1.ca },
    }
    for (const [why, files] of Object.entries(rows))
      await t.rejects(HeldIdentity.open(t.testdir(files)), { code: 'STATE_CORRUPT' }, why)
    const place = t.testdir({ file: '' })
    await t.rejects(HeldIdentity.open(join(place, 'file')), { code: 'STATE_UNREADABLE' })
    await t.rejects(HeldIdentity.save(join(place, 'file'), { keyPem: n1.key, chain: n1.chain, ca: n1.ca }), {
      code: 'STATE_UNREADABLE',
    })
  })

  await t.test('renews: a new key, in place, on disk, and whoever cares is told', async (t) => {
    const dir = t.testdir()
    const clock = new SleeplessClock(Date.now())
    const identity = await HeldIdentity.save(dir, { keyPem: n1.key, chain: n1.chain, ca: n1.ca }, clock)
    const stop = new AbortController()
    const asked: number[] = []
    let told = 0
    let untold = 0
    const answers = [
      async () => Promise.reject(new Error('the cluster is down')),
      async () => n2.chain, // another's
      async (csrPem: string) => issueNode(edge, csrPem, 'n3', { clock }), // a good certificate for somebody else
      async (csrPem: string) => issueNode(edge, csrPem, 'n1', { clock }),
      async (csrPem: string) => {
        queueMicrotask(() => stop.abort())
        return issueNode(edge, csrPem, 'n1', { clock })
      },
    ]
    const before = { key: identity.key, context: identity.secureContext() }
    identity.onRenewed(() => {
      told += 1
    })
    identity.onRenewed(() => {
      untold += 1
    })()
    await identity.renewLoop(
      {
        renew: async (csrPem) => {
          t.equal(
            identity.key,
            asked.length < 4 ? before.key : identity.key,
            'the old one serves until the new one is there',
          )
          asked.push(clock.wall())
          return answers[asked.length - 1]?.(csrPem) ?? ''
        },
        random: () => 0.5,
      },
      stop.signal,
    )
    t.equal(asked.length, 5)
    const [first = 0, , , , fifth = 0] = asked
    const due = renewalAt(
      { notBefore: new Date(n1.notAfter.getTime() - 25 * HOUR_MS), notAfter: n1.notAfter },
      () => 0.5,
    )
    t.ok(Math.abs(first - due) < 60_000, 'at two thirds of its life')
    t.ok(fifth - first > 12 * HOUR_MS, 'and again two thirds into the next')
    t.equal(told, 2)
    t.equal(untold, 0)
    t.not(identity.key, before.key)
    t.not(identity.secureContext(), before.context)
    t.equal((await HeldIdentity.open(dir))?.key.trim(), identity.key.trim())
    t.same(identity.principal, n1.principal)
  })

  await t.test('uses a certificate that cannot be saved, and saves it once it can', async (t) => {
    const dir = join(t.testdir(), 'id')
    const identity = await HeldIdentity.save(dir, { keyPem: n1.key, chain: n1.chain, ca: n1.ca })
    const { key } = identity
    await rm(dir, { recursive: true, force: true })
    await writeFile(dir, 'in the way')
    const renewal = identity.renewOnce((csrPem) => issueNode(edge, csrPem, 'n1'), new AbortController().signal)
    await t.rejects(renewal, { code: 'STATE_UNREADABLE' })
    t.not(identity.key, key, 'the new one is in use')
    await t.rejects(identity.save(), { code: 'STATE_UNREADABLE' })
    await rm(dir)
    await identity.save()
    t.equal((await HeldIdentity.open(dir))?.key.trim(), identity.key.trim())
  })
})

t.test('when to renew', async (t) => {
  const life = { notBefore: new Date(0), notAfter: new Date(3_000_000) }
  t.equal(
    renewalAt(life, () => 0.5),
    2_000_000,
  )
  t.equal(
    renewalAt(life, () => 0),
    1_850_000,
  )
  t.equal(
    renewalAt(life, () => 1),
    2_150_000,
  )
})

/** Whoever sleeps wakes at once, and it is later. */
class SleeplessClock implements Clock {
  #now: number

  constructor(now: number) {
    this.#now = now
  }

  now(): number {
    return this.#now
  }

  wall(): number {
    return this.#now
  }

  async sleep(ms: number): Promise<void> {
    this.#now += ms
    await turn()
  }

  after(ms: number, act: () => void): () => void {
    const cancel = new AbortController()
    void this.sleep(ms).then(() => {
      if (!cancel.signal.aborted) act()
    })
    return () => cancel.abort()
  }
}

function thrown(act: () => unknown): unknown {
  try {
    act()
  } catch (error) {
    return error
  }
  return undefined
}
