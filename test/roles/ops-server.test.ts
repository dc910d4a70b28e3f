import t from 'tap'
import { background } from '../../src/core/kit/background.ts'
import { silentLog } from '../../src/core/kit/log.ts'
import { openMetrics } from '../../src/core/metrics.ts'
import { Ops } from '../../src/roles/ops-server.ts'

const parts = { resolver: true, uplink: false }
const ops = await Ops.start({ host: '127.0.0.1', port: 0, metrics: openMetrics('agent'), ready: () => parts })
t.teardown(() => ops[Symbol.asyncDispose]())
const ask = (path: string, init: RequestInit = {}) => fetch(`${ops.address}${path}`, init)

t.test('liveness and readiness', async (t) => {
  const alive = await ask('/healthz')
  t.same([alive.status, await alive.text()], [200, 'ok\n'])
  const unready = await ask('/readyz')
  t.same([unready.status, await unready.json()], [503, { ready: false, resolver: true, uplink: false }])
  parts.uplink = true
  t.equal((await ask('/readyz')).status, 200)
  t.equal(alive.headers.get('cache-control'), 'no-store')
})

t.test('what is closed listens no more', async (t) => {
  const role = await Ops.start({ host: '127.0.0.1', port: 0, metrics: openMetrics('cluster'), ready: () => parts })
  t.equal((await fetch(`${role.address}/healthz`)).status, 200)
  await role[Symbol.asyncDispose]()
  await t.rejects(fetch(`${role.address}/healthz`), { cause: { code: 'ECONNREFUSED' } })
})

t.test('the listener of a role is also shown under its name of an earlier version', async (t) => {
  const ready = () => ({ store: true, listener: false })
  await using role = await Ops.start({ host: '127.0.0.1', port: 0, metrics: openMetrics('cluster'), ready })
  const answer = await fetch(`${role.address}/readyz`)
  t.same(await answer.json(), { ready: false, store: true, listener: false, door: false })
})

t.test('metrics, in the format that the client asks for', async (t) => {
  const prometheus = await ask('/metrics')
  t.match(prometheus.headers.get('content-type'), 'text/plain; version=0.0.4')
  t.notMatch(await prometheus.text(), '# EOF')
  const [open, plain] = await Promise.all([
    ask('/metrics', { headers: { accept: 'application/openmetrics-text; version=1.0.0' } }),
    ask('/metrics'),
  ])
  t.match(open.headers.get('content-type'), 'application/openmetrics-text')
  t.match(await open.text(), /# EOF\n$/)
  t.notMatch(await plain.text(), '# EOF', 'two clients at once each get their own format')
  const again = await (await ask('/metrics')).text()
  t.match(
    again,
    /^# TYPE hedgerow_link_messages_total counter$/m,
    'counters keep their names when OpenMetrics was read',
  )
})

t.test('HEAD, OPTIONS, other methods and other paths', async (t) => {
  const head = await ask('/healthz', { method: 'HEAD' })
  t.same([head.status, await head.text()], [200, ''])
  const options = await ask('/metrics', { method: 'OPTIONS' })
  t.same([options.status, options.headers.get('allow')], [204, 'GET, HEAD, OPTIONS'])
  const post = await ask('/readyz', { method: 'POST' })
  t.same([post.status, post.headers.get('allow')], [405, 'GET, HEAD, OPTIONS'])
  const missing = await ask('/nothing')
  t.same([missing.status, await missing.text()], [404, 'not found; there are /healthz, /readyz, /metrics\n'])
  t.equal((await ask('/healthz?verbose')).status, 200)
})

t.test('a request that brings something along is answered, and its connection ends', async (t) => {
  const posted = await ask('/readyz', { method: 'POST', body: 'x'.repeat(100_000) })
  t.same([posted.status, posted.headers.get('connection')], [405, 'close'])
})

t.test('what fails is answered with 500, and told', async (t) => {
  const ready = (): never => {
    throw new Error('broken')
  }
  await using role = await Ops.start({ host: '127.0.0.1', port: 0, metrics: openMetrics('agent'), ready })
  const told: unknown[] = []
  const untold = background.logTo({
    ...silentLog,
    error: (_sentence, { task, error } = {}) => void told.push([task, error]),
  })
  t.equal((await fetch(`${role.address}/readyz`)).status, 500)
  untold()
  t.match(told, [['health and metrics', { message: 'broken' }]])
})
