import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { oidcLogin } from '../../src/cli/oidc-login.ts'
import { RootClient } from '../../src/client/root-client.ts'
import { defaults } from '../../src/config/defaults.ts'
import { resolveConfig } from '../../src/config/resolve.ts'
import { systemClock } from '../../src/core/kit/clock.ts'
import { decideUser, type OidcMapping } from '../../src/orchestrator/root/people/oidc-user.ts'
import { Oidc, secretIn, type OidcOptions } from '../../src/orchestrator/root/people/oidc.ts'
import { People } from '../../src/orchestrator/root/people/people.ts'
import type { User } from '../../src/orchestrator/root/people/records.ts'
import { RootStore } from '../../src/orchestrator/root/root-store.ts'
import { browse, CLIENT, closed, lyingProvider, realProvider, type Spoilt } from './identity-provider.ts'
import { mesh } from './mesh.ts'
import { ask, send } from './v1.ts'

/** Login by an identity provider: a real one, and one that lies. */
t.setTimeout(120_000)

const dir = mkdtempSync(join(tmpdir(), 'hedgerow-oidc-'))
t.teardown(() => rmSync(dir, { recursive: true, force: true }))
const clientSecretFile = join(dir, 'secret')
writeFileSync(clientSecretFile, `${CLIENT.secret}\n`)

const MAPPING: OidcMapping = { userClaim: 'preferred_username', groupsClaim: 'groups', users: 'created', roles: [] }
const ROLES = [
  { group: 'developers', role: 'application-provider', organisation: 'acme' },
  { group: 'everybody', role: 'viewer', organisation: 'acme' },
  { group: 'operators', role: 'administrator' },
] as const
const optionsFor = (issuer: string, mapping: Partial<OidcMapping> = {}): OidcOptions => ({
  ...MAPPING,
  ...mapping,
  issuer,
  clientId: CLIENT.clientId,
  clientSecretFile,
  scopes: ['openid', 'profile', 'email'],
})

t.test('whom somebody is here', (t) => {
  const user = (name: string, more: Partial<User> = {}): User => ({ name, grants: [], createdAt: 1, ...more })
  const ann = { issuer: 'https://id', subject: 'ann-1', claims: { preferred_username: 'Ann', groups: ['everybody'] } }
  const oidc = { issuer: 'https://id', subject: 'ann-1' }
  const password = { salt: '', hash: '', memoryKib: 1, passes: 1, lanes: 1 }
  const viewer = { role: 'viewer', organisation: 'acme' }
  const decide = (mapping: Partial<OidcMapping>, users: User[] = [], given: Partial<typeof ann> = {}) =>
    decideUser({ ...ann, ...given }, { ...MAPPING, ...mapping }, users)
  const rows: [why: string, decided: ReturnType<typeof decide>, expected: object][] = [
    ['created', decide({}), { kind: 'user', isNew: true, user: { name: 'ann', grants: [], oidc } }],
    ['with the roles of its groups', decide({ roles: ROLES }), { user: { organisation: 'acme', grants: [viewer] } }],
    [
      'one group is a text',
      decide({ roles: ROLES }, [], { claims: { ...ann.claims, groups: 'everybody' as never } }),
      { user: { grants: [viewer] } },
    ],
    [
      'no group that has one',
      decide({ roles: ROLES }, [], { claims: { ...ann.claims, groups: ['x'] } }),
      { reason: /no group/ },
    ],
    [
      'no groups at all',
      decide({ roles: ROLES }, [], { claims: { preferred_username: 'ann' } as never }),
      { reason: /no group/ },
    ],
    ['not created where only who is there may', decide({ users: 'matched' }), { reason: /no user ann/ }],
    [
      'who is there, without a password',
      decide({ users: 'matched' }, [user('ann')]),
      { isNew: false, user: { name: 'ann', oidc } },
    ],
    ['not who logs in by password', decide({}, [user('ann', { password })]), { reason: /somebody else/ }],
    [
      'not who is somebody else there',
      decide({}, [user('ann', { oidc: { ...oidc, subject: 'ann-2' } })]),
      { reason: /somebody else/ },
    ],
    [
      'not who is of another provider',
      decide({}, [user('ann', { oidc: { ...oidc, issuer: 'https://x' } })]),
      { reason: /somebody else/ },
    ],
    ['who is known, by another name', decide({}, [user('anna', { oidc })]), { user: { name: 'anna' } }],
    [
      'whose groups are gone loses its roles',
      decide({ roles: ROLES }, [user('ann', { oidc })], { claims: {} as never }),
      { user: { name: 'ann' }, kind: 'refused' },
    ],
    [
      'roles given by hand stay',
      decide({}, [user('ann', { oidc, grants: [viewer as never] })]),
      { user: { grants: [viewer] } },
    ],
    [
      'never the administrator',
      decide({}, [], { claims: { ...ann.claims, preferred_username: 'admin' } }),
      { reason: /no user admin/ },
    ],
    ['a claim that is missing', decide({ userClaim: 'upn' }), { reason: /no claim "upn"/ }],
    [
      'a name that is none',
      decide({}, [], { claims: { ...ann.claims, preferred_username: '…' } }),
      { reason: /cannot be a name/ },
    ],
    [
      'an address as a name',
      decide({}, [], { claims: { ...ann.claims, preferred_username: 'Ann.Lee@example.com' } }),
      { user: { name: 'ann-lee-example-com' } },
    ],
    [
      'an address that nobody verified',
      decide({ userClaim: 'email' }, [], { claims: { email: 'a@b' } as never }),
      { reason: /verified/ },
    ],
  ]
  for (const [why, decided, expected] of rows) t.match(decided, expected, why)
  t.end()
})

/** A root's part of it alone, with a store. */
function part(issuer: string, mapping: Partial<OidcMapping> = {}, now = { ms: 0 }) {
  const store = RootStore.open(mkdtempSync(join(dir, 'root-')))
  const clock = { ...systemClock, now: () => now.ms, wall: () => Date.now() }
  const people = new People(store, clock)
  const oidc = new Oidc(optionsFor(issuer, mapping), { people, store, clock })
  return { oidc, people, store, [Symbol.dispose]: () => store[Symbol.dispose]() }
}

t.test('what a provider tells counts where all of it is right', async (t) => {
  await using provider = await lyingProvider()
  const { told, issuer } = provider
  const now = { ms: 0 }
  using here = part(issuer, {}, now)
  const begin = async () => {
    now.ms += 60_000 // there is a limit to how often
    const { login, url } = await here.oidc.begin({ redirect: 'http://127.0.0.1:1/callback', from: 'here' })
    const { searchParams } = new URL(url)
    told.nonce = searchParams.get('nonce') ?? ''
    t.match(Object.fromEntries(searchParams), {
      code_challenge_method: 'S256',
      response_type: 'code',
      client_id: 'hedgerow',
    })
    return { login, answer: `code=x&state=${searchParams.get('state')}` }
  }
  const rows: [why: string, next: Spoilt, code: string, reason: RegExp][] = [
    ['of another issuer', { claims: { iss: 'https://evil.example' } }, 'OIDC_REFUSED', /"iss"/],
    ['for another client', { claims: { aud: 'another' } }, 'OIDC_REFUSED', /"aud"/],
    ['expired', { claims: { exp: 1_000_000 } }, 'OIDC_REFUSED', /"exp"/],
    ['not of this login', { claims: { nonce: 'another' } }, 'OIDC_REFUSED', /nonce/],
    ['without a nonce', { claims: { nonce: undefined } }, 'OIDC_REFUSED', /nonce/],
    ['of nobody', { claims: { sub: undefined } }, 'OIDC_REFUSED', /"sub"/],
    ['signed by somebody else', { isForged: true }, 'OIDC_REFUSED', /signature/],
    ['not signed', { header: { alg: 'none' } }, 'OIDC_REFUSED', /alg/],
    ['by a key that it does not have', { header: { kid: 'two' } }, 'OIDC_REFUSED', /key/],
    ['no ID token', { body: { access_token: 'a', token_type: 'Bearer' } }, 'OIDC_REFUSED', /id_token/],
    [
      'a code that it does not know',
      { status: 400, body: { error: 'invalid_grant' } },
      'OIDC_REFUSED',
      /invalid_grant/,
    ],
    [
      'a secret that it does not know',
      { status: 401, body: { error: 'invalid_client' } },
      'PROVIDER_FAILED',
      /invalid_client/,
    ],
    ['garbage', { body: '<html>' }, 'PROVIDER_FAILED', /./],
    ['an error of its own', { status: 500, body: 'oops' }, 'PROVIDER_FAILED', /./],
  ]
  for (const [why, next, code, reason] of rows) {
    const begun = await begin()
    told.next = next
    await t.rejects(here.oidc.finish(begun), { code, details: { issuer, reason } }, why)
  }
  t.same(here.store.users.keys(), [], 'none of these is a user')

  told.next = {}
  const begun = await begin()
  await t.rejects(here.oidc.finish({ ...begun, login: 'guessed' }), { code: 'OIDC_REFUSED' }, 'who has not begun it')
  t.match(await here.oidc.finish(begun), { name: 'ann', oidc: { issuer, subject: 'ann-1' } })
  await t.rejects(here.oidc.finish(begun), { code: 'OIDC_REFUSED' }, 'a second time')
  const [one, other] = [await begin(), await begin()]
  await t.rejects(here.oidc.finish({ ...one, answer: other.answer }), { code: 'OIDC_REFUSED' }, 'the state of another')
  await t.rejects(here.oidc.finish(one), { code: 'OIDC_REFUSED' }, 'a try ends it')
  const denied = await begin()
  const answer = denied.answer.replace('code=x', 'error=access_denied')
  await t.rejects(here.oidc.finish({ ...denied, answer }), {
    code: 'OIDC_REFUSED',
    details: { reason: /access_denied/ },
  })
  const late = await begin()
  now.ms += 11 * 60_000
  await t.rejects(here.oidc.finish(late), { code: 'OIDC_REFUSED', details: { reason: /took too long/ } })

  for (let i = 0; i < 30; i++) await here.oidc.begin({ redirect: 'http://127.0.0.1:1/callback', from: 'there' })
  await t.rejects(here.oidc.begin({ redirect: 'http://127.0.0.1:1/callback', from: 'there' }), { code: 'RATE_LIMITED' })
  await here.oidc.begin({ redirect: 'http://127.0.0.1:1/callback', from: 'elsewhere' })
})

t.test('a provider that is down, or another than it says, is asked again the next time', async (t) => {
  const provider = await lyingProvider()
  const { told, issuer } = provider
  using here = part(issuer)
  const begin = () => here.oidc.begin({ redirect: 'http://127.0.0.1:1/callback', from: 'here' })
  told.next = { metadata: { issuer: 'https://evil.example' } }
  await t.rejects(begin(), { code: 'PROVIDER_FAILED', details: { issuer } })
  told.next = {}
  const before = told.asked
  await Promise.all([begin(), begin(), begin()])
  t.equal(told.asked, before + 1, 'together they ask once')
  await closed(provider.server)
  using there = part(issuer)
  await t.rejects(there.oidc.begin({ redirect: 'http://127.0.0.1:1/callback', from: 'here' }), {
    code: 'PROVIDER_FAILED',
    details: { issuer, reason: /fetch failed: ./ },
  })
})

t.test('an organisation that is not there is told, and makes no user', async (t) => {
  await using provider = await lyingProvider()
  using here = part(provider.issuer, { organisation: 'none' })
  const { login, url } = await here.oidc.begin({ redirect: 'http://127.0.0.1:1/callback', from: 'here' })
  const { searchParams } = new URL(url)
  provider.told.nonce = searchParams.get('nonce') ?? ''
  const finished = here.oidc.finish({ login, answer: `code=x&state=${searchParams.get('state')}` })
  await t.rejects(finished, { code: 'OIDC_REFUSED', details: { reason: /organisation none/ } })
  t.same(here.store.users.keys(), [])
})

t.test('somebody logs in by a real provider, with the CLI and with a browser', async (t) => {
  const ann = { sub: 'ann-1', claims: { preferred_username: 'ann', groups: ['developers', 'others'] } as object }
  await using provider = await realProvider(ann)
  const host = new URL(provider.issuer).host
  const oidc = optionsFor(provider.issuer, { roles: ROLES })
  await using world = await mesh({ clusters: [], root: { oidc } })
  t.equal((await ask(world, '/v1/organisations', { method: 'POST', body: { name: 'acme' } })).status, 200)
  const client = new RootClient({ ...world.credential, token: 'none' })
  let visited = Promise.resolve('')
  const withBrowser = () => {
    const show = (url: string) => {
      visited = browse(url, host).then(async (back) => (await fetch(back)).text())
      visited.catch(() => undefined) // where the login is refused, that is told
    }
    return oidcLogin(client, { ttlSeconds: 600, show })
  }
  const session = await withBrowser()
  t.match(await visited, /may be closed/)
  t.match(session, { user: 'ann', token: /^hedgerow-session\./ })
  t.ok(session.expiresAt <= Date.now() + 601_000, 'it ends')
  const me = () => ask(world, '/v1/me', { token: session.token })
  const grants = [{ role: 'application-provider', organisation: 'acme' }]
  t.match((await me()).body, { user: 'ann', by: 'session', grants, isAdministrator: false })

  // the provider knows of another role now, and then of none
  ann.claims = { ...ann.claims, groups: ['everybody'] }
  t.equal((await withBrowser()).user, 'ann')
  t.match((await me()).body, { grants: [{ role: 'viewer', organisation: 'acme' }] }, 'in every session')
  ann.claims = { ...ann.claims, groups: [] }
  await t.rejects(withBrowser(), { code: 'OIDC_REFUSED', details: { reason: /no group/ } })
  t.same((await me()).body.grants, [])
  provider.grants.refusal = { error: 'access_denied', error_description: 'not today' }
  await t.rejects(withBrowser(), { code: 'OIDC_REFUSED', details: { reason: /access_denied: not today/ } })
  provider.grants.refusal = undefined

  // a browser that has begun it, and one that has not
  ann.claims = { ...ann.claims, groups: ['developers'] }
  const open = { headers: { authorization: '' } }
  const sent = await send(world, '/v1/login/oidc', open)
  t.match(sent, {
    status: 302,
    headers: { 'set-cookie': [/^__Host-hedgerow-login=\S+; Path=\/; Max-Age=600; Secure; HttpOnly; SameSite=Lax$/] },
  })
  const other = await send(world, '/v1/login/oidc/callback?code=x&state=y', open)
  t.match(other, { status: 401, body: /this browser has not begun it/ })
  const replayed = { headers: { authorization: '', cookie: '__Host-hedgerow-login=guessed' } }
  t.match(await send(world, '/v1/login/oidc/callback?code=x&state=y', replayed), {
    status: 401,
    body: /not begun here/,
  })
  t.equal((await send(world, '/v1/login/oidc', { method: 'DELETE' })).headers.allow, 'GET, HEAD, POST')

  const { items } = (await ask(world, '/v1/audit')).body
  const logins = items.filter(({ call }: { call: string }) => call === 'loginOidc')
  t.same(
    [...new Set(logins.map(({ user, status }: { user: string; status: number }) => `${user} ${status}`))].toSorted(
      (a, b) => String(a).localeCompare(String(b)),
    ),
    ['ann 200', 'nobody 401'],
  )
  t.notMatch(JSON.stringify(items), /hedgerow-session\.|code=/)
})

t.test('a root without a provider says so', async (t) => {
  await using world = await mesh({ clusters: [] })
  const body = { port: 1 }
  t.match(await ask(world, '/v1/login/oidc', { method: 'POST', body }), { status: 404, body: { code: 'OIDC_OFF' } })
  t.match(await send(world, '/v1/login/oidc', {}), { status: 404, body: /no login by an identity provider/ })
})

t.test('what is wrong in root.oidc is said before anything starts', (t) => {
  const refused = (oidc: object, why: RegExp) =>
    t.throws(() => resolveConfig(defaults('host'), { root: { oidc } } as never), {
      code: 'CONFIG_INVALID',
      details: { faults: [why] },
    })
  const issuer = 'https://id.example'
  refused({ issuer: 'http://id.example' }, /root\.oidc\.issuer: must be off, or the URL/)
  refused({ issuer, scopes: ['profile'] }, /must have openid/)
  refused({ issuer, roles: [{ group: 'a', role: 'viewer' }] }, /say in which/)
  refused({ issuer, roles: [{ group: 'a', role: 'administrator', organisation: 'acme' }] }, /whole mesh/)
  refused({ issuer, roles: [{ group: 'a', role: 'king' }] }, /must be one of/)
  refused({ issuer, user: 'x' }, /unknown key "user"/)
  t.throws(() => secretIn(join(dir, 'none')), { code: 'CONFIG_INVALID', details: { problem: /cannot be read/ } })
  t.end()
})
