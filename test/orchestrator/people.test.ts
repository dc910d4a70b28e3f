import { request } from 'node:https'
import t from 'tap'
import { MeshError } from '../../src/core/errors.ts'
import { Store } from '../../src/core/kit/store.ts'
import { mesh, type World } from './mesh.ts'
import { documentOf, PASSWORD, twoOperators } from './operators.ts'
import { ask, send } from './v1.ts'
import { until } from '../support/until.ts'

t.test('a cluster takes whom its owner admits, and is told of no other', async (t) => {
  await using all = await twoOperators()
  const { world, admin, tokenOf, nodes } = all
  const placed = async () =>
    Object.fromEntries((await world.instances()).map(({ id, cluster, state }) => [id, [cluster, state]]))
  t.same(await placed(), {
    'shop.acme.cart.prod.0': ['ours', 'running'],
    'shop.beta.cart.prod.0': ['theirs', 'running'],
  })
  // there is room for four on the other one only
  await admin('POST', '/v1/nodes/ours/n/cordon', {})
  await admin('PATCH', '/v1/services/shop.acme.cart.prod', { replicas: 2 })
  await until(async () => (await placed())['shop.acme.cart.prod.1']?.[1] === 'unplaceable', 'no cluster takes it')
  const told = JSON.stringify((await admin('GET', '/v1/instances/shop.acme.cart.prod.1/explain')).body)
  t.match(told, /its owner does not admit the organisation/)
  const viewer = await tokenOf({ role: 'viewer', organisation: 'acme' })
  const theirView = await ask(world, '/v1/instances/shop.acme.cart.prod.1/explain', { token: viewer })
  t.notMatch(JSON.stringify(theirView.body), /theirs/)
  t.notMatch(JSON.stringify((await ask(world, '/v1/instances', { token: viewer })).body), /theirs/)

  // what a node of the one asks of the other’s names
  const known = async (node: 'ours' | 'theirs', key: string) =>
    (await nodes[node].uplink.ask(key, AbortSignal.timeout(30_000))).entries.map(({ service }) => service.id)
  t.same(await known('theirs', 'shop.acme.cart'), [], 'a name that it cannot resolve')
  t.same(await known('ours', 'shop.acme.cart'), ['shop.acme.cart.prod'])

  // an infrastructure provider admits an organisation
  const operator = await tokenOf({ role: 'infrastructure-provider', organisation: 'beta' })
  const admits = (organisations: string[]) =>
    ask(world, '/v1/clusters/theirs/admits', { method: 'PUT', body: { organisations }, token: operator })
  t.equal((await admits(['nobody'])).status, 404)
  t.same((await admits(['acme'])).body, { cluster: 'theirs', organisation: 'beta', admits: ['acme'] })
  await until(async () => (await placed())['shop.acme.cart.prod.1']?.[0] === 'theirs', 'it is placed there')
  const drained = await ask(world, '/v1/nodes/theirs/n/drain', { method: 'POST', body: {}, token: operator })
  t.match(JSON.stringify(drained.body), /another.organisation.instance.hidden.0/, 'an instance of another is not named')
  t.notMatch(JSON.stringify(drained.body), /acme/)
  t.equal(
    (await ask(world, '/v1/clusters/ours/admits', { method: 'PUT', body: { organisations: [] }, token: operator }))
      .status,
    404,
  )
})

t.test('who may be called without being asked: not what is of an organisation', async (t) => {
  await using all = await twoOperators()
  const { admin, nodes } = all
  const allowed = async (key: string) =>
    (await nodes.ours.uplink.ask(key, AbortSignal.timeout(30_000))).entries.map(({ service }) => service.allow)
  t.same(await allowed('shop.acme.cart'), [['shop.acme']], 'programs of a node may not')
  await admin('POST', '/v1/apps', documentOf('acme', { allow: ['node'] }))
  await until(async () => (await allowed('shop.acme.cart'))[0]?.[0] === 'node', 'unless it says so')
  // names of others in a document
  const near = (namespace: string) =>
    documentOf('acme', {
      constraints: [{ type: 'latency', service: `shop.${namespace}.cart.prod`, threshold: 5 }],
    })
  const refused = await admin('POST', '/v1/apps', near('beta'))
  t.match(refused, { status: 409, body: { code: 'SLA_CONFLICT' } })
  const absent = documentOf('acme', { constraints: [{ type: 'latency', service: 'none.beta.x.prod', threshold: 5 }] })
  t.equal((await admin('POST', '/v1/apps', absent)).status, 409, 'as of one that does not exist')
  await admin('POST', '/v1/apps', documentOf('beta', { allow: ['shop.acme'] }))
  t.equal((await admin('POST', '/v1/apps', near('beta'))).status, 200, 'one that allows it')
})

t.test('quotas hold for documents of every size, scaling and going back', async (t) => {
  await using world = await mesh({ clusters: [] })
  const admin = (method: string, path: string, body?: unknown) => ask(world, path, { method, body })
  await admin('POST', '/v1/organisations', { name: 'acme', quota: { services: 100, instances: 4, memoryMb: 1_000 } })
  t.equal((await admin('POST', '/v1/apps', documentOf('acme', { replicas: 4, memory: 100 }))).status, 200)
  const exceeds = (answer: { status: number; body: { code?: string } }, why: string) =>
    t.match(answer, { status: 409, body: { code: 'QUOTA_EXCEEDED' } }, why)
  exceeds(await admin('POST', '/v1/apps', documentOf('acme', { replicas: 4, memory: 300 })), 'memory')
  exceeds(await admin('POST', '/v1/apps?dryRun=true', documentOf('acme', { replicas: 5 })), 'a dry run')
  exceeds(await admin('PATCH', '/v1/services/shop.acme.cart.prod', { replicas: 5 }), 'scaling')
  t.equal((await admin('PATCH', '/v1/services/shop.acme.cart.prod', { replicas: 2 })).status, 200, 'less')
  const [app] = documentOf('acme').applications as unknown as { microservices: object[] }[]
  const many = Array.from({ length: 120 }, (_, i) => ({
    ...app?.microservices[0],
    microservice_name: `s${i}`,
    replicas: 0,
  }))
  exceeds(
    await admin('POST', '/v1/apps', {
      ...documentOf('acme'),
      applications: [{ ...app, application_namespace: 'acme', microservices: many }],
    }),
    'many services',
  )
  t.equal((await admin('GET', '/v1/services')).body.items.length, 1, 'nothing of it is there')
  await admin('PATCH', '/v1/organisations/acme', { quota: { instances: 1 } })
  t.equal((await admin('PATCH', '/v1/services/shop.acme.cart.prod', { replicas: 1 })).status, 200)
  t.match((await admin('GET', '/v1/organisations')).body.items, [{ quota: { instances: 1 }, wanted: { instances: 1 } }])
})

t.test('somebody logs in, as a program and as a browser, over a restart of the root', async (t) => {
  await using world = await mesh({ clusters: [] })
  const admin = (method: string, path: string, body?: unknown) => ask(world, path, { method, body })
  await admin('POST', '/v1/organisations', { name: 'acme' })
  const made = await admin('POST', '/v1/users', {
    name: 'alice',
    organisation: 'acme',
    password: PASSWORD,
    grants: [{ role: 'viewer', organisation: 'acme' }],
  })
  t.match(made, { status: 200, body: { name: 'alice', hasPassword: true } })
  t.notMatch(JSON.stringify((await admin('GET', '/v1/users')).body), /hash|salt/)
  t.equal((await admin('POST', '/v1/users', { name: 'bob', password: 'short' })).status, 400)
  t.equal((await admin('POST', '/v1/users', { name: 'admin' })).status, 400, 'a name that is taken')
  const login = (body: object) => send(world, '/v1/login', { method: 'POST', body, headers: { authorization: '' } })
  const { body } = await login({ user: 'alice', password: PASSWORD })
  const alice = (method: string, path: string, sent?: unknown) =>
    ask(world, path, { method, body: sent, token: body.token })
  t.match((await alice('GET', '/v1/me')).body, { user: 'alice', by: 'session', isAdministrator: false })
  t.match(await login({ user: 'alice', password: 'wrong' }), { status: 401, body: { code: 'LOGIN_REFUSED' } })
  t.match(await login({ user: 'nobody', password: 'wrong' }), { status: 401, body: { code: 'LOGIN_REFUSED' } })

  // as a browser
  const inBrowser = await login({ user: 'alice', password: PASSWORD, cookie: true })
  t.equal(inBrowser.body.token, undefined)
  const [cookie = ''] = inBrowser.headers['set-cookie'] ?? []
  t.match(
    cookie,
    /^__Host-hedgerow=hedgerow-session\.[^;]+; Path=\/; Max-Age=43200; Secure; HttpOnly; SameSite=Strict$/,
  )
  const withCookie = (site: string | undefined, path = '/v1/me') =>
    get(world, path, { cookie: cookie.split(';')[0] ?? '', ...(site === undefined ? {} : { 'sec-fetch-site': site }) })
  t.equal(await withCookie('same-origin'), 200)
  for (const site of ['cross-site', 'same-site', undefined])
    t.equal(await withCookie(site), 401, `a page of another site: ${site}`)
  t.equal(await withCookie('same-origin', '/api/v1/services'), 403)

  // an API token creates no other, and changes no password; limits give nothing
  const token = (await alice('POST', '/v1/api-tokens', { name: 'ci', limits: { grants: [{ role: 'administrator' }] } }))
    .body.token
  const ci = (method: string, path: string, sent?: unknown) => ask(world, path, { method, body: sent, token })
  t.match((await ci('GET', '/v1/me')).body, { by: 'token', isAdministrator: false })
  t.equal((await ci('POST', '/v1/api-tokens', { name: 'more' })).status, 403)
  t.equal((await ci('PUT', '/v1/users/alice/password', { password: PASSWORD, old: PASSWORD })).status, 403)
  t.equal((await ci('POST', '/v1/logout')).status, 403)
  t.equal((await alice('PATCH', '/v1/users/alice', { add: [{ role: 'administrator' }] })).status, 403)
  t.equal((await alice('PUT', '/v1/users/alice/password', { password: 'another password', old: 'wrong' })).status, 401)

  // as after kill -9
  await world.killRoot()
  await world.startRoot()
  t.equal((await alice('GET', '/v1/me')).status, 200)
  t.equal((await alice('PUT', '/v1/users/alice/password', { password: 'another password', old: PASSWORD })).status, 200)
  t.equal((await alice('GET', '/v1/me')).status, 401, 'its sessions have ended')
  t.equal((await login({ user: 'alice', password: PASSWORD })).status, 401)
  t.equal((await login({ user: 'alice', password: 'another password' })).status, 200)
  const { items } = (await admin('GET', '/v1/audit')).body
  const did = items.map(({ user, call, about, status }: Record<string, unknown>) =>
    [user, call, about, status].join(' '),
  )
  for (const one of [
    'alice login  401',
    'alice login  200',
    'admin createUser alice 200',
    'alice createApiToken ci 200',
    'alice setPassword alice 200',
  ])
    t.ok(did.includes(one), one)
  t.notMatch(JSON.stringify(items), /horse|another password|hedgerow-api/)
  // guesses
  let last = 0
  for (let i = 0; i < 12 && last !== 429; i++) last = (await login({ user: 'alice', password: `guess ${i}` })).status
  t.equal(last, 429)
  t.equal((await admin('DELETE', '/v1/users/alice')).status, 200)
  t.equal((await ci('GET', '/v1/me')).status, 401)
})

t.test('on a full disk, whoever has a token or a session is answered', async (t) => {
  await using world = await mesh({ clusters: [] })
  const admin = (method: string, path: string, body?: unknown) => ask(world, path, { method, body })
  await admin('POST', '/v1/organisations', { name: 'acme' })
  const grants = [{ role: 'viewer', organisation: 'acme' }]
  await admin('POST', '/v1/users', { name: 'alice', organisation: 'acme', password: PASSWORD, grants })
  const login = { method: 'POST', body: { user: 'alice', password: PASSWORD } }
  const session = (await send(world, '/v1/login', login)).body.token as string
  const token = (await admin('POST', '/v1/api-tokens', { name: 'a test', limits: { grants } })).body.token as string
  t.capture(Store.prototype, 'transaction', function (this: Store) {
    throw new MeshError('DISK_FULL', { path: this.path })
  })
  for (const one of [session, token]) {
    const read = await ask(world, '/v1/services', { token: one }) // the first time it is used, which would be written
    t.equal(read.status, 200)
    t.match(await ask(world, '/v1/api-tokens/none', { method: 'DELETE', token: one }), { status: 404 })
  }
  t.match(await send(world, '/v1/login', login), { status: 507, body: { code: 'DISK_FULL' } }, 'a session is written')
})

/** The status, asked without a bearer token. */
function get(world: World, path: string, headers: Record<string, string>): Promise<number> {
  const { url, ca } = world.credential
  const options = { ca, agent: false as const, checkServerIdentity: () => undefined, headers }
  return new Promise((resolve, reject) => {
    request(`${url}${path}`, options, (response) => {
      response.resume()
      resolve(response.statusCode ?? 0)
    })
      .on('error', reject)
      .end()
  })
}
