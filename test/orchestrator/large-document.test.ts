import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { systemClock } from '../../src/core/kit/clock.ts'
import { AT_ONCE, LargeSubmissions } from '../../src/orchestrator/root/large-submission.ts'
import { RootStore } from '../../src/orchestrator/root/root-store.ts'
import { Vips } from '../../src/orchestrator/root/vips.ts'
import { parseSla, parseSlaInSlices } from '../../src/orchestrator/sla/parse.ts'
import { parseJsonInSlices } from '../../src/orchestrator/sla/json-slices.ts'
import { mesh, sla } from './mesh.ts'
import '../support/no-orphans.ts'

/* Documents of hundreds and thousands of services: in slices, and as a whole or not at all. */

const SERVICES = 3 * AT_ONCE + 20
const named = (i: number, more: Record<string, unknown> = {}) => ({ microservice_name: `s${i}`, replicas: 0, ...more })
const document = (count = SERVICES, more: (i: number) => Record<string, unknown> = () => ({})) =>
  sla(...Array.from({ length: count }, (_, i) => named(i, more(i))))

const place = mkdtempSync(join(tmpdir(), 'hedgerow-large-'))
t.teardown(() => rmSync(place, { recursive: true, force: true }))
let roots = 0

/** A root's store, and what applies to it. */
function opened(dir = join(place, `root${++roots}`)) {
  const store = RootStore.open(dir)
  const vips = new Vips(store.vips, 3_600_000, systemClock)
  const parts = { store, vips, clock: systemClock }
  return { ...parts, dir, large: new LargeSubmissions(parts), [Symbol.dispose]: () => store[Symbol.dispose]() }
}

function submissionOf(source: object, prune = false) {
  const parsed = parseSla(source)
  if (parsed.kind === 'refused') throw new Error(JSON.stringify(parsed.faults))
  return { apps: parsed.apps, customer: parsed.customer, prune }
}

const names = (store: RootStore) => new Set(store.services.list().map(({ spec }) => spec.name))

t.test('a large document is applied by the API, again, and with --prune', async (t) => {
  await using world = await mesh({ clusters: [] })
  type Applied = { services: { id: string; change: string }[] }
  const apply = async (source: object, query = '') => {
    const { services } = await world.api.call<Applied>('POST', `/apps${query}`, source)
    return Object.fromEntries(
      Map.groupBy(services, ({ change }) => change)
        .entries()
        .map(([k, v]) => [k, v.length]),
    )
  }
  t.same(await apply(document()), { created: SERVICES })
  t.equal((await world.api.call<unknown[]>('GET', '/services')).length, SERVICES)
  t.same(await apply(document()), { unchanged: SERVICES })
  t.same(await apply(document(SERVICES - 150), '?prune=true'), { unchanged: SERVICES - 150, removed: 150 })
  t.equal((await world.api.call<unknown[]>('GET', '/services')).length, SERVICES - 150)
  t.same(await apply(document(SERVICES, (i) => (i === 5 ? { memory: 7 } : {}))), {
    created: 150,
    updated: 1,
    unchanged: SERVICES - 151,
  })
})

t.test('what else changes waits until the document is applied', async (t) => {
  await using world = await mesh({ clusters: [] })
  const applied = world.api.call('POST', '/apps', document())
  const deleted = world.api.call('DELETE', '/apps/shop.acme').then(
    () => 'deleted',
    () => 'not there yet',
  )
  await applied
  const services = await world.api.call<unknown[]>('GET', '/services')
  if ((await deleted) === 'deleted') t.equal(services.length, 0, 'all of it was there to be deleted')
  else t.equal(services.length, SERVICES, 'nothing of it was there')
})

t.test(
  'a root that ends in the middle goes on; one that had not accepted the document has nothing of it',
  async (t) => {
    const dir = join(place, 'ended')
    {
      using root = opened(dir)
      const applying = root.large.apply(submissionOf(document()))
      while (root.store.services.keys().length === 0) await new Promise((resolve) => void setImmediate(resolve))
      await Promise.all([root.large.close(), t.rejects(applying, { code: 'NOT_RUNNING' })])
      const some = root.store.services.keys().length
      t.ok(some > 0 && some < SERVICES, `it ended in the middle: ${some}`)
    }
    {
      using root = opened(dir)
      const changes = await root.large.resume()
      t.equal(root.store.services.keys().length, SERVICES)
      t.ok(changes.length < SERVICES, 'what was applied before is not applied again')
      t.same(await root.large.resume(), [], 'once')
    }
    using root = opened()
    root.store.database.collection('large-document').put('000000', submissionOf(document(1)).apps[0]?.services[0])
    t.same(await root.large.resume(), [])
    t.equal(root.store.services.keys().length, 0)
    t.same(root.store.database.collection('large-document').keys(), [], 'nothing is left of it')
  },
)

t.test('the end of a large app goes on after a root that ends in the middle', async (t) => {
  const dir = join(place, 'deleted')
  {
    using root = opened(dir)
    await root.large.apply(submissionOf(document()))
    const app = root.store.apps.get('shop.acme')
    if (app === undefined) throw new Error('the app is not there')
    const removing = root.large.remove(app)
    while (root.store.services.keys().length === SERVICES) await new Promise((resolve) => void setImmediate(resolve))
    await Promise.all([root.large.close(), t.rejects(removing, { code: 'NOT_RUNNING' })])
    t.ok(root.store.services.keys().length > 0, 'it ended in the middle')
    t.ok(root.store.apps.get('shop.acme'), 'the app goes last')
  }
  using root = opened(dir)
  t.ok((await root.large.resume()).every(({ kind }) => kind === 'removed'))
  t.same([root.store.services.keys(), root.store.apps.keys(), root.store.revisions.keys()], [[], [], []])
  t.same(await root.large.resume(), [], 'once')
})

t.test('addresses: a conflict refuses all of it; one may go from a service to another of the document', async (t) => {
  using root = opened()
  const at = (place: number) => document(SERVICES, (i) => (i === place ? { addresses: { rr_ip: '10.30.31.30' } } : {}))
  await root.large.apply(submissionOf(at(310)))
  const of = (i: number) => root.vips.of(`shop.acme.s${i}.prod`).get('any.rr')
  const index = of(310)
  await root.large.apply(submissionOf(at(7)))
  t.equal(of(7), index, 'from the last slice to the first')
  t.not(of(310), index)
  await root.large.apply(submissionOf(at(310)))
  t.equal(of(310), index, 'and back')
  const before = names(root.store)
  const foreign = sla(...Array.from({ length: SERVICES }, (_, i) => named(i, { microservice_name: `other${i}` })))
  const asks = structuredClone(foreign)
  Object.assign(asks.applications[0] as object, { application_name: 'bar' })
  Object.assign(asks.applications[0]?.microservices[300] as object, { addresses: { rr_ip: '10.30.31.30' } })
  await t.rejects(root.large.apply(submissionOf(asks)), { code: 'SLA_CONFLICT' })
  t.same(names(root.store), before, 'nothing has changed')
})

t.test('in slices a document means the same', async (t) => {
  const sources: object[] = [
    document(40),
    sla(named(1, { port: 'x' }), named(2, { connectivity: ['s1'] }), named(1)),
    { microservices: [{ microservice_name: 'a' }] },
    named(3, { microservice_namespace: 'p', cmd: ['true'] }),
    { applications: [] },
  ]
  for (const source of sources) t.same(await parseSlaInSlices(source), parseSla(source))
})

t.test('JSON in slices is what JSON.parse makes of it', async (t) => {
  const texts = [
    JSON.stringify(document(30)),
    JSON.stringify(document(3), undefined, 2),
    '{"microservices":[]}',
    '{"microservices":[ ]}',
    '{"microservices":[1,"]",{"a":[1,2]},[3,[4]],"\\"",null]}',
    '{"a":{"microservices":[{"microservices":[1,2]},2]},"microservices":[[1],[2]]}',
    '{"microservices":{"a":1},"b":["microservices",[1]]}',
    '[{"microservices":[1]},{"microservices":[2,3]}]',
    '"microservices"',
  ]
  for (const text of texts)
    t.same(
      await parseJsonInSlices(text, JSON.parse),
      { kind: 'read', value: JSON.parse(text) as unknown },
      text.slice(0, 60),
    )
})

t.test('a text that is no JSON is never read as some', async (t) => {
  const good = '{"applications":[{"microservices":[{"a":1},{"b":[2]}]}]}'
  let broken = 0
  for (let at = 0; at < good.length; at++) {
    for (const text of [
      good.slice(0, at),
      good.slice(0, at) + good.slice(at + 1),
      `${good.slice(0, at)},${good.slice(at)}`,
    ]) {
      if (isJson(text)) continue
      broken += 1
      const read = await parseJsonInSlices(text, JSON.parse).catch(() => undefined)
      if (read?.kind === 'read') t.fail(`${text} was read as ${JSON.stringify(read.value)}`)
    }
  }
  t.ok(broken > 100, `${broken} texts`)
})

t.test('a key that occurs twice is found', async (t) => {
  const text = '{"microservices":[{"a":1},{"b":1,"b":2}]}'
  t.match(await parseJsonInSlices(text, JSON.parse), { kind: 'ambiguous', duplicates: [{ key: 'b' }] })
})

function isJson(text: string): boolean {
  try {
    JSON.parse(text)
    return true
  } catch {
    return false
  }
}
