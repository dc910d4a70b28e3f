import { X509Certificate } from 'node:crypto'
import { chmod, mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import fc from 'fast-check'
import t, { type Test } from 'tap'
import { explain, isMeshError } from '../../src/core/errors.ts'
import { fingerprintOf, meshOf } from '../../src/core/identity/authorities.ts'
import { Authority } from '../../src/core/identity/authority.ts'
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

t.test('a principal is read from its URI', async (t) => {
  const rows: ReadonlyArray<{ why: string; uri: string; principal: Principal }> = [
    { why: 'the root', uri: 'spiffe://m/root', principal: { role: 'root', mesh: 'm' } },
    { why: 'a cluster', uri: 'spiffe://m/cluster/edge', principal: { role: 'cluster', mesh: 'm', cluster: 'edge' } },
    {
      why: 'a node',
      uri: 'spiffe://m/cluster/edge/node/n-1',
      principal: { role: 'node', mesh: 'm', cluster: 'edge', node: 'n-1' },
    },
    {
      why: 'a relay',
      uri: 'spiffe://m/cluster/edge/relay/r1',
      principal: { role: 'relay', mesh: 'm', cluster: 'edge', relay: 'r1' },
    },
    {
      why: 'a node called root in a cluster called root, which is not the root',
      uri: 'spiffe://m/cluster/root/node/root',
      principal: { role: 'node', mesh: 'm', cluster: 'root', node: 'root' },
    },
    {
      why: 'a name of 63 letters',
      uri: `spiffe://m/cluster/${'a'.repeat(63)}`,
      principal: { role: 'cluster', mesh: 'm', cluster: 'a'.repeat(63) },
    },
  ]
  for (const { why, uri, principal } of rows) t.same(parsePrincipal(uri), principal, `${why}: ${uri}`)
  t.equal(nodeIdOf({ role: 'node', ...PARTS }), 'edge/n1', 'the id of a node is its cluster and its name')
})

t.test('a text that is not exactly a principal is none', async (t) => {
  const rows: ReadonlyArray<{ why: string; uri: string }> = [
    { why: 'a relay without its name', uri: 'spiffe://m/cluster/edge/relay' },
    { why: 'a role that does not exist', uri: 'spiffe://m/cluster/edge/relays/r1' },
    { why: 'a mesh without a role', uri: 'spiffe://m' },
    { why: 'a mesh with an empty role', uri: 'spiffe://m/' },
    { why: 'no mesh', uri: 'spiffe:///root' },
    { why: 'another scheme', uri: 'https://m/root' },
    { why: 'the scheme in capitals', uri: 'SPIFFE://m/root' },
    { why: 'a slash at the end', uri: 'spiffe://m/root/' },
    { why: 'a query', uri: 'spiffe://m/root?x' },
    { why: 'a line break', uri: 'spiffe://m/root\n' },
    { why: 'two names in one text', uri: 'spiffe://m/root, URI:spiffe://m/cluster/a' },
    { why: 'a cluster without its name', uri: 'spiffe://m/cluster/' },
    { why: 'a node without its name', uri: 'spiffe://m/cluster/a/node' },
    { why: 'a node with an empty name', uri: 'spiffe://m/cluster/a/node/' },
    { why: 'something below a node', uri: 'spiffe://m/cluster/a/node/b/c' },
    { why: 'a path that goes up', uri: 'spiffe://m/cluster/a/../node/b' },
    { why: 'an escaped slash', uri: 'spiffe://m/cluster/a%2Fb' },
    { why: 'a capital in a name', uri: 'spiffe://m/cluster/Edge' },
    { why: 'a name that begins with a hyphen', uri: 'spiffe://m/cluster/-a' },
    { why: 'a name of 64 letters', uri: `spiffe://m/cluster/${'a'.repeat(64)}` },
    { why: 'a port', uri: 'spiffe://m:1/root' },
    { why: 'a user', uri: 'spiffe://u@m/root' },
  ]
  for (const { why, uri } of rows) t.same(parsePrincipal(uri), undefined, `${why}: ${JSON.stringify(uri)}`)
})

t.test('every principal that is printed is read again', async (t) => {
  const names = fc.stringMatching(/^[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?$/)
  fc.assert(
    fc.property(names, names, names, (mesh, cluster, node) => {
      const all: Principal[] = [
        { role: 'root', mesh },
        { role: 'cluster', mesh, cluster },
        { role: 'node', mesh, cluster, node },
        { role: 'relay', mesh, cluster, relay: node },
      ]
      for (const principal of all)
        t.strictSame(parsePrincipal(printPrincipal(principal)), principal, printPrincipal(principal))
      t.ok(isPrincipalName(node), `${node} can be a name`)
    }),
    { numRuns: 30 },
  )
})

t.test('the authority is made once, readable by its owner only', async (t) => {
  const dir = join(t.testdir(), 'deep', 'ca')
  const authority = await Authority.open(dir)
  t.match(authority.mesh, /^hedgerow-[0-9a-f]{8}$/, 'the mesh has a name')
  t.equal((await stat(dir)).mode & 0o777, 0o700, 'only the owner may enter the directory')
  for (const file of await readdir(dir))
    t.equal((await stat(join(dir, file))).mode & 0o777, 0o600, `only the owner may read ${file}`)
  t.same(await readdir(dir), ['authority.pem'], 'no drafts are left')
  const again = await Authority.open(dir)
  t.equal(again.ca, authority.ca, 'opened again, it has the same certificate')
  t.equal(again.fingerprint, authority.fingerprint, 'and the same fingerprint')
  t.equal(meshOf(authority.ca), authority.mesh, 'the certificate names the mesh')
  t.equal(fingerprintOf(authority.ca), authority.fingerprint, 'the fingerprint is that of the certificate')
})

t.test('the authority is the same for all who start it at once', async (t) => {
  const place = join(t.testdir(), 'ca')
  const all = await Promise.all(Array.from({ length: 6 }, () => Authority.open(place)))
  t.equal(new Set(all.map(({ ca }) => ca)).size, 1, 'six that start at once have one certificate')
  t.same(await readdir(place), ['authority.pem'], 'and leave one file')
})

t.test('the authority tells when its state is damaged, and changes nothing', async (t) => {
  const dir = join(t.testdir(), 'ca')
  await Authority.open(dir)
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
    await t.rejects(Authority.open(join(place, 'ca')), { code: 'STATE_CORRUPT' }, `${why}: called damaged`)
    t.equal(await readFile(join(place, 'ca', 'authority.pem'), 'utf8'), text, `${why}: left as it is`)
  }
})

t.test('the authority tells when its directory cannot be used', async (t) => {
  const place = t.testdir({ file: 'in the way', ca: { 'authority.pem': {} } })
  await t.rejects(Authority.open(join(place, 'file')), { code: 'STATE_UNREADABLE' }, 'the directory is a file')
  await t.rejects(
    Authority.open(join(place, 'file', 'below')),
    { code: 'STATE_UNREADABLE' },
    'the directory is below a file',
  )
  await t.rejects(Authority.open(join(place, 'ca')), { code: 'STATE_UNREADABLE' }, 'the file is a directory')
  if (process.getuid?.() !== 0) {
    await mkdir(join(place, 'closed'))
    await chmod(join(place, 'closed'), 0o500)
    await t.rejects(
      Authority.open(join(place, 'closed', 'ca')),
      { code: 'STATE_UNREADABLE' },
      'the directory cannot be written',
    )
  }
})

t.test('the authority issues what it says', async (t) => {
  const authority = await Authority.open(join(t.testdir(), 'ca'))
  const rows: ReadonlyArray<{ principal: Principal; ca: boolean; hours: number }> = [
    { principal: { role: 'root', mesh: authority.mesh }, ca: false, hours: 24 },
    { principal: { role: 'cluster', mesh: authority.mesh, cluster: 'edge' }, ca: true, hours: 30 * 24 },
  ]
  for (const { principal, ca, hours } of rows) {
    const { csrPem } = await createRequest(principal)
    const certificate = new X509Certificate(await authority.issue(csrPem, principal))
    const { role } = principal
    t.equal(certificate.subjectAltName, `URI:${printPrincipal(principal)}`, `${role}: the certificate has its name`)
    t.equal(certificate.ca, ca, `${role}: it may ${ca ? '' : 'not '}issue others`)
    t.ok(certificate.verify(new X509Certificate(authority.ca).publicKey), `${role}: the authority signed it`)
    const fromNow = (certificate.validToDate.getTime() - Date.now()) / HOUR_MS
    t.ok(Math.abs(fromNow - hours) < 0.1, `${role}: it is good for ${hours} hours`)
    const since = (Date.now() - certificate.validFromDate.getTime()) / HOUR_MS
    t.ok(Math.abs(since - 1) < 0.1, `${role}: it is good for clocks an hour behind`)
  }
})

t.test('the authority decides the name itself: what the request says is nothing', async (t) => {
  const authority = await Authority.open(join(t.testdir(), 'ca'))
  const edge: Principal = { role: 'cluster', mesh: authority.mesh, cluster: 'edge' }
  const { csrPem } = await createRequest({ role: 'root', mesh: authority.mesh })
  const certificate = new X509Certificate(await authority.issue(csrPem, edge))
  t.equal(certificate.subjectAltName, `URI:${printPrincipal(edge)}`, 'the name is the one decided')
  t.match(certificate.subject, /CN=edge$/, 'in the subject too')
})

t.test('the authority refuses a certificate that it should not issue', async (t) => {
  const authority = await Authority.open(join(t.testdir(), 'ca'))
  const edge: Principal = { role: 'cluster', mesh: authority.mesh, cluster: 'edge' }
  const { csrPem } = await createRequest(edge)
  const [head = '', body = '', tail = ''] = csrPem.split(/(?<=REQUEST-----\n)|(?=\n-----END)/)
  const der = Buffer.from(body, 'base64')
  der[der.length - 3] = (der.at(-3) ?? 0) ^ 1
  const rows: ReadonlyArray<{ why: string; csr?: string; principal?: Principal }> = [
    { why: 'a node: its cluster issues that', principal: { ...edge, role: 'node', node: 'n1' } },
    { why: 'a cluster of another mesh', principal: { ...edge, mesh: 'hedgerow-00000000' } },
    { why: 'a text that cannot be a name', principal: { ...edge, cluster: 'a/node/b' } },
    { why: 'a request whose signature does not fit', csr: `${head}${der.toString('base64')}${tail}` },
    { why: 'a text that is no request', csr: 'hello' },
    { why: 'a certificate where a request belongs', csr: authority.ca },
    { why: 'a request that is too long', csr: csrPem + ' '.repeat(9_000) },
    { why: 'a request with another kind of key', csr: await requestOnP384() },
  ]
  for (const { why, csr = csrPem, principal = edge } of rows)
    await t.rejects(authority.issue(csr, principal), { code: 'CERTIFICATE_REFUSED' }, why)
})

t.test('a cluster issues to its nodes', async (t) => {
  await using mesh = await TestMesh.create()
  const edge = await mesh.cluster('edge')
  const principal = { role: 'node', mesh: mesh.mesh, cluster: 'edge', node: 'n1' } as const
  const { keyPem, csrPem } = await createRequest(principal)
  const chain = await issueNode(edge, csrPem, 'n1')
  t.equal(
    chain.match(/BEGIN CERTIFICATE/g)?.length,
    2,
    'the chain is the certificate of the node and that of its cluster',
  )
  t.same(
    HeldIdentity.inMemory({ keyPem, chain, ca: mesh.ca }).principal,
    principal,
    'the node can hold it under its name',
  )

  const nearEnd = { ...systemClock, wall: () => edge.notAfter.getTime() - HOUR_MS }
  const late = new X509Certificate(await issueNode(edge, csrPem, 'n1', { clock: nearEnd }))
  t.same(late.validToDate, edge.notAfter, 'it is never good for longer than the certificate of the cluster')
  const tooLate = { ...systemClock, wall: () => edge.notAfter.getTime() + 1 }
  await t.rejects(
    issueNode(edge, csrPem, 'n1', { clock: tooLate }),
    { code: 'CERTIFICATE_REFUSED' },
    'a cluster whose own has expired issues none',
  )
  for (const name of ['', 'N1', 'a.b', 'a/b', '../x', '-', 'a'.repeat(64)])
    await t.rejects(
      issueNode(edge, csrPem, name),
      { code: 'CERTIFICATE_REFUSED' },
      `${JSON.stringify(name)} cannot be the name of a node`,
    )
  await t.rejects(issueNode(edge, 'x', 'n1'), { code: 'CERTIFICATE_REFUSED' }, 'what is no request gets no certificate')
  await t.rejects(issueNode(await mesh.node(edge, 'n1'), csrPem, 'n1'), /only a cluster/, 'a node issues none')
})

const TOKEN = {
  role: 'node',
  url: 'https://127.0.0.1:7000',
  fingerprint: 'ab'.repeat(32),
  ttlSeconds: 60,
  clock: { ...systemClock, wall: () => 1_000_000 },
} as const

t.test('a join token says where to join, and holds a secret that only its hash is kept of', async (t) => {
  const { token, id, hash, expiresAt } = mintToken(TOKEN)
  const parsed = parseToken(`  ${token}\n`)
  t.match(
    parsed,
    { role: 'node', url: TOKEN.url, fingerprint: TOKEN.fingerprint, id },
    'it is read, spaces around it or not',
  )
  t.equal(expiresAt, 1_060_000, 'it expires after its 60 seconds')
  t.equal(hash, hashSecret(parsed.secret), 'what is kept is the hash of its secret')
  t.notMatch(token, hash, 'the token does not hold the hash')
  t.ok(matchesToken(hash, parsed.secret), 'the secret matches its hash')
  t.notOk(matchesToken(hash, `${parsed.secret}x`), 'another secret does not')
  t.notOk(matchesToken('', parsed.secret), 'no hash matches no secret')
  t.not(mintToken(TOKEN).token, token, 'no two tokens are the same')
})

const written = (content: unknown) => `hedgerow-join.${Buffer.from(JSON.stringify(content)).toString('base64url')}`

t.test('a join token that is not whole is refused with the reason, without its secret', async (t) => {
  const { token } = mintToken(TOKEN)
  const parsed = parseToken(token)
  const rows: ReadonlyArray<{ why: string; text: string; reason: RegExp }> = [
    { why: 'an empty text', text: '', reason: /starts with/ },
    { why: 'another text', text: 'hello', reason: /starts with/ },
    { why: 'a token that is cut short', text: token.slice(0, -20), reason: /cut short/ },
    { why: 'a token with a character it cannot have', text: `${token}!`, reason: /character/ },
    { why: 'a token that is too long', text: token + 'A'.repeat(3_000), reason: /too long/ },
    { why: 'a role that does not join', text: written({ ...parsed, role: 'root' }), reason: /role/ },
    { why: 'no fingerprint', text: written({ ...parsed, fingerprint: undefined }), reason: /fingerprint/ },
    { why: 'a short fingerprint', text: written({ ...parsed, fingerprint: 'ab' }), reason: /fingerprint/ },
    { why: 'a field that does not belong there', text: written({ ...parsed, admin: true }), reason: /more fields/ },
    { why: 'an address of plain http', text: written({ ...parsed, url: 'http://a' }), reason: /url/ },
    { why: 'an address that is none', text: written({ ...parsed, url: 'a' }), reason: /url/ },
    { why: 'a list in place of the fields', text: written([]), reason: /./ },
    { why: 'null in place of the fields', text: written(null), reason: /./ },
  ]
  for (const { why, text, reason } of rows) {
    const error = thrown(() => parseToken(text))
    t.ok(isMeshError(error, 'TOKEN_INVALID'), `${why}: refused`)
    t.match(explain(error), reason, `${why}: with the reason`)
    t.notMatch(explain(error), parsed.secret, `${why}: the secret is not repeated`)
  }
})

t.test('no text makes the reader of tokens fail in another way', async (t) => {
  fc.assert(
    fc.property(
      fc.oneof(
        fc.string(),
        fc.json().map((text) => written(text)),
        fc.base64String().map((s) => `hedgerow-join.${s}`),
      ),
      (text) => {
        const error = thrown(() => parseToken(text))
        t.ok(isMeshError(error, 'TOKEN_INVALID'), 'a text that is no token is refused as such')
      },
    ),
    { numRuns: 100 },
  )
})

/** Two nodes of one cluster with their certificates. */
async function held() {
  const mesh = await TestMesh.create()
  const edge = await mesh.cluster('edge')
  const [n1, n2] = [await mesh.node(edge, 'n1'), await mesh.node(edge, 'n2')]
  return { edge, n1, n2, [Symbol.asyncDispose]: () => mesh[Symbol.asyncDispose]() }
}
type Held = Awaited<ReturnType<typeof held>>

t.test('a held identity is saved and opened', async (t) => {
  await using world = await held()
  const { n1 } = world
  const dir = join(t.testdir(), 'identity')
  t.equal(await HeldIdentity.open(dir), undefined, 'before it is saved there is none')
  await HeldIdentity.save(dir, { keyPem: n1.key, chain: n1.chain, ca: n1.ca })
  const opened = await HeldIdentity.open(dir)
  t.same(opened?.principal, n1.principal, 'opened again, it has the same name')
  t.equal(opened?.key.trim(), n1.key.trim(), 'the same key')
  t.same(opened?.notAfter, n1.notAfter, 'and the same end')
  t.notOk(opened?.isExpired, 'it has not expired')
  t.equal((await stat(dir)).mode & 0o777, 0o700, 'only the owner may enter the directory')
  for (const file of await readdir(dir))
    t.equal((await stat(join(dir, file))).mode & 0o777, 0o600, `only the owner may read ${file}`)
  const later = await HeldIdentity.open(dir, { ...systemClock, wall: () => n1.notAfter.getTime() })
  t.ok(later?.isExpired, 'at its end it has expired')
})

t.test('a held identity says when it is damaged', async (t) => {
  await using world = await held()
  const { edge, n1, n2 } = world
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
    await t.rejects(HeldIdentity.open(t.testdir(files)), { code: 'STATE_CORRUPT' }, `${why}: called damaged`)
  const place = t.testdir({ file: '' })
  const file = join(place, 'file')
  await t.rejects(HeldIdentity.open(file), { code: 'STATE_UNREADABLE' }, 'a file in place of the directory')
  const saving = HeldIdentity.save(file, { keyPem: n1.key, chain: n1.chain, ca: n1.ca })
  await t.rejects(saving, { code: 'STATE_UNREADABLE' }, 'nothing can be saved there either')
})

/** Four answers to requests of n1 for a new certificate: none, two that are not for it, one that is; then once more. */
function answersOf({ edge, n2 }: Held, clock: Clock, stop: AbortController) {
  return [
    async () => Promise.reject(new Error('the cluster is down')),
    async () => n2.chain, // another's
    async (csrPem: string) => issueNode(edge, csrPem, 'n3', { clock }), // a good certificate for somebody else
    async (csrPem: string) => issueNode(edge, csrPem, 'n1', { clock }),
    async (csrPem: string) => {
      queueMicrotask(() => stop.abort())
      return issueNode(edge, csrPem, 'n1', { clock })
    },
  ]
}

/** Lets the identity of n1 renew itself twice; what it had before, when it asked, and who was told. */
async function renewedTwice(t: Test, world: Held, dir: string) {
  const { n1 } = world
  const clock = new SleeplessClock(Date.now())
  const identity = await HeldIdentity.save(dir, { keyPem: n1.key, chain: n1.chain, ca: n1.ca }, clock)
  const before = { key: identity.key, context: identity.secureContext() }
  const stop = new AbortController()
  const answers = answersOf(world, clock, stop)
  const asked: number[] = []
  const told = { listener: 0, formerListener: 0 }
  identity.onRenewed(() => {
    told.listener += 1
  })
  identity.onRenewed(() => {
    told.formerListener += 1
  })()
  const renew = async (csrPem: string) => {
    if (asked.length < 4) t.equal(identity.key, before.key, 'the old key serves until the new one is there')
    else t.not(identity.key, before.key, 'the new key serves when the next one is asked for')
    asked.push(clock.wall())
    return answers[asked.length - 1]?.(csrPem) ?? ''
  }
  await identity.renewLoop({ renew, random: () => 0.5 }, stop.signal)
  return { identity, before, asked, told }
}

t.test('a held identity renews: a new key, in place, on disk, and whoever cares is told', async (t) => {
  await using world = await held()
  const { n1 } = world
  const dir = t.testdir()
  const { identity, before, asked, told } = await renewedTwice(t, world, dir)
  t.equal(asked.length, 5, 'it asked until it had its certificate, and once more for the next')
  const [first = 0, , , , fifth = 0] = asked
  const due = renewalAt({ notBefore: new Date(n1.notAfter.getTime() - 25 * HOUR_MS), notAfter: n1.notAfter }, () => 0.5)
  t.ok(Math.abs(first - due) < 60_000, 'it asks at two thirds of its life')
  t.ok(fifth - first > 12 * HOUR_MS, 'and again two thirds into the next')
  t.equal(told.listener, 2, 'who listens is told of both new certificates')
  t.equal(told.formerListener, 0, 'who no longer listens is not')
  t.not(identity.key, before.key, 'the key is new')
  t.not(identity.secureContext(), before.context, 'new connections use it')
  t.equal((await HeldIdentity.open(dir))?.key.trim(), identity.key.trim(), 'it is on disk')
  t.same(identity.principal, n1.principal, 'the name is the same')
})

t.test('a held identity uses a certificate that cannot be saved, and saves it once it can', async (t) => {
  await using world = await held()
  const { edge, n1 } = world
  const dir = join(t.testdir(), 'id')
  const identity = await HeldIdentity.save(dir, { keyPem: n1.key, chain: n1.chain, ca: n1.ca })
  const { key } = identity
  await rm(dir, { recursive: true, force: true })
  await writeFile(dir, 'in the way')
  const renewal = identity.renewOnce((csrPem) => issueNode(edge, csrPem, 'n1'), new AbortController().signal)
  await t.rejects(renewal, { code: 'STATE_UNREADABLE' }, 'that it cannot be saved is told')
  t.not(identity.key, key, 'the new key is in use all the same')
  await t.rejects(identity.save(), { code: 'STATE_UNREADABLE' }, 'it cannot be saved while a file is in the way')
  await rm(dir)
  await identity.save()
  t.equal((await HeldIdentity.open(dir))?.key.trim(), identity.key.trim(), 'afterwards it is saved')
})

t.test('a certificate is renewed at about two thirds of its life, nodes not all at once', async (t) => {
  const life = { notBefore: new Date(0), notAfter: new Date(3_000_000) }
  const at = (chance: number) => renewalAt(life, () => chance)
  t.equal(at(0.5), 2_000_000, 'in the middle at two thirds')
  t.equal(at(0), 1_850_000, 'at the earliest a twentieth of its life before')
  t.equal(at(1), 2_150_000, 'at the latest a twentieth of its life after')
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
