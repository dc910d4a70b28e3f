import { readFileSync } from 'node:fs'
import t from 'tap'
import { hashOfDocument } from '../../.config/docs/api.ts'
import { OPERATIONS } from '../../src/orchestrator/root/v1/routes.ts'
import { mesh, sla } from './mesh.ts'
import { ask, send } from './v1.ts'
import { until } from '../support/until.ts'

const CART = 'shop.acme.cart.prod'

t.test('the lists say what `hedgerow get` shows, page by page and filtered, as the document says', async (t) => {
  await using world = await mesh({ clusters: ['edge', 'west'] })
  await world.node('n1', {
    coordinate: { at: [1, 2, 3], height: 1, error: 0.5 },
  })
  await world.node('n2')
  await world.node('w1', { cluster: 'west' })
  await world.api.call('POST', '/apps', sla({ microservice_name: 'cart', replicas: 3 }, { microservice_name: 'till' }))
  await world.running(4)

  for (const kind of ['apps', 'services', 'instances', 'nodes', 'clusters', 'relays', 'runs']) {
    const { status, body } = await ask(world, `/v1/${kind}`)
    t.equal(status, 200, kind)
    const before = await world.api.call<{ id?: string; name?: string }[]>('GET', `/${kind}`)
    const ids = (rows: readonly { id?: string; name?: string }[]) => rows.map(({ id, name }) => id ?? name)
    t.same(ids(body.items), ids(before), `${kind} as before`)
  }
  const usage = await ask(world, '/v1/instances?usage=true&limit=1')
  t.match(usage.body.items[0], { state: 'running', usage: { cpu: 0.5 } })

  const links = await ask(world, '/v1/links?path=relayed&name=edge/n1&limit=1')
  t.match(links.body.items, [{ from: 'edge/n1', to: 'edge/n1-peer', path: 'relayed', rttMs: 12, bytesIn: 10 }])
  t.same((await ask(world, '/v1/links?path=direct')).body.items, [])

  // page by page
  const seen: string[] = []
  for (let cursor = ''; ; ) {
    const { body } = await ask(world, `/v1/instances?limit=1${cursor}`)
    seen.push(...body.items.map(({ id }: { id: string }) => id))
    if (body.next === undefined) break
    cursor = `&cursor=${body.next}`
  }
  t.same(seen, [`${CART}.0`, `${CART}.1`, `${CART}.2`, 'shop.acme.till.prod.0'])

  // filtered
  const only = async (path: string) => (await ask(world, path)).body.items.length as number
  t.equal(await only(`/v1/instances?service=${CART}`), 3)
  t.equal(await only('/v1/instances?state=lost'), 0)
  t.equal(await only('/v1/instances?name=shop.acme.till'), 1)
  t.equal(await only('/v1/nodes?cluster=west'), 1)
  t.equal(await only('/v1/clusters?condition=away'), 0)
  t.equal(await only('/v1/services?name=shop.acme.c'), 1)

  // one
  t.match(await ask(world, `/v1/services/${CART}`), {
    status: 200,
    body: { id: CART, replicas: 3, spec: { replicas: 3 } },
  })
  t.match(await ask(world, `/v1/instances/${CART}.0`), { status: 200, body: { id: `${CART}.0` } })
  t.match(await ask(world, '/v1/nodes/west/w1'), { status: 200, body: { id: 'west/w1', condition: 'alive' } })
  t.match(await ask(world, '/v1/status'), { status: 200, body: { services: 2, instances: { running: 4 } } })

  // events: the newest first, and on from there
  const newest = (await ask(world, '/v1/events?limit=2')).body
  const older = (await ask(world, `/v1/events?limit=2&cursor=${newest.next}`)).body
  const numbers = [...newest.items, ...older.items].map(({ number }: { number: number }) => number)
  t.same(
    numbers,
    numbers.toSorted((a, b) => b - a),
  )
  t.equal(new Set(numbers).size, 4)
  t.equal((await ask(world, `/v1/events?name=${CART}&what=applied`)).body.items.length, 1)

  // a cluster that is away
  await world.stopCluster('west')
  await until(async () => (await only('/v1/nodes?condition=away')) === 1, 'its node is away')
  t.equal(await only('/v1/clusters?condition=away'), 1)
})

t.test('what is refused is a problem as in RFC 9457, whoever refuses it', async (t) => {
  await using world = await mesh({ clusters: [] })
  const rows: [path: string, status: number, code: string, asked?: object][] = [
    ['/v1/services/nobody', 404, 'SERVICE_UNKNOWN'],
    ['/v1/instances/nobody', 404, 'INSTANCE_UNKNOWN'],
    ['/v1/nodes/edge/nobody', 404, 'NODE_UNKNOWN'],
    ['/v1/nothing', 404, 'ROUTE_UNKNOWN'],
    ['/v1', 404, 'ROUTE_UNKNOWN'],
    ['/v1/services?limit=0', 400, 'MESSAGE_INVALID'],
    ['/v1/services?limit=1e2', 400, 'MESSAGE_INVALID'],
    ['/v1/services?limt=1', 400, 'MESSAGE_INVALID'],
    ['/v1/services?limit=1&limit=2', 400, 'MESSAGE_INVALID'],
    ['/v1/services?cursor=!', 400, 'MESSAGE_INVALID'],
    ['/v1/services?cursor=', 400, 'MESSAGE_INVALID'],
    ['/v1/events?cursor=YQ', 400, 'MESSAGE_INVALID'],
    ['/v1/instances?usage=yes', 400, 'MESSAGE_INVALID'],
    [`/v1/services/${'x'.repeat(500)}`, 400, 'MESSAGE_INVALID'],
    ['/v1/services', 405, 'METHOD_REFUSED', { method: 'QUERY' }],
    ['/v1/services/%zz', 400, 'MESSAGE_INVALID'],
    ['/v1/services', 405, 'METHOD_REFUSED', { method: 'DELETE' }],
    ['/v1/services', 401, 'UNAUTHENTICATED', { token: 'hedgerow-admin.wrong' }],
    ['/v1/nothing', 401, 'UNAUTHENTICATED', { token: '' }],
    ['/v1/services', 431, 'MESSAGE_INVALID', { headers: { 'x-long': 'x'.repeat(20_000) } }],
  ]
  for (const [path, status, code, asked = {}] of rows) {
    const answer = await ask(world, path, asked)
    t.match(answer, { status, headers: { 'content-type': 'application/problem+json' } }, `${status} ${path}`)
    t.match(answer.body, { status, code, type: `urn:hedgerow:error:${code}`, title: /./, detail: /./ })
  }
  for (const { method, path } of OPERATIONS.filter(({ needs }) => needs !== 'open')) {
    const asked = { method: method.toUpperCase(), token: 'wrong' }
    t.equal(
      (await ask(world, `/v1${path.replaceAll(/[{}]/g, '')}`, asked)).status,
      401,
      `${method} ${path} needs a token`,
    )
  }
  t.equal((await ask(world, '/v1/services', { method: 'DELETE' })).headers['allow'], 'GET, HEAD')
  t.equal((await ask(world, '/v1/services', { token: '' })).headers['www-authenticate'], 'Bearer')
})

t.test('the typed client asks as the document says', async (t) => {
  await using world = await mesh({ clusters: [] })
  await world.api.ask('POST', '/v1/apps', { body: sla({ microservice_name: 'cart', replicas: 0 }) })
  const { items } = await world.api.ask('GET', '/v1/services', { query: { limit: 1, name: 'shop' } })
  t.same(
    items.map(({ id, replicas }) => [id, replicas]),
    [[CART, 0]],
  )
  const { spec } = await world.api.ask('GET', '/v1/services/{name}', { path: { name: CART } })
  t.match(spec, { runtime: 'process' })
  const missing = world.api.ask('GET', '/v1/services/{name}', { path: { name: 'a/b' } })
  await t.rejects(missing, { code: 'SERVICE_UNKNOWN', details: { service: 'a/b' } })
  // @ts-expect-error -- there is no such filter
  await t.rejects(world.api.ask('GET', '/v1/services', { query: { nothing: 'x' } }), { code: 'USAGE' })
  const types = readFileSync(new URL('../../src/client/api-types.ts', import.meta.url), 'utf8')
  t.ok(types.includes(hashOfDocument()), 'its types are those of the document: run .config/docs/api-types.ts')
})

t.test('without credentials every call that is not for everybody is refused', async (t) => {
  await using world = await mesh({ clusters: [] })
  for (const { method, path, needs } of OPERATIONS) {
    if (needs === 'open') continue
    const asked = { method: method.toUpperCase(), headers: { authorization: '' } }
    t.equal((await send(world, `/v1${path.replace(/\{\w+\}/g, 'x')}`, asked)).status, 401, `${method} ${path}`)
  }
})
