import { join } from 'node:path'
import t from 'tap'
import type { Assignment, LivenessSpec } from '../../src/orchestrator/spec.ts'
import { mesh, sla } from './mesh.ts'
import { assignmentOf } from './specs.ts'
import { nodeWith } from './worker-node.ts'
import { until } from '../support/until.ts'

/** What hangs is started again, then moved; what ends again and again waits longer each time, and says so. */

t.setTimeout(280_000) // a busy machine takes several times as long
const SERVICE = 'shop.acme.cart.prod'

const liveness = (more: Partial<LivenessSpec> = {}): LivenessSpec => ({
  kind: 'http',
  port: 80,
  path: '/healthz',
  initialDelayMs: 0,
  intervalMs: 30,
  timeoutMs: 1_000,
  failures: 3,
  ...more,
})

/** With a probe that is made more often than a document can ask for. */
const probed = (script: string, probe?: LivenessSpec): Assignment => {
  const check = { type: 'tcp', port: 80, interval_ms: 50, timeout_ms: 500 }
  const work = assignmentOf({ cmd: [process.execPath, '-e', script], port: 80, check })
  return probe === undefined ? work : { ...work, spec: { ...work.spec, liveness: probe } }
}

/** Is well until it is asked to hang; then its port still takes connections. */
const DEADLOCKED = `
  let isWell = true
  require('http').createServer((q, r) => {
    if (q.url === '/hang') isWell = false
    r.writeHead(isWell || q.url !== '/healthz' ? 200 : 503).end()
  }).listen(process.env.PORT, process.env.HOST)`
/** Answers until it is asked not to; then it closes its port and lives on. */
const CLOSING = `
  const server = require('http').createServer((q, r) => { r.end(); if (q.url === '/hang') server.close(), server.closeAllConnections() })
  server.listen(process.env.PORT, process.env.HOST); setInterval(() => {}, 1000)`

t.test('a program that fails its liveness probe is started again, although its port is open', async (t) => {
  await using here = await nodeWith()
  const work = probed(DEADLOCKED, liveness())
  here.worker.assign(work)
  const first = await here.becomes('running')
  const { port = 0 } = here.worker.endpointOf(work.instance, 80) ?? {}
  await fetch(`http://127.0.0.1:${port}/hang`)
  const again = await here.hears(({ state, restarts }) => state === 'running' && restarts === 1)
  t.not(again.pid, first.pid)
  t.ok(here.told.some(({ detail }) => detail === 'its liveness probe failed 3 times in a row: /healthz answered 503'))
})

t.test('a declared probe is instead of the rule for programs that close their port', async (t) => {
  await using here = await nodeWith({ timings: { hungMs: 20 } })
  const probe = liveness({ kind: 'tcp', failures: 10 })
  const work = probed(CLOSING, probe)
  here.worker.assign(work)
  await here.becomes('running')
  const { port = 0 } = here.worker.endpointOf(work.instance, 80) ?? {}
  await fetch(`http://127.0.0.1:${port}/hang`)
  await here.hears(({ restarts }) => restarts === 1)
  const reasons = here.told.flatMap(({ detail }) => detail ?? [])
  t.ok(reasons.some((reason) => reason.startsWith('its liveness probe failed 10 times in a row: connect ECONNREFUSED')))
  t.notOk(
    reasons.some((reason) => reason.startsWith('it has not answered for')),
    'which would have been sooner',
  )
})

t.test('a probe that another document brings holds for the program that runs', async (t) => {
  await using here = await nodeWith()
  const work = probed(DEADLOCKED)
  here.worker.assign(work)
  await here.becomes('running')
  const { port = 0 } = here.worker.endpointOf(work.instance, 80) ?? {}
  await fetch(`http://127.0.0.1:${port}/hang`)
  here.worker.assign({ ...work, revision: 1, spec: { ...work.spec, liveness: liveness() } })
  const { detail } = await here.hears(({ restarts }) => restarts === 1)
  t.match(detail, /^its liveness probe failed/)
})

t.test('one that keeps failing its probe fails after three restarts, so that its cluster moves it', async (t) => {
  await using here = await nodeWith()
  const probe = liveness({ path: '/nothing', failures: 2 })
  const serve = `require('http').createServer((q, r) => r.writeHead(404).end()).listen(process.env.PORT, process.env.HOST)`
  here.worker.assign(probed(serve, probe))
  const { detail, restarts } = await here.becomes('failed')
  t.equal(restarts, 3)
  t.match(detail, /^its liveness probe failed 2 times in a row: \/nothing answered 404, also after 3 restarts$/)
})

t.test('a program that ends again and again is started later each time, and its reports say when', async (t) => {
  const backoff = { firstMs: 1_000, limitMs: 60_000, random: () => 1 }
  await using here = await nodeWith({ timings: { backoff } })
  here.worker.assign(assignmentOf({ cmd: ['/bin/sh', '-c', 'exit 3'] }))
  const first = await here.hears(({ retryInMs }) => retryInMs !== undefined)
  t.match(first, { state: 'starting', restarts: 1, retryInMs: 1_000, detail: 'exited with code 3' })
  t.match(await here.hears(({ restarts }) => restarts === 1), { retryInMs: undefined }, 'it is started')
  const second = await here.hears(({ retryInMs }) => retryInMs !== undefined)
  t.match(second, { restarts: 2, retryInMs: 2_000 })
})

t.test('why it ended last is told until it is ready again', async (t) => {
  await using here = await nodeWith({ timings: { backoff: { firstMs: 20, limitMs: 20 } } })
  const flag = join(here.dir, 'flag')
  const check = { type: 'tcp', port: 80, interval_ms: 50, timeout_ms: 500 }
  const script = `[ -e ${flag} ] || { touch ${flag}; exit 3; }; exec sleep 100`
  here.worker.assign(assignmentOf({ cmd: ['/bin/sh', '-c', script], port: 80, check }))
  const told = await here.hears(({ detail = '' }) => detail.includes('before that'))
  t.match(told, { state: 'starting', detail: /^connect ECONNREFUSED .*; before that: exited with code 3$/ })
})

t.test('the root shows why what ends again and again does not run, and when it is tried next', async (t) => {
  await using world = await mesh()
  const n1 = await world.node('n1')
  await world.api.call('POST', '/apps', sla({ microservice_name: 'cart' }))
  await world.running(1)
  const told = {
    instance: `${SERVICE}.0`,
    generation: n1.has.get(`${SERVICE}.0`)?.generation ?? 0,
    restarts: 7,
  } as const
  n1.uplink.report({ ...told, state: 'starting', detail: 'exited with code 1', retryInMs: 12_000 })
  const rows = async (kind: string) => await world.api.call<Record<string, unknown>[]>('GET', `/${kind}`)
  await until(async () => (await rows('instances'))[0]?.['retryAt'] !== undefined, 'it waits')
  const [instance] = await rows('instances')
  t.match(instance, { state: 'starting', restarts: 7, detail: 'exited with code 1' })
  t.ok(Math.abs(Number(instance?.['retryAt']) - Date.now() - 12_000) < 11_000, 'by the clock of the root')
  t.match(await rows('services'), [{ detail: '1 starting: exited with code 1', retryAt: instance?.['retryAt'] }])
  n1.say(`${SERVICE}.0`, 'running')
  await world.running(1)
  t.equal((await rows('instances'))[0]?.['retryAt'], undefined)
  t.match(await rows('services'), [{ detail: undefined, retryAt: undefined }])

  n1.say(`${SERVICE}.0`, 'failed', 'it does not answer, also after 3 restarts')
  await until(
    async () => (await rows('instances'))[0]?.['retryAt'] !== undefined,
    'its cluster says when it tries again',
  )
  await world.running(1)
})
