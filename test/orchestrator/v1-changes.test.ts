import t from 'tap'
import { MeshError } from '../../src/core/errors.ts'
import type { KeptAnswer } from '../../src/orchestrator/root/v1/repeats.ts'
import { hashOfRequest, Repeats } from '../../src/orchestrator/root/v1/repeats.ts'
import { RequestRate } from '../../src/orchestrator/root/v1/request-rate.ts'
import { mesh, sla } from './mesh.ts'
import { ask, send } from './v1.ts'
import { until } from '../support/until.ts'

const CART = 'shop.acme.cart.prod'

t.test('what runs is changed by the API, each answer as the document says', async (t) => {
  await using world = await mesh()
  await world.node('n1')
  const post = (path: string, body?: unknown, headers = {}) => ask(world, path, { method: 'POST', body, headers })
  const document = sla({ microservice_name: 'cart', replicas: 2 })
  const dry = await post('/v1/apps?dryRun=true', document)
  t.match(dry.body, { dryRun: true, services: [{ id: CART, change: 'created', instances: { added: 2 } }] })
  t.equal((await ask(world, '/v1/services')).body.items.length, 0, 'nothing was changed')
  t.match((await post('/v1/apps', document)).body, { apps: ['shop.acme'], services: [{ id: CART, change: 'created' }] })
  await world.running(2)

  // a change is for what was read
  const scale = (replicas: number, headers = {}) =>
    ask(world, `/v1/services/${CART}`, { method: 'PATCH', body: { replicas }, headers })
  const { etag = '' } = (await ask(world, `/v1/services/${CART}`)).headers
  const scaled = await scale(1, { 'if-match': etag })
  t.match(scaled, { status: 200, body: { replicas: 1 } })
  t.not(scaled.headers.etag, etag)
  t.match(await scale(3, { 'if-match': etag }), { status: 412, body: { code: 'PRECONDITION_FAILED' } })
  t.equal((await scale(1, { 'if-match': `"other", ${scaled.headers.etag}` })).status, 200, 'one of several')
  t.equal((await scale(1, { 'if-match': '*' })).status, 200)
  await world.running(1)

  // revisions, and back
  await post('/v1/apps', sla({ microservice_name: 'cart', cmd: ['sleep', '2'] }))
  t.equal((await ask(world, `/v1/services/${CART}/revisions`)).body.items.length, 2)
  t.match((await post(`/v1/services/${CART}/rollback`)).body, { id: CART, revision: 1 })
  t.equal((await post(`/v1/services/${CART}/rollback`, { to: 77 })).status, 404)
  t.equal((await post(`/v1/services/${CART}/run`)).status, 400, 'it is no job')
  const { generation } = (await ask(world, `/v1/services/${CART}`)).body
  await until(async () => {
    const [only] = await world.running(1)
    return only !== undefined && only.generation === generation && !('successor' in only)
  }, 'the roll-out has ended')

  // why, what it wrote, elsewhere
  t.match((await ask(world, `/v1/services/${CART}/explain?most=1`)).body, { service: CART })
  t.match((await ask(world, `/v1/instances/${CART}.0/explain?anew=true`)).body, { instance: `${CART}.0` })
  t.match((await ask(world, `/v1/instances/${CART}.0/logs?tail=1`)).body, /line 1/)
  await world.node('n2')
  t.match(await post(`/v1/instances/${CART}.0/migrate`, { to: 'edge/n2' }), { status: 200, body: { node: 'edge/n2' } })
  await until(async () => (await world.running(1))[0]?.node === 'edge/n2', 'it runs there')
  t.match(await post(`/v1/instances/${CART}.0/migrate`, { to: 'edge/n2' }), {
    status: 409,
    body: { code: 'UNPLACEABLE' },
  })
  t.match(await post(`/v1/instances/${CART}.0/restart`), { status: 200, body: { node: 'edge/n2' } })

  // nodes: a change is seen in the next list, however soon it is asked for
  t.match((await ask(world, '/v1/nodes?name=edge/n1')).body.items, [{ id: 'edge/n1' }])
  t.same((await post('/v1/nodes/edge/n1/cordon', { reason: 'a new disk' })).body, { changed: true })
  t.match((await ask(world, '/v1/nodes?name=edge/n1')).body.items[0], { cordon: { reason: 'a new disk' } })
  t.same((await post('/v1/nodes/edge/n1/uncordon')).body, { changed: true })
  t.notOk((await ask(world, '/v1/nodes/edge/n1')).body.cordon)
  t.match((await post('/v1/nodes/edge/n1/drain', {})).body, { isDraining: true, left: [] })
  t.match((await ask(world, '/v1/nodes/edge/n1/drain')).body, { isDraining: true })
  const remove = (path: string, headers = {}) => ask(world, path, { method: 'DELETE', headers })
  t.same((await remove('/v1/nodes/edge/n1')).body, { deleted: ['edge/n1'] })
  t.equal((await remove('/v1/relays/edge/none')).status, 404)
  t.equal((await remove('/v1/clusters/none')).status, 404)
  t.equal((await remove(`/v1/services/${CART}`, { 'if-match': etag })).status, 412)
  t.same((await remove('/v1/apps/shop.acme')).body, { deleted: [CART] })
})

t.test('a request with an idempotency key is made once, also over a restart of the root', async (t) => {
  await using world = await mesh({ clusters: [] })
  const post = (body: unknown) => ask(world, '/v1/apps', { method: 'POST', body, headers: { 'idempotency-key': 'k1' } })
  const document = sla({ microservice_name: 'cart', replicas: 0 })
  const first = await post(document)
  t.match(first.body.services, [{ change: 'created' }])
  await world.stopRoot()
  await world.startRoot()
  t.same((await post(document)).body, first.body, 'answered as the first time')
  t.match(await post(sla({ microservice_name: 'other' })), { status: 422, body: { code: 'KEY_REUSED' } })
  t.equal((await ask(world, '/v1/services')).body.items.length, 1)

  // what is refused on the way in, and how answers are known
  const rows: [status: number, asked: object][] = [
    [400, { body: '{"a":' }],
    [400, { body: '', headers: { 'content-type': 'application/json' } }],
    [415, { body: 'a: 1', headers: { 'content-type': 'application/yaml' } }],
    [413, { body: '{}', headers: { 'content-length': '99999999' } }],
    [422, { body: { sla_version: 'v1' } }],
    [422, { body: '{"a":1,"a":2}' }],
    [400, { body: document, headers: { 'idempotency-key': 'a b' } }],
  ]
  for (const [status, asked] of rows) {
    const answer = await ask(world, '/v1/apps', { method: 'POST', ...asked })
    t.match(answer, {
      status,
      headers: { 'content-type': 'application/problem+json', 'x-request-id': /^[0-9a-f]{16}$/ },
    })
    t.equal(answer.body.requestId, answer.headers['x-request-id'])
  }
  const scaled = { method: 'PATCH', body: { replicas: 0, more: 1 } }
  t.match((await ask(world, `/v1/services/${CART}`, scaled)).body, { status: 400 })
  const old = await send(world, '/api/v1/services', {})
  t.match(old.headers, { deprecation: /^@\d+$/, link: /v1\/openapi.json/ })
})

t.test('answers are kept by their key, a day, and not without bound', (t) => {
  const kept = new Map<string, KeptAnswer>()
  let now = 1e12
  const collection = {
    get: (key: string) => kept.get(key),
    put: (key: string, value: KeptAnswer) => void kept.set(key, value),
    delete: (key: string) => kept.delete(key),
    keys: () => [...kept.keys()],
  }
  const repeats = new Repeats(collection as never, () => now)
  const codeOf = (work: () => unknown) => {
    try {
      return work()
    } catch (error) {
      return (error as MeshError).code
    }
  }
  t.equal(repeats.begin('a', '1'), undefined)
  t.equal(
    codeOf(() => repeats.begin('a', '1')),
    'KEY_PENDING',
  )
  repeats.drop('a')
  t.equal(repeats.begin('a', '1'), undefined, 'what was refused is tried again')
  repeats.keep('a', { hash: '1', status: 200, body: '{}' })
  t.match(repeats.begin('a', '1'), { body: '{}' })
  t.equal(
    codeOf(() => repeats.begin('a', '2')),
    'KEY_REUSED',
  )
  now += 25 * 3_600_000
  t.equal(repeats.begin('a', '2'), undefined, 'forgotten')
  for (let i = 0; i < 1_500; i++) {
    now++
    repeats.keep(`k${i}`, { hash: '1', status: 200, body: '{}' })
  }
  t.ok(kept.size <= 1_000 && kept.has('k1499') && !kept.has('k0'), 'the oldest go')
  repeats.keep('long', { hash: '1', status: 200, body: 'x'.repeat(1e6) })
  t.notOk(kept.has('long'))
  t.not(hashOfRequest('POST', '/a', { body: 1, bytes: 1 }), hashOfRequest('POST', '/a', { body: 2, bytes: 1 }))
  t.end()
})

t.test('a caller makes so many requests and no more, and takes nothing from others', (t) => {
  let now = 0
  const rate = new RequestRate(() => now)
  const takes = (caller: string, count: number) => {
    let taken = 0
    for (let i = 0; i < count; i++) {
      try {
        rate.take(caller)
        taken++
      } catch (error) {
        t.match(error, { code: 'RATE_LIMITED', details: { seconds: 1 } })
        break
      }
    }
    return taken
  }
  t.equal(takes('a', 1_000), 400)
  t.equal(takes('b', 10), 10)
  now += 1_000
  t.equal(takes('a', 1_000), 200)
  t.end()
})
