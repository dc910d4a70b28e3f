import t from 'tap'
import { startCycles } from '../../src/orchestrator/root/start-cycles.ts'
import { whyWaiting } from '../../src/orchestrator/root/start-order.ts'
import type { InstanceRecord, RootStore, ServiceRecord } from '../../src/orchestrator/root/root-store.ts'
import { parseSla } from '../../src/orchestrator/sla/parse.ts'
import { cycleIn } from '../../src/orchestrator/sla/start-order.ts'
import { mesh, sla, type World } from './mesh.ts'
import { until } from '../support/until.ts'

/* Services that start in the order of their connectivity. */

t.setTimeout(280_000)

/** Each calls those after its name, and starts after them. */
function appOf(calls: Record<string, string[]>, more: Record<string, object> = {}) {
  const microservices = Object.entries(calls).map(([name, connectivity]) => ({
    microservice_name: name,
    microservice_namespace: 'prod',
    cmd: ['true'],
    connectivity,
    ...more[name],
  }))
  return { application_name: 'shop', application_namespace: 'acme', start_after_connectivity: true, microservices }
}

function servicesOf(...document: Parameters<typeof appOf>) {
  const parsed = parseSla(appOf(...document))
  if (parsed.kind === 'refused') throw new Error(JSON.stringify(parsed.faults))
  return parsed.apps.flatMap(({ services }) => services)
}

t.test('a circle is refused, with the whole of it', async (t) => {
  const rows: { calls: Record<string, string[]>; path?: string; more?: Record<string, object>; why: string }[] = [
    { why: 'a chain', calls: { a: ['b'], b: ['c'], c: [] } },
    { why: 'a diamond', calls: { a: ['b', 'c'], b: ['d'], c: ['d'], d: [] } },
    { why: 'its own other instances', calls: { a: ['a'] } },
    { why: 'two', calls: { a: ['b'], b: ['a'] }, path: 'shop.acme.a.prod → shop.acme.b.prod → shop.acme.a.prod' },
    {
      why: 'behind others',
      calls: { x: ['a'], a: ['b'], b: ['c'], c: ['b'] },
      path: 'shop.acme.b.prod → shop.acme.c.prod → shop.acme.b.prod',
    },
    {
      why: 'one of them does not wait',
      calls: { a: ['b'], b: ['a'] },
      more: { b: { start_after_connectivity: false } },
    },
    { why: 'a service of another app is not waited for', calls: { a: ['other.acme.a'], b: ['a'] } },
  ]
  for (const { why, calls, path, more } of rows) {
    const parsed = parseSla(appOf(calls, more))
    if (path === undefined) t.equal(parsed.kind, 'accepted', why)
    else if (parsed.kind === 'refused')
      t.match(parsed.faults, [{ path: /^microservices\[\d\]\.connectivity\[0\]$/, problem: `for ever: ${path}` }], why)
    else t.fail(why)
  }
})

t.test('a chain as long as a document is no problem', async (t) => {
  const service = (i: number) => ({
    id: `shop.acme.s${i}.prod`,
    app: 'shop',
    appNamespace: 'acme',
    connectivity: [`shop.acme.s${i + 1}`],
    startsAfterConnectivity: true as const,
  })
  const chain = Array.from({ length: 20_000 }, (_, i) => service(i))
  t.equal(cycleIn(chain), undefined)
  t.equal(cycleIn([...chain, { ...service(20_000), connectivity: ['shop.acme.s0'] }])?.length, 20_001)
})

t.test('a circle over what was applied before is a conflict', async (t) => {
  const [a] = servicesOf({ a: ['b'] })
  const [b] = servicesOf({ b: ['a'] })
  const store = { servicesOf: () => [{ id: a?.id, spec: a }] } as unknown as RootStore
  const apps = [{ app: 'shop', namespace: 'acme', description: '', services: b === undefined ? [] : [b] }]
  t.match(startCycles(apps, { store, prune: false }), [
    { problem: /shop\.acme\.b\.prod → shop\.acme\.a\.prod → shop\.acme\.b\.prod$/ },
  ])
  t.same(startCycles(apps, { store, prune: true }), [], 'the other one is removed')
})

t.test('for what the first instances wait', async (t) => {
  const [web, db, job, none] = servicesOf(
    { web: ['db', 'job', 'gone'], db: [], job: [], none: ['db'] },
    {
      db: { replicas: 2 },
      job: { one_shot: true },
      web: { one_shot: false },
      none: { start_after_connectivity: false },
    },
  ).map((spec): ServiceRecord => ({ id: spec.id, spec, generation: 1, version: 1 })) as [
    ServiceRecord,
    ServiceRecord,
    ServiceRecord,
    ServiceRecord,
  ]
  const is = (of: ServiceRecord, state: InstanceRecord['state'], more: Partial<InstanceRecord> = {}) =>
    ({ id: `${of.id}.0`, service: of.id, ordinal: 0, wanted: true, generation: 1, state, ...more }) as InstanceRecord
  const gone: ServiceRecord = { ...db, id: 'shop.acme.gone.prod', spec: { ...db.spec, replicas: 0 } }
  const ready = [is(db, 'running'), is(job, 'stopped')]
  const rows = [
    {
      why: 'what does not exist',
      services: [db, job],
      are: ready,
      text: 'waits for shop.acme.gone, which does not exist',
    },
    {
      why: 'each that is not ready',
      services: [db, job, gone],
      are: [is(db, 'starting', { detail: 'exited with code 1' }), is(job, 'running')],
      text: 'waits for shop.acme.db.prod, which is starting: exited with code 1; for shop.acme.job.prod, which has not ended; for shop.acme.gone.prod, which has no replicas',
    },
    {
      why: 'a job that has failed',
      services: [db, job],
      are: [is(db, 'running'), is(job, 'failed', { detail: 'exited with code 2' })],
      text: /job\.prod, which is failed: exited with code 2/,
    },
    {
      why: 'one of two that answers is enough',
      services: [db, job],
      are: [...ready, is(db, 'lost')],
      text: /^waits for shop.acme.gone,/,
    },
  ]
  for (const { why, services, are, text } of rows) {
    const store = {
      services: {
        get: (id: string) => services.find((each) => each.id === id),
        list: (prefix: string) => services.filter(({ id }) => id.startsWith(prefix)),
      },
      instancesOf: (id: string) => are.filter(({ service }) => service === id),
    } as unknown as RootStore
    t.match(whyWaiting(web, [is(web, 'requested', { generation: 0 })], store), text, why)
    t.equal(whyWaiting(web, [is(web, 'lost')], store), undefined, 'once it was placed, it does not wait')
    t.equal(whyWaiting(none, [is(none, 'requested', { generation: 0 })], store), undefined, 'nobody asked for it')
  }
})

interface Row {
  id: string
  running: number
  detail?: string
}
const rowOf = async (world: World, id: string) =>
  (await world.api.call<Row[]>('GET', '/services')).find((row) => row.id === id)

t.test('a service starts when those that it calls are ready, says so until then, and heals without them', async (t) => {
  await using world = await mesh()
  const node = await world.node('n1')
  node.isHolding = true
  const [DB, WEB] = ['shop.acme.db.prod', 'shop.acme.web.prod']
  const web = { microservice_name: 'web', connectivity: ['db'], start_after_connectivity: true }
  await world.api.call('POST', '/apps', sla(web, { microservice_name: 'db' }))
  await until(async () => /db\.prod, which is starting/.test((await rowOf(world, WEB))?.detail ?? ''), 'it waits')
  t.match(await rowOf(world, WEB), { detail: `1 requested: waits for ${DB}, which is starting` })
  t.match(await world.api.call('GET', `/services/${WEB}/explain`), { detail: /^waits for shop\.acme\.db\.prod/ })
  await world.stopRoot() // it still waits afterwards
  await world.startRoot()
  await until(() => world.cluster().isLinked, 'the root is back')
  t.notOk(node.has.has(`${WEB}.0`))

  node.say(`${DB}.0`, 'running')
  await until(() => node.has.has(`${WEB}.0`), 'it starts once the other is ready')
  node.say(`${WEB}.0`, 'running')
  await world.running(2)
  t.equal((await rowOf(world, WEB))?.detail, undefined)
  const told = await world.api.call<{ what: string; why?: string }[]>('GET', `/events?name=${WEB}`)
  t.match(
    told.filter(({ what }) => what === 'waiting'),
    [{ why: `waits for ${DB}, which is requested` }],
    'told once',
  )

  node.say(`${DB}.0`, 'starting', 'its check fails')
  await until(async () => (await rowOf(world, DB))?.running === 0, 'the other is down')
  await world.api.call('POST', `/services/${WEB}/scale`, { replicas: 2 })
  await until(() => node.has.has(`${WEB}.1`), 'one more does not wait')
})
