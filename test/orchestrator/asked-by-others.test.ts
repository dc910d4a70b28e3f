import t from 'tap'
import { AssignmentIndex } from '../../src/orchestrator/cluster/assignment-index.ts'
import { assignmentOf } from '../../src/orchestrator/root/asking-services.ts'
import { RootStore, type ServiceRecord } from '../../src/orchestrator/root/root-store.ts'
import { targetsOf, withAskedBy } from '../../src/orchestrator/scheduling/asked-by-others.ts'
import type { ServiceSpec } from '../../src/orchestrator/spec.ts'
import { specOf } from './specs.ts'

/** What services of other documents ask of one: `shop.acme.db.prod`. */

const WEB = 'billing.acme.web.prod'
const named = (id: string, spec: ServiceSpec): ServiceSpec => {
  const [app = '', appNamespace = ''] = id.split('.')
  return { ...spec, id, app, appNamespace }
}
const apart = (service: string, over?: string) => ({ type: 'anti-affinity', service, ...(over ? { over } : {}) })
const near = (service: string, threshold: number) => ({ type: 'latency', service, threshold })
const db = (...constraints: object[]) => named('shop.acme.db.prod', specOf({ constraints }))
const web = (...constraints: object[]) => named(WEB, specOf({ constraints }))
const theirs = (...constraints: object[]) => named('other.corp.web.prod', specOf({ constraints }))
const allowing = (...allow: string[]) => ({ ...db(), allow })

t.test('what is asked of a service concerns it as well, if the one that asks may', async (t) => {
  const avoidsWeb = { type: 'anti-affinity', service: WEB, over: 'node' }
  const corp = { ...avoidsWeb, service: 'other.corp.web.prod' }
  const rows: {
    why: string
    spec: ServiceSpec
    others: ServiceSpec[]
    more?: object[]
    wishes?: object[]
  }[] = [
    { why: 'nobody asks', spec: db(), others: [web(apart('shop.acme.cart'))] },
    { why: 'it is avoided, by its id', spec: db(), others: [web(apart('shop.acme.db.prod'))], more: [avoidsWeb] },
    {
      why: 'by its name, over areas',
      spec: db(),
      others: [web(apart('shop.acme.db', 'area'))],
      more: [{ ...avoidsWeb, over: 'area' }],
    },
    {
      why: 'asked twice',
      spec: db(),
      others: [web(apart('shop.acme.db'), apart('shop.acme.db.prod'))],
      more: [avoidsWeb],
    },
    { why: 'it avoids the other already', spec: db(apart('billing.acme.web')), others: [web(apart('shop.acme.db'))] },
    {
      why: 'but over areas only',
      spec: db(apart('billing.acme.web', 'area')),
      others: [web(apart('shop.acme.db'))],
      more: [avoidsWeb],
    },
    { why: 'of another namespace', spec: db(), others: [theirs(apart('shop.acme.db'))] },
    { why: 'with *', spec: allowing('*'), others: [theirs(apart('shop.acme.db'))] },
    { why: 'allowed', spec: allowing('other.corp.web.prod'), others: [theirs(apart('shop.acme.db'))], more: [corp] },
    { why: 'its app is', spec: allowing('other.corp'), others: [theirs(apart('shop.acme.db'))], more: [corp] },
    {
      why: 'it must be near: a wish',
      spec: db(),
      others: [web(near('shop.acme.db', 20))],
      wishes: [{ type: 'latency', service: WEB, threshold: 20 }],
    },
    {
      why: 'both ask, the other more',
      spec: db(near('billing.acme.web', 30)),
      others: [web(near('shop.acme.db', 20))],
      more: [{ type: 'latency', service: WEB, threshold: 20, convergenceSeconds: 300 }],
    },
    { why: 'both ask, the other less', spec: db(near(WEB, 10)), others: [web(near('shop.acme.db', 20))] },
    { why: 'a service of its own', spec: db(), others: [named('shop.acme.db.prod', web(apart('shop.acme.db')))] },
  ]
  for (const { why, spec, others, more = [], wishes } of rows) {
    const placed = withAskedBy(spec, others)
    t.strictSame(placed.constraints, [...spec.constraints, ...more], why)
    t.strictSame(placed.prefersNear, wishes, why)
    if (more.length === 0 && wishes === undefined) t.equal(placed, spec, `${why}: it is as it was`)
  }
  const many = Array.from({ length: 90 }, (_, i) => named(`a${i}.acme.web.prod`, web(apart('shop.acme.db'))))
  t.equal(withAskedBy(db(), many).constraints.length, 64, 'a bound')
})

t.test('who asks is found by the service that is asked, for as long as there is an instance', async (t) => {
  const index = new AssignmentIndex<{ assignment: { instance: string; spec: ServiceSpec } }>()
  const record = (spec: ServiceSpec, ordinal: number) => ({ assignment: { instance: `${spec.id}.${ordinal}`, spec } })
  const asking = () => index.asking('shop.acme.db.prod').map(({ assignment }) => assignment.spec)
  const first = web(apart('shop.acme.db'), near('shop.acme.db.prod', 5), { type: 'labels', match: ['a=b'] })
  t.same(targetsOf(first), ['shop.acme.db', 'shop.acme.db.prod'])
  const [zero, one] = [record(first, 0), record(first, 1)]
  index.replace(undefined, zero, [])
  index.replace(undefined, one, [])
  t.same(asking(), [first], 'once')
  index.replace(zero, undefined, [])
  t.same(asking(), [first])
  const second = web()
  index.replace(one, record(second, 1), [])
  t.same(asking(), [], 'its document does not say so any more')
  t.same(
    index.named('billing.acme.web').map(({ assignment }) => assignment.instance),
    [`${WEB}.1`],
  )
  index.replace(undefined, zero, [])
  index.clear()
  t.same([asking(), index.named(WEB)], [[], []])
})

t.test('the root knows who asks, whatever is written meanwhile', async (t) => {
  using store = RootStore.open(t.testdir())
  const { services, asking } = store
  const put = (spec: ServiceSpec) => services.put(spec.id, { id: spec.id, spec } as ServiceRecord)
  const asked = () => asking.askedOf(db())?.constraints.map(({ service }) => service)
  put(db())
  t.equal(asking.askedOf(db()), undefined)
  put(web(apart('shop.acme.db')))
  put(theirs(apart('shop.acme.db')))
  t.same(asked(), [WEB], 'but not who may not')
  const record = { id: 'shop.acme.db.prod.0', ordinal: 0 }
  const given = { spec: db(), generation: 3, revision: 7 }
  const wish = { type: 'anti-affinity', service: WEB, over: 'node' }
  t.match(assignmentOf(record, given, asking), { revision: 7, asked: { constraints: [wish], prefersNear: [] } })
  put(web())
  t.same(asked(), undefined, 'its document does not say so any more')
  t.notOk('asked' in assignmentOf(record, given, asking))
  const failing = () =>
    store.database.transaction(() => {
      put(web(apart('shop.acme.db')))
      t.same(asked(), [WEB])
      throw new Error('it fails')
    })
  t.throws(failing, { message: 'it fails' })
  t.equal(asked(), undefined, 'a transaction that failed')
  t.ok(services.create('a', { id: 'a', spec: named('a.acme.b.c', web(apart('shop.acme.db'))) } as ServiceRecord))
  t.ok(services.delete('a'))
  t.equal(asked(), undefined, 'a service that was deleted')
})
