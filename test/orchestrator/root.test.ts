import { request } from 'node:https'
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import type { MeshError } from '../../src/core/errors.ts'
import { silentLog } from '../../src/core/kit/log.ts'
import { openMetrics } from '../../src/core/metrics.ts'
import { Root } from '../../src/orchestrator/root/root.ts'
import type { ServiceRecord } from '../../src/orchestrator/root/root-store.ts'
import { effectOf, type Effect } from '../../src/orchestrator/sla/changes.ts'
import type { ServiceSpec } from '../../src/orchestrator/spec.ts'
import { difference } from '../../src/orchestrator/root/difference.ts'
import { addressToIndex } from '../../src/orchestrator/root/vip-requests.ts'
import { mesh, sla, type World } from './mesh.ts'
import { specOf } from './specs.ts'
import { until } from '../support/until.ts'

t.setTimeout(280_000)

t.test('a document that changes what an instance was started with restarts it', async (t) => {
  const before: ServiceRecord = { id: 'shop.acme.cart.prod', spec: specOf(), generation: 1, version: 1 }
  const [same] = difference([before], [specOf()], { prune: false })
  t.match(same, { kind: 'unchanged' }, 'the same document changes nothing')
  const rows: { why: string; changes: Record<string, unknown>; effect: Effect }[] = [
    { why: 'more replicas leave it alone', changes: { replicas: 5 }, effect: 'none' },
    { why: 'another rule for callers leaves it alone', changes: { allow: ['*'] }, effect: 'none' },
    { why: 'another path rule leaves it alone', changes: { paths: 'relay-only' }, effect: 'none' },
    { why: 'other arguments restart it', changes: { cmd: ['sleep', '2'] }, effect: 'restart' },
    { why: 'another port restarts it', changes: { port: '8081' }, effect: 'restart' },
    { why: 'more memory is taken over', changes: { memory: 200 }, effect: 'place' },
    { why: 'another architecture is taken over', changes: { arch: ['arm64'] }, effect: 'place' },
    { why: 'another drain time is taken over', changes: { drain_seconds: 1 }, effect: 'live' },
    { why: 'the gravest counts', changes: { memory: 200, cmd: ['sleep', '2'] }, effect: 'restart' },
  ]
  for (const { why, changes, effect } of rows)
    t.match(difference([before], [specOf(changes)], { prune: false }), [{ kind: 'updated', effect }], why)
  const [from, to] = [specOf({ runtime: 'docker', code: 'a' }), specOf({ runtime: 'docker', code: 'a', memory: 200 })]
  t.equal(effectOf(from, to), 'restart', 'a runtime that may have set a limit starts it again')
  const ports = [{ port: 80 }, { port: 80, name: 'web' }].map((port) => specOf({ ports: [port] }))
  t.equal(effectOf(ports[0] as ServiceSpec, ports[1] as ServiceSpec), 'none', 'the name of a port is for callers')
  t.same(difference([before], [], { prune: false }), [], 'a service that the document does not name stays')
  t.same(
    difference([before], [], { prune: true }),
    [{ kind: 'removed', id: 'shop.acme.cart.prod' }],
    'and is removed when the document prunes',
  )
})

interface Answer {
  status: number
  body: Record<string, unknown>
}

/** A request as somebody would make it who does not use our client. */
function raw(
  world: World,
  method: string,
  path: string,
  { token, body, type = 'application/json' }: { token?: string; body?: string; type?: string } = {},
) {
  const { url, ca } = world.credential
  return new Promise<Answer>((resolve, reject) => {
    const asking = request(
      new URL(path, url),
      {
        method,
        ca,
        agent: false,
        checkServerIdentity: () => undefined,
        headers: {
          ...(token === undefined ? {} : { authorization: token }),
          ...(body === undefined ? {} : { 'content-type': type, 'content-length': Buffer.byteLength(body) }),
        },
      },
      (response) => {
        let text = ''
        response.setEncoding('utf8')
        response.on('data', (chunk: string) => (text += chunk))
        response.on('end', () =>
          resolve({
            status: response.statusCode ?? 0,
            body: JSON.parse(text === '' ? '{}' : text) as Record<string, unknown>,
          }),
        )
      },
    )
    asking.on('error', reject)
    asking.end(body)
  })
}

t.test('without a token only health, the authority and the page answer', async (t) => {
  await using world = await mesh({ clusters: [] })
  const routes = [
    'GET /api/v1/apps',
    'POST /api/v1/apps',
    'DELETE /api/v1/apps/shop.acme',
    'GET /api/v1/services',
    'GET /api/v1/services/x',
    'POST /api/v1/services/x/scale',
    'DELETE /api/v1/services/x',
    'GET /api/v1/instances',
    'GET /api/v1/instances/x/logs',
    'GET /api/v1/nodes',
    'DELETE /api/v1/nodes/edge/n1',
    'GET /api/v1/clusters',
    'POST /api/v1/tokens',
    'GET /api/v1/status',
    'GET /api/v1/nothing-here',
    'GET /v1/apps',
    'GET /v1/watch',
    'GET /v1/nothing-here',
    'GET /nothing-here',
  ]
  for (const route of routes) {
    const [method = '', path = ''] = route.split(' ')
    for (const token of [undefined, 'Bearer wrong', 'Bearer ', `Basic ${world.credential.token}`]) {
      const answer = await raw(world, method, path, token === undefined ? {} : { token })
      t.equal(answer.status, 401, `${route} with ${token ?? 'no token'} is refused`)
      t.match(
        answer.body,
        { [path.startsWith('/v1/') ? 'code' : 'error']: 'UNAUTHENTICATED' },
        `${route} with ${token ?? 'no token'}: the answer says why`,
      )
    }
  }
  t.match(await raw(world, 'GET', '/healthz'), { status: 200, body: { status: 'ok' } }, 'health answers anybody')
  const trust = await raw(world, 'GET', '/ca')
  t.match(
    trust,
    { status: 200, body: { fingerprint: world.root.fingerprint, ca: world.credential.ca } },
    'the authority answers anybody',
  )
  t.notMatch(JSON.stringify(trust.body), /PRIVATE KEY/, 'the authority does not give its key away')
  t.equal((await raw(world, 'GET', '/')).status, 302, 'to the page, which asks for a token')
  t.equal((await raw(world, 'GET', '/link')).status, 401, 'the link of a cluster needs its certificate')
})

t.test('only the owner can read the credential', async (t) => {
  await using world = await mesh({ clusters: [] })
  t.equal(
    statSync(join(world.dir, 'root', 'admin.json')).mode & 0o777,
    0o600,
    'the file of the credential is for its owner only',
  )
  t.notMatch(
    readFileSync(join(world.dir, 'root', 'root.db'), 'latin1'),
    new RegExp(world.credential.token.slice(15)),
    'the database does not hold the token itself',
  )
})

t.test('all faults are reported at once, and nothing is applied in part', async (t) => {
  await using world = await mesh({ clusters: [] })
  const error = await world.api
    .call(
      'POST',
      '/apps',
      sla(
        { microservice_name: 'good' },
        { microservice_name: 'any', memory: 'much' },
        { microservice_name: 'cart', port: '99999' },
      ),
    )
    .catch((error: MeshError) => error)
  t.match(error, { code: 'SLA_INVALID' }, 'a document with faults is refused')
  const paths = ((error as MeshError).details['faults'] as Array<{ path: string }>).map(({ path }) => path)
  for (const path of [
    'applications[0].microservices[1].microservice_name',
    'applications[0].microservices[1].memory',
    'applications[0].microservices[2].port',
  ]) {
    t.ok(paths.includes(path), `the fault at ${path} is reported`)
  }
  t.same(await world.api.call('GET', '/services'), [], 'no service of it was made, not even the good one')
  t.same(await world.api.call('GET', '/apps'), [], 'nor its app')
})

t.test('malformed bodies and queries are refused with a 4xx status', async (t) => {
  await using world = await mesh({ clusters: [] })
  const token = `Bearer ${world.credential.token}`
  const rows: Array<{ why: string; method?: string; path: string; body?: string; type?: string; status: number }> = [
    { why: 'a body that is not JSON', path: '/apps', body: '{', status: 400 },
    { why: 'a list where a document belongs', path: '/apps', body: '[]', status: 422 },
    { why: '__proto__ as a key', path: '/apps', body: '{"__proto__":{"x":1}}', status: 400 },
    { why: 'a YAML text that is no document', path: '/apps', body: 'a: 1', type: 'text/plain', status: 422 },
    { why: 'a document with one key twice', path: '/apps', body: '{"applications":[],"applications":[]}', status: 422 },
    { why: 'a body of XML', path: '/apps', body: '<a/>', type: 'application/xml', status: 415 },
    {
      why: 'a body that is too long',
      path: '/tokens',
      body: JSON.stringify({ x: 'y'.repeat(1024 * 1024) }),
      status: 413,
    },
    {
      why: 'a document that is too long',
      path: '/apps',
      body: JSON.stringify({ x: 'y'.repeat(32 * 1024 * 1024) }),
      status: 413,
    },
    { why: 'an unknown query parameter', path: '/apps?prun=true', body: '{}', status: 400 },
    { why: 'scaling to a text', path: '/services/x/scale', body: '{"replicas":"3"}', status: 400 },
    { why: 'scaling below zero', path: '/services/x/scale', body: '{"replicas":-1}', status: 400 },
    { why: 'scaling with an unknown key', path: '/services/x/scale', body: '{"replicas":1,"force":true}', status: 400 },
    { why: 'scaling a service that does not exist', path: '/services/x/scale', body: '{"replicas":1}', status: 404 },
    { why: 'a token for a role that does not exist', path: '/tokens', body: '{"role":"king"}', status: 400 },
    { why: 'a node token without a cluster', path: '/tokens', body: '{"role":"node"}', status: 400 },
    {
      why: 'a node token for a cluster that does not exist',
      path: '/tokens',
      body: '{"role":"node","cluster":"moon"}',
      status: 404,
    },
    { why: 'removing a service that does not exist', method: 'DELETE', path: '/services/a.b.c.d', status: 404 },
    { why: 'removing an app that does not exist', method: 'DELETE', path: '/apps/a.b', status: 404 },
    { why: 'removing a node of a cluster that does not exist', method: 'DELETE', path: '/nodes/moon/n1', status: 404 },
    {
      why: 'the logs of an instance that does not exist',
      method: 'GET',
      path: '/instances/a.b.c.d.0/logs',
      status: 404,
    },
    { why: 'a route that does not exist', method: 'GET', path: '/nothing', status: 404 },
  ]
  for (const { why, method = 'POST', path, body, type, status } of rows) {
    const answer = await raw(world, method, `/api/v1${path}`, {
      token,
      ...(body === undefined ? {} : { body }),
      ...(type === undefined ? {} : { type }),
    })
    t.equal(answer.status, status, `${why} is refused with ${status}: ${JSON.stringify(answer.body).slice(0, 200)}`)
    t.type(answer.body['error'], 'string', `${why}: the answer has the code of an error`)
  }
})

t.test('apply creates, updates and prunes, and the same document again changes nothing', async (t) => {
  await using world = await mesh({ clusters: [] })
  const apply = (document: unknown, prune = false) =>
    world.api.call<{ services: unknown[] }>('POST', `/apps${prune ? '?prune=true' : ''}`, document)
  const two = [{ microservice_name: 'cart', replicas: 2 }, { microservice_name: 'stock' }]
  const created = [
    { id: 'shop.acme.cart.prod', change: 'created' },
    { id: 'shop.acme.stock.prod', change: 'created' },
  ]
  t.match(await apply(sla(...two)), { apps: ['shop.acme'], services: created }, 'a new document creates its services')
  const version = async () => JSON.stringify(await world.api.call('GET', '/services'))
  const before = await version()
  t.match(
    await apply(sla(...two)),
    { services: [{ change: 'unchanged' }, { change: 'unchanged' }] },
    'the same document again changes nothing',
  )
  t.equal(await version(), before, 'and the services are as they were, with their versions')
  t.match(
    await apply(sla({ microservice_name: 'cart', replicas: 3 })),
    { services: [{ change: 'updated' }] },
    'another number of replicas is an update',
  )
  t.match(
    await apply(sla({ microservice_name: 'cart', replicas: 3 }), true),
    { services: [{ change: 'unchanged' }, { id: 'shop.acme.stock.prod', change: 'removed' }] },
    'a document that prunes removes the service it does not name',
  )
  t.match(
    await world.api.call('GET', '/services/shop.acme.cart.prod'),
    { replicas: 3, generation: 1, spec: { name: 'cart' } },
    'the service has its new number of replicas, and its first generation',
  )
  await until(async () => (await world.instances()).every(({ state }) => state === 'unplaceable'), 'nowhere to go')
  t.match((await world.instances())[0]?.detail, /no cluster is connected/, 'an instance that fits nowhere says why')
  await world.api.call('DELETE', '/apps/shop.acme')
  await until(async () => (await world.instances()).length === 0, 'all gone')
  const nothing = { apps: 0, services: 0, instances: {}, vipsUsed: 0 }
  t.match(await world.api.call('GET', '/status'), nothing, 'a deleted app leaves no instance and no VIP behind')
})

t.test('addresses in a document are assigned, and conflicts are refused with their path', async (t) => {
  await using world = await mesh({ clusters: [] })
  const address = (rr_ip: string) => ({ addresses: { rr_ip } })
  await world.api.call('POST', '/apps', sla({ microservice_name: 'cart', ...address('10.30.30.30') }))
  t.match(
    await world.api.call('GET', '/services/shop.acme.cart.prod'),
    { vips: { 'any.rr': addressToIndex('10.30.30.30') } },
    'the service has the address it asked for',
  )
  const error = await world.api
    .call('POST', '/apps', sla({ microservice_name: 'web' }, { microservice_name: 'stock', ...address('10.30.30.30') }))
    .catch((error: MeshError) => error)
  t.match(error, { code: 'SLA_CONFLICT' }, 'an address that another service has is refused')
  const conflict = { path: 'applications[0].microservices[1].addresses', problem: /any.rr of shop.acme.cart.prod/ }
  t.match((error as MeshError).details, { conflicts: [conflict] }, 'the refusal says where, and who has the address')
  t.same(
    (await world.api.call<Array<{ id: string }>>('GET', '/services')).map(({ id }) => id),
    ['shop.acme.cart.prod'],
    'nothing of the refused document was applied',
  )
  await world.api.call('DELETE', '/services/shop.acme.cart.prod')
})

t.test('VIPs, services and the credential survive a restart, and a lost credential is replaced', async (t) => {
  await using world = await mesh({ clusters: [] })
  await world.api.call('POST', '/apps', sla({ microservice_name: 'cart', replicas: 2 }))
  await until(async () => (await world.instances()).length === 2, 'two instances')
  const before = await world.api.call('GET', '/services')
  const { token } = world.credential
  await world.stopRoot()
  await world.startRoot()
  t.same(await world.api.call('GET', '/services'), before, 'services and VIPs are as before the restart')
  t.equal(world.credential.token, token, 'the credential is the same')
  await world.stopRoot()
  writeFileSync(join(world.dir, 'root', 'admin.json'), 'scribble')
  await world.startRoot()
  t.not(world.credential.token, token, 'a credential that cannot be read is replaced')
  t.same(await world.api.call('GET', '/services'), before, 'and the new one sees the same services')
  t.equal(
    (await raw(world, 'GET', '/api/v1/apps', { token: `Bearer ${token}` })).status,
    401,
    'the old credential counts no more',
  )
})

t.test('a root that cannot start says why and leaves nothing behind', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'hedgerow-root-'))
  t.teardown(() => rmSync(dir, { recursive: true, force: true }))
  const metrics = openMetrics('root')
  const start = (listen = { host: '127.0.0.1', port: 0 }) => Root.start({ dir, listen }, silentLog, metrics)
  {
    await using first = await start()
    const port = Number(new URL(first.url).port)
    await t.rejects(
      start({ host: '127.0.0.1', port }),
      { code: 'STATE_UNREADABLE', details: { remedy: /another hedgerow/i } },
      'a second root in one directory is told that another runs',
    )
  }
  writeFileSync(join(dir, 'root.db'), 'not a database at all, but long enough to be read as one'.repeat(20))
  await t.rejects(start(), { code: 'STATE_CORRUPT' }, 'a file that is no database is named as damaged')
  t.match(readFileSync(join(dir, 'root.db'), 'utf8'), /^not a database/, 'and is left as it was')
})
