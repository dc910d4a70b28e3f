import t from 'tap'
import { OPERATIONS } from '../../src/orchestrator/root/v1/routes.ts'
import { mesh, sla } from './mesh.ts'
import { ask, send, watching } from './v1.ts'
import { until } from '../support/until.ts'

const CART = 'shop.acme.cart.prod'
const WEB = 'site.beta.web.prod'

/** Two organisations with a service each, and a user of each role; their passwords are not needed, since they have tokens. */
async function tenants() {
  const world = await mesh({ clusters: ['edge', 'far'] })
  await world.node('n1')
  await world.node('f1', { cluster: 'far' })
  const as = (token: string) => (method: string, path: string, body?: unknown) =>
    ask(world, path, { method, body, token })
  const admin = as(world.credential.token)
  for (const name of ['acme', 'beta']) await admin('POST', '/v1/organisations', { name })
  const tokenOf = async (grants: { role: string; organisation?: string }[], apps?: string[]) => {
    const limits = { grants, ...(apps === undefined ? {} : { apps }) }
    const made = await admin('POST', '/v1/api-tokens', { name: 'test', limits })
    t.equal(made.status, 200)
    return made.body.token as string
  }
  await admin('POST', '/v1/apps', sla({ microservice_name: 'cart' }))
  const web = sla({ microservice_name: 'web' })
  await admin('POST', '/v1/apps', {
    ...web,
    applications: web.applications.map((app: object) => ({
      ...app,
      application_name: 'site',
      application_namespace: 'beta',
    })),
  })
  await world.running(2)
  return { world, as, admin, tokenOf, [Symbol.asyncDispose]: () => world[Symbol.asyncDispose]() }
}

t.test('nobody sees another’s names, instances, logs, events and changes', async (t) => {
  await using all = await tenants()
  const { world, as, tokenOf } = all
  const beta = as(await tokenOf([{ role: 'organisation-administrator', organisation: 'beta' }]))
  const lists = [
    'apps',
    'services',
    'instances',
    'runs',
    'events',
    'nodes',
    'clusters',
    'relays',
    'links',
    'volumes',
    'status',
    'organisations',
  ]
  for (const list of [...lists, 'users', 'api-tokens', 'audit', 'cluster-owners', 'me']) {
    const { status, body } = await beta('GET', `/v1/${list}${list === 'instances' ? '?usage=true' : ''}`)
    t.equal(status, 200, list)
    t.notMatch(JSON.stringify(body), /acme|cart/, `${list} names nothing of another`)
  }
  t.match((await beta('GET', '/v1/services')).body.items, [{ id: WEB }])
  const [link] = (await beta('GET', '/v1/links')).body.items
  t.match(link, { path: 'relayed', rttMs: 12 })
  t.notMatch(link, { bytesIn: Number }, 'what nodes carried is everybody’s')
  t.match((await all.admin('GET', '/v1/links')).body.items[0], { bytesIn: 10, bytesOut: 20 })
  const tried = [
    ['GET', `/v1/services/${CART}`],
    ['GET', `/v1/services/${CART.replace('.', '%2e')}`],
    ['GET', `/v1/services/${CART}/revisions`],
    ['GET', `/v1/services/${CART}/explain`],
    ['GET', `/v1/instances/${CART}.0`],
    ['GET', `/v1/instances/${CART}.0/logs`],
    ['GET', `/v1/instances/${CART}.0/explain`],
    ['PATCH', `/v1/services/${CART}`, { replicas: 0 }],
    ['DELETE', `/v1/services/${CART}`],
    ['DELETE', `/v1/services/${CART.toUpperCase()}`],
    ['DELETE', '/v1/apps/shop.acme'],
    ['POST', `/v1/services/${CART}/rollback`, {}],
    ['POST', `/v1/services/${CART}/run`],
    ['POST', `/v1/instances/${CART}.0/migrate`, {}],
    ['POST', `/v1/instances/${CART}.0/restart`],
    ['DELETE', '/v1/volumes/shop.acme.data/edge/n1/process'],
  ] as const
  const absent = CART.replace('cart', 'none')
  for (const [method, path, body] of tried) {
    const answer = await beta(method, path, body)
    t.equal(answer.status, 404, `${method} ${path}`)
    const other = await beta(method, path.replace(CART, absent).replace('shop.acme', 'shop.none'), body)
    t.equal(other.body.code, answer.body.code, 'as of one that does not exist')
  }
  // by the document
  const stolen = await beta('POST', '/v1/apps', sla({ microservice_name: 'cart', replicas: 0 }))
  t.match(stolen, { status: 403, body: { code: 'FORBIDDEN', details: { apps: ['shop.acme'] } } })
  // by the paths of earlier versions
  for (const path of [
    '/services',
    '/instances',
    '/events',
    '/events/stream',
    '/secrets',
    `/instances/${CART}.0/logs`,
    '/status',
    '/nodes',
  ])
    t.equal((await send(world, `/api/v1${path}`, { token: await tokenOf([]) })).status, 403, path)
  // the mesh is not theirs
  for (const [method, path, body] of [
    ['POST', '/v1/organisations', { name: 'gamma' }],
    ['PATCH', '/v1/organisations/beta', { namespaces: ['beta', 'acme'] }],
    ['POST', '/v1/nodes/edge/n1/drain', {}],
    ['DELETE', '/v1/clusters/edge'],
    ['PUT', '/v1/clusters/edge/owner', { organisation: 'beta' }],
    ['PUT', '/v1/clusters/edge/admits', { organisations: [] }],
    ['POST', '/v1/users', { name: 'eve', grants: [{ role: 'administrator' }] }],
    ['POST', '/v1/users', { name: 'eve', organisation: 'beta', grants: [{ role: 'administrator' }] }],
    ['POST', '/v1/users', { name: 'eve', organisation: 'beta', grants: [{ role: 'viewer', organisation: 'acme' }] }],
  ] as const)
    t.equal((await beta(method, path, body)).status, 403, `${method} ${path}`)
  // an idempotency key is of whoever made it
  const body = { replicas: 1 }
  const withKey = (token: string) =>
    ask(world, `/v1/services/${CART}/rollback`, { method: 'POST', body, token, headers: { 'idempotency-key': 'one' } })
  t.not((await withKey(await tokenOf([{ role: 'organisation-administrator', organisation: 'beta' }]))).status, 200)
})

t.test('what is watched is what may be seen, and ends when that does', async (t) => {
  await using all = await tenants()
  const { world, as, admin, tokenOf } = all
  const token = await tokenOf([{ role: 'viewer', organisation: 'beta' }])
  const stream = watching(world, token)
  await until(() => stream.text.includes('event: synced'), 'all rows are there')
  await admin('PATCH', `/v1/services/${CART}`, { replicas: 2 })
  await admin('PATCH', `/v1/services/${WEB}`, { replicas: 2 })
  await until(() => stream.text.includes(`${WEB}.1`), 'a change has come')
  await admin('DELETE', `/v1/services/${CART}`)
  await admin('DELETE', `/v1/services/${WEB}`)
  await until(() => /"id":"site.beta.web.prod","row":null/.test(stream.text), 'it is gone')
  t.notMatch(stream.text, /acme|cart/)
  const { items } = (await admin('GET', '/v1/api-tokens')).body
  t.equal(
    (await as(token)('DELETE', `/v1/api-tokens/${items[0].id}`)).status,
    items[0].id === token.split('.')[1] ? 200 : 404,
  )
  await admin('DELETE', `/v1/api-tokens/${token.split('.')[1]}`)
  await until(() => stream.isOver, 'its token was revoked')
  t.equal((await as(token)('GET', '/v1/me')).status, 401)
})

t.test('a stream follows the roles of its reader', async (t) => {
  await using all = await tenants()
  const { world, admin } = all
  const grants = [{ role: 'viewer', organisation: 'beta' }]
  await admin('POST', '/v1/users', { name: 'bob', organisation: 'beta', password: 'correct horse', grants })
  const body = { user: 'bob', password: 'correct horse' }
  const { token } = (await send(world, '/v1/login', { method: 'POST', body })).body
  const stream = watching(world, token)
  const logs = watching(world, token, `/v1/instances/${WEB}.0/logs?follow=true`)
  await until(() => stream.text.includes('event: synced') && logs.text.includes('line 1'), 'all rows are there')
  t.notMatch(stream.text, /acme/)
  const change = (body: object) => admin('PATCH', '/v1/users/bob', body)
  await change({ add: [{ role: 'viewer', organisation: 'acme' }] })
  await until(() => stream.text.includes(`"id":"${CART}.0"`), 'what it sees from now on comes')
  stream.text = ''
  await change({ remove: [{ role: 'viewer', organisation: 'acme' }] })
  await until(() => stream.text.includes('event: synced'), 'all of it anew')
  t.match(stream.text, /event: reset/)
  t.notMatch(stream.text, /acme/)
  await change({ remove: grants })
  await until(() => logs.isOver, 'a log that it may no longer read')
  t.notOk(stream.isOver)
  await admin('DELETE', '/v1/users/bob')
  await until(() => stream.isOver, 'there is no such user')
})

t.test('every call says what it needs', (t) => {
  for (const { id, needs } of OPERATIONS) t.ok(needs, id)
  t.same(
    OPERATIONS.filter(({ needs }) => needs === 'open').map(({ id }) => id),
    ['login', 'getLoginWays', 'beginOidcLogin', 'finishOidcLogin'],
  )
  t.end()
})
