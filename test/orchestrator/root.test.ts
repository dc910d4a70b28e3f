import { request } from 'node:https'
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import type { MeshError } from '../../src/core/errors.ts'
import { silentLog } from '../../src/core/kit/log.ts'
import { openMetrics } from '../../src/core/metrics.ts'
import { Root } from '../../src/orchestrator/root/root.ts'
import type { InstanceRecord, ServiceRecord } from '../../src/orchestrator/root/root-store.ts'
import { difference } from '../../src/orchestrator/root/difference.ts'
import { plan, type ClusterConditions, type Step } from '../../src/orchestrator/root/plan.ts'
import { addressToIndex } from '../../src/orchestrator/root/vip-requests.ts'
import { mesh, sla, until, type World } from './mesh.ts'
import { specOf } from './specs.ts'

t.test('the plan lists the steps from what is to what is wanted', async (t) => {
  const service = (replicas: number, generation = 1): ServiceRecord => ({
    id: 'shop.acme.cart.prod',
    spec: specOf({ replicas }),
    generation,
    version: 1,
  })
  const at = (ordinal: number, changes: Partial<InstanceRecord> = {}): InstanceRecord => ({
    id: `shop.acme.cart.prod.${ordinal}`,
    service: 'shop.acme.cart.prod',
    ordinal,
    wanted: true,
    generation: 1,
    state: 'running',
    restarts: 0,
    cluster: 'edge',
    changedAt: 0,
    ...changes,
  })
  const nowhere = (ordinal: number, changes: Partial<InstanceRecord> = {}) => {
    const { cluster: _, ...record } = at(ordinal, changes)
    return record
  }
  const id = (ordinal: number) => `shop.acme.cart.prod.${ordinal}`
  const up: ClusterConditions = { isUp: () => true, isLost: () => false, hasRoomElsewhere: () => true }
  const away: ClusterConditions = { ...up, isUp: () => false }
  const lost: ClusterConditions = { ...away, isLost: () => true }
  const full: ClusterConditions = { ...lost, hasRoomElsewhere: () => false }

  const rows: Array<{
    why: string
    service?: ServiceRecord
    instances: InstanceRecord[]
    conditions?: ClusterConditions
    steps: Step[]
  }> = [
    { why: 'all is well', service: service(2), instances: [at(0), at(1)], steps: [] },
    {
      why: 'a new service',
      service: service(2),
      instances: [],
      steps: [
        { kind: 'create', ordinal: 0 },
        { kind: 'create', ordinal: 1 },
      ],
    },
    {
      why: 'scaling up takes the lowest free number',
      service: service(3),
      instances: [at(0), at(2)],
      steps: [{ kind: 'create', ordinal: 1 }],
    },
    {
      why: 'scaling down takes the highest',
      service: service(1),
      instances: [at(0), at(1)],
      steps: [
        { kind: 'retire', id: id(1) },
        { kind: 'withdraw', id: id(1), cluster: 'edge' },
      ],
    },
    {
      why: 'a number that still ends is not made again',
      service: service(1),
      instances: [at(0, { wanted: false })],
      steps: [{ kind: 'withdraw', id: id(0), cluster: 'edge' }],
    },
    {
      why: 'a deleted service ends',
      instances: [at(0, { wanted: false })],
      steps: [{ kind: 'withdraw', id: id(0), cluster: 'edge' }],
    },
    {
      why: 'what is nowhere is just forgotten',
      instances: [nowhere(0, { wanted: false })],
      steps: [{ kind: 'forget', id: id(0) }],
    },
    {
      why: 'an ending waits for a cluster that is away',
      instances: [at(0, { wanted: false })],
      conditions: away,
      steps: [],
    },
    {
      why: 'but not for one that is lost',
      instances: [at(0, { wanted: false })],
      conditions: lost,
      steps: [{ kind: 'forget', id: id(0) }],
    },
    {
      why: 'what is nowhere is placed',
      service: service(1),
      instances: [nowhere(0)],
      steps: [{ kind: 'place', id: id(0) }],
    },
    {
      why: 'a cluster that is away keeps its work',
      service: service(1),
      instances: [at(0)],
      conditions: away,
      steps: [],
    },
    {
      why: 'a lost one does not',
      service: service(1),
      instances: [at(0)],
      conditions: lost,
      steps: [{ kind: 'place', id: id(0) }],
    },
    { why: 'unless no other has room', service: service(1), instances: [at(0)], conditions: full, steps: [] },
    {
      why: 'a new generation goes one at a time',
      service: service(2, 2),
      instances: [at(0), at(1)],
      steps: [{ kind: 'update', id: id(0), cluster: 'edge' }],
    },
    {
      why: 'the next waits until it runs',
      service: service(2, 2),
      instances: [at(0, { generation: 2, state: 'starting' }), at(1)],
      steps: [],
    },
    {
      why: 'and then goes',
      service: service(2, 2),
      instances: [at(0, { generation: 2 }), at(1)],
      steps: [{ kind: 'update', id: id(1), cluster: 'edge' }],
    },
    {
      why: 'a failed new generation stops the roll',
      service: service(2, 2),
      instances: [at(0, { generation: 2, state: 'failed' }), at(1)],
      steps: [],
    },
    {
      why: 'which a newer one takes up again',
      service: service(2, 3),
      instances: [at(0, { generation: 2, state: 'failed' }), at(1)],
      steps: [{ kind: 'update', id: id(0), cluster: 'edge' }],
    },
    { why: 'not while its cluster is away', service: service(1, 2), instances: [at(0)], conditions: away, steps: [] },
  ]
  for (const { why, service, instances, conditions = up, steps } of rows)
    t.same(plan(service, instances, conditions), steps, why)
})

t.test('a document that changes what an instance was started with restarts it', async (t) => {
  const before: ServiceRecord = { id: 'shop.acme.cart.prod', spec: specOf(), generation: 1, version: 1 }
  const rows: Array<{ why: string; changes: Record<string, unknown>; kind: string; restart?: boolean }> = [
    { why: 'the same', changes: {}, kind: 'unchanged' },
    { why: 'more replicas', changes: { replicas: 5 }, kind: 'updated', restart: false },
    { why: 'who may call', changes: { allow: ['*'] }, kind: 'updated', restart: false },
    { why: 'other ways for its flows', changes: { paths: 'relay-only' }, kind: 'updated', restart: false },
    { why: 'other arguments', changes: { cmd: ['sleep', '2'] }, kind: 'updated', restart: true },
    { why: 'more memory', changes: { memory: 200 }, kind: 'updated', restart: true },
    { why: 'another port', changes: { port: '8081' }, kind: 'updated', restart: true },
  ]
  for (const { why, changes, kind, restart } of rows) {
    const [change] = difference([before], [specOf(changes)], { prune: false })
    t.match(change, restart === undefined ? { kind } : { kind, restart }, why)
  }
  t.same(difference([before], [], { prune: false }), [], 'what is not named stays')
  t.same(difference([before], [], { prune: true }), [{ kind: 'removed', id: 'shop.acme.cart.prod' }], 'unless pruned')
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
          resolve({ status: response.statusCode ?? 0, body: JSON.parse(text) as Record<string, unknown> }),
        )
      },
    )
    asking.on('error', reject)
    asking.end(body)
  })
}

t.test('the API', async (t) => {
  await using world = await mesh({ clusters: [] })

  await t.test('without a token only health and the authority answer', async (t) => {
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
      'GET /',
    ]
    for (const route of routes) {
      const [method = '', path = ''] = route.split(' ')
      for (const token of [undefined, 'Bearer wrong', 'Bearer ', `Basic ${world.credential.token}`]) {
        const answer = await raw(world, method, path, token === undefined ? {} : { token })
        t.equal(answer.status, 401, `${route} with ${token ?? 'nothing'}`)
        t.match(answer.body, { error: 'UNAUTHENTICATED' })
      }
    }
    t.match(await raw(world, 'GET', '/healthz'), { status: 200, body: { status: 'ok' } })
    const trust = await raw(world, 'GET', '/ca')
    t.match(trust, { status: 200, body: { fingerprint: world.root.fingerprint, ca: world.credential.ca } })
    t.notMatch(JSON.stringify(trust.body), /PRIVATE KEY/)
    t.equal((await raw(world, 'GET', '/link')).status, 401)
  })

  await t.test('only the owner can read the credential', async (t) => {
    t.equal(statSync(join(world.dir, 'root', 'admin.json')).mode & 0o777, 0o600)
    t.notMatch(readFileSync(join(world.dir, 'root', 'root.db'), 'latin1'), new RegExp(world.credential.token.slice(15)))
  })

  await t.test('all faults are reported at once, and nothing is applied in part', async (t) => {
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
    t.match(error, { code: 'SLA_INVALID' })
    const paths = ((error as MeshError).details['faults'] as Array<{ path: string }>).map(({ path }) => path)
    for (const path of [
      'applications[0].microservices[1].microservice_name',
      'applications[0].microservices[1].memory',
      'applications[0].microservices[2].port',
    ]) {
      t.ok(paths.includes(path), path)
    }
    t.same(await world.api.call('GET', '/services'), [])
    t.same(await world.api.call('GET', '/apps'), [])
  })

  await t.test('malformed bodies and queries are refused with a 4xx status', async (t) => {
    const token = `Bearer ${world.credential.token}`
    const rows: Array<{ why: string; method?: string; path: string; body?: string; type?: string; status: number }> = [
      { why: 'not JSON', path: '/apps', body: '{', status: 400 },
      { why: 'a list', path: '/apps', body: '[]', status: 422 },
      { why: 'prototype', path: '/apps', body: '{"__proto__":{"x":1}}', status: 400 },
      { why: 'another type', path: '/apps', body: 'a: 1', type: 'text/plain', status: 422 },
      { why: 'the same key twice', path: '/apps', body: '{"applications":[],"applications":[]}', status: 422 },
      { why: 'XML', path: '/apps', body: '<a/>', type: 'application/xml', status: 415 },
      { why: 'too long', path: '/apps', body: JSON.stringify({ x: 'y'.repeat(1024 * 1024) }), status: 413 },
      { why: 'an unknown query', path: '/apps?prun=true', body: '{}', status: 400 },
      { why: 'scale to text', path: '/services/x/scale', body: '{"replicas":"3"}', status: 400 },
      { why: 'scale below zero', path: '/services/x/scale', body: '{"replicas":-1}', status: 400 },
      { why: 'scale with more', path: '/services/x/scale', body: '{"replicas":1,"force":true}', status: 400 },
      { why: 'scale what is not there', path: '/services/x/scale', body: '{"replicas":1}', status: 404 },
      { why: 'a token for a king', path: '/tokens', body: '{"role":"king"}', status: 400 },
      { why: 'a node token without a cluster', path: '/tokens', body: '{"role":"node"}', status: 400 },
      { why: 'a node token for no cluster', path: '/tokens', body: '{"role":"node","cluster":"moon"}', status: 404 },
      { why: 'no such service', method: 'DELETE', path: '/services/a.b.c.d', status: 404 },
      { why: 'no such app', method: 'DELETE', path: '/apps/a.b', status: 404 },
      { why: 'no such cluster', method: 'DELETE', path: '/nodes/moon/n1', status: 404 },
      { why: 'no such instance', method: 'GET', path: '/instances/a.b.c.d.0/logs', status: 404 },
      { why: 'no such route', method: 'GET', path: '/nothing', status: 404 },
    ]
    for (const { why, method = 'POST', path, body, type, status } of rows) {
      const answer = await raw(world, method, `/api/v1${path}`, {
        token,
        ...(body === undefined ? {} : { body }),
        ...(type === undefined ? {} : { type }),
      })
      t.equal(answer.status, status, `${why}: ${JSON.stringify(answer.body).slice(0, 200)}`)
      t.type(answer.body['error'], 'string', why)
    }
  })

  await t.test('apply creates, updates and prunes, and the same document again changes nothing', async (t) => {
    const apply = (document: unknown, prune = false) =>
      world.api.call<{ services: unknown[] }>('POST', `/apps${prune ? '?prune=true' : ''}`, document)
    const two = [{ microservice_name: 'cart', replicas: 2 }, { microservice_name: 'stock' }]
    t.match(await apply(sla(...two)), {
      apps: ['shop.acme'],
      services: [
        { id: 'shop.acme.cart.prod', change: 'created' },
        { id: 'shop.acme.stock.prod', change: 'created' },
      ],
    })
    const version = async () => JSON.stringify(await world.api.call('GET', '/services'))
    const before = await version()
    t.match(await apply(sla(...two)), { services: [{ change: 'unchanged' }, { change: 'unchanged' }] })
    t.equal(await version(), before)
    t.match(await apply(sla({ microservice_name: 'cart', replicas: 3 })), { services: [{ change: 'updated' }] })
    t.match(await apply(sla({ microservice_name: 'cart', replicas: 3 }), true), {
      services: [{ change: 'unchanged' }, { id: 'shop.acme.stock.prod', change: 'removed' }],
    })
    t.match(await world.api.call('GET', '/services/shop.acme.cart.prod'), {
      replicas: 3,
      generation: 1,
      spec: { name: 'cart' },
    })
    await until(async () => (await world.instances()).every(({ state }) => state === 'unplaceable'), 'nowhere to go')
    t.match((await world.instances())[0]?.detail, /no cluster is connected/)
    await world.api.call('DELETE', '/apps/shop.acme')
    await until(async () => (await world.instances()).length === 0, 'all gone')
    t.match(await world.api.call('GET', '/status'), { apps: 0, services: 0, instances: {}, vipsUsed: 0 })
  })

  await t.test('addresses in a document are assigned, and conflicts are refused with their path', async (t) => {
    const address = (rr_ip: string) => ({ addresses: { rr_ip } })
    await world.api.call('POST', '/apps', sla({ microservice_name: 'cart', ...address('10.30.30.30') }))
    t.match(await world.api.call('GET', '/services/shop.acme.cart.prod'), {
      vips: { 'any.rr': addressToIndex('10.30.30.30') },
    })
    const error = await world.api
      .call(
        'POST',
        '/apps',
        sla({ microservice_name: 'web' }, { microservice_name: 'stock', ...address('10.30.30.30') }),
      )
      .catch((error: MeshError) => error)
    t.match(error, { code: 'SLA_CONFLICT' })
    t.match((error as MeshError).details, {
      conflicts: [{ path: 'applications[0].microservices[1].addresses', problem: /any.rr of shop.acme.cart.prod/ }],
    })
    t.same(
      (await world.api.call<Array<{ id: string }>>('GET', '/services')).map(({ id }) => id),
      ['shop.acme.cart.prod'],
      'nothing of it was applied',
    )
    await world.api.call('DELETE', '/services/shop.acme.cart.prod')
  })
})

t.test('VIPs, services and the credential survive a restart, and a lost credential is replaced', async (t) => {
  await using world = await mesh({ clusters: [] })
  await world.api.call('POST', '/apps', sla({ microservice_name: 'cart', replicas: 2 }))
  await until(async () => (await world.instances()).length === 2, 'two instances')
  const before = await world.api.call('GET', '/services')
  const { token } = world.credential
  await world.stopRoot()
  await world.startRoot()
  t.same(await world.api.call('GET', '/services'), before)
  t.equal(world.credential.token, token)
  await world.stopRoot()
  writeFileSync(join(world.dir, 'root', 'admin.json'), 'scribble')
  await world.startRoot()
  t.not(world.credential.token, token)
  t.same(await world.api.call('GET', '/services'), before)
  t.equal(
    (await raw(world, 'GET', '/api/v1/apps', { token: `Bearer ${token}` })).status,
    401,
    'the old one is forgotten',
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
    await t.rejects(start({ host: '127.0.0.1', port }), {
      code: 'STATE_UNREADABLE',
      details: { remedy: /another hedgerow/i },
    })
  }
  writeFileSync(join(dir, 'root.db'), 'not a database at all, but long enough to be read as one'.repeat(20))
  await t.rejects(start(), { code: 'STATE_CORRUPT' })
  t.match(readFileSync(join(dir, 'root.db'), 'utf8'), /^not a database/)
})
