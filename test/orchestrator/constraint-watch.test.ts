import t from 'tap'
import { MeshError } from '../../src/core/errors.ts'
import { silentLog } from '../../src/core/kit/log.ts'
import { openMetrics } from '../../src/core/metrics.ts'
import type { AssignmentRecord } from '../../src/orchestrator/cluster/assignments.ts'
import { ConstraintWatch } from '../../src/orchestrator/cluster/constraint-watch.ts'
import { withAskedBy } from '../../src/orchestrator/scheduling/asked-by-others.ts'
import { nodeCandidate } from '../../src/orchestrator/scheduling/candidate.ts'
import { shortOfCapacity } from '../../src/orchestrator/scheduling/short-of-capacity.ts'
import { RULES } from '../../src/orchestrator/scheduling/schedule.ts'
import type { NodeFacts, ServiceSpec } from '../../src/orchestrator/spec.ts'
import { ManualClock } from '../support/manual-clock.ts'
import { mesh, sla } from './mesh.ts'
import { assignmentOf, factsOf, specOf } from './specs.ts'
import { until } from '../support/until.ts'

const coordinate = (ms: number) => ({ at: [ms, 0, 0], height: 0, error: 0.1 })
const DB = [{ node: 'edge/db', coordinate: coordinate(0), beyondMs: 0 }]

/** A cluster with one instance that must be within 20 ms of a service; `ms` is where each node is. */
function world({
  ms,
  moves = true,
  other,
  kbit,
  labels = {},
  beside = [],
  service,
  storage = 0,
  askers = [],
}: {
  ms: Record<string, number | undefined>
  moves?: boolean
  other?: string
  /** What each node has out; the instance reserves 500. */
  kbit?: Record<string, number>
  labels?: Record<string, Record<string, string>>
  /** Other instances. */
  beside?: readonly AssignmentRecord[]
  /** What its document says instead. */
  service?: Record<string, unknown>
  storage?: number
  /** Services of other documents that ask something of it. */
  askers?: readonly ServiceSpec[]
}) {
  const constraints = [{ type: 'latency', service: 'shop.acme.db', threshold: 20, rigidness: 1, convergence_time: 60 }]
  const assignment = assignmentOf(service ?? (kbit === undefined ? { constraints, storage } : { bandwidth_out: 500 }))
  let record: AssignmentRecord = { assignment, wanted: true, node: 'edge/a', state: 'running', restarts: 0 }
  const clock = new ManualClock()
  const moved: { node: string; at: number }[] = []
  const told: (string | undefined)[] = []
  /** When the root was asked for another cluster. */
  const asked: number[] = []
  const facts = (name: string): NodeFacts => {
    const at = ms[name]
    const { capacity } = factsOf()
    const has = kbit?.[name] === undefined ? capacity : { ...capacity, bandwidthOutKbit: kbit[name] }
    return factsOf({
      id: `edge/${name}`,
      capacity: has,
      labels: labels[name] ?? {},
      ...(at === undefined ? {} : { coordinate: coordinate(at) }),
    })
  }
  const candidate = (name: string) =>
    nodeCandidate({
      facts: facts(name),
      condition: 'alive',
      free: facts(name).capacity,
      portsTaken: [],
      instances: 0,
      perService: new Map(),
    })
  const start = () =>
    new ConstraintWatch({
      assignments: {
        all: () => [record],
        get: () => record,
        on: (id) => [record, ...beside].filter(({ node }) => node === id),
        startingOn: () => [],
        named: (id) => [record, ...beside].filter(({ assignment }) => assignment.spec.id.startsWith(id)),
      },
      nodes: {
        alive: (id) => ({ id, facts: facts(id.slice(5)) }) as never,
        all: () => Object.keys(ms).map((name) => ({ id: `edge/${name}`, facts: facts(name) }) as never),
      },
      anchors: {
        prepare: async () => undefined,
        requestFor: (spec: ServiceSpec) => ({
          spec: withAskedBy(spec, askers),
          near: () => DB,
          placed: (id) =>
            beside.flatMap(({ node = '', assignment }) =>
              assignment.spec.id === id ? [{ node, cluster: 'edge' }] : [],
            ),
        }),
      },
      rules: RULES,
      candidates: () => Object.keys(ms).map(candidate),
      move: async (_, node) => {
        if (!moves) throw new MeshError('UNPLACEABLE', { reason: 'no room for a second one' })
        moved.push({ node, at: clock.now() })
        record = { ...record, node }
      },
      moveAway: async () => {
        asked.push(clock.now())
        if (other === undefined) throw new MeshError('UNPLACEABLE', { reason: 'no other cluster is connected' })
        return { cluster: 'far', node: other }
      },
      moved: (_, constraintMoves) => {
        record = { ...record, constraintMoves }
      },
      report: (_, _node, violation) => {
        told.push(violation)
        const { violation: _before, ...rest } = record
        record = violation === undefined ? rest : { ...rest, violation }
      },
      clock,
      log: silentLog,
      metrics: openMetrics('cluster'),
    })
  let watch = start()
  const pass = async (seconds: number, each: (second: number) => void = () => undefined) => {
    for (let second = 0; second < seconds; second += 5) {
      each(second)
      await watch.measure()
      await clock.advance(5_000)
    }
  }
  /** Of the cluster. */
  const restart = () => {
    watch = start()
  }
  return { ms, moved, told, asked, pass, clock, restart }
}

t.test('an instance that does not keep to its constraint is moved once the time until it must is over', async (t) => {
  const { moved, told, pass, ms } = world({ ms: { a: 50, b: 5, c: 19 } })
  await pass(55)
  t.same(moved, [], 'not within convergence_time')
  await pass(10)
  t.same(
    moved.map(({ node }) => node),
    ['edge/b'],
    'then to one that keeps it',
  )
  t.match(told, [
    /^50 ms from shop\.acme\.db instead of 20; kept in 0 of \d+ measurements, \d+ are required; it moves to edge\/b$/,
  ])
  await pass(120)
  t.equal(told.at(-1), undefined, 'and it is told when it is kept again')
  t.equal(moved.length, 1, 'there it stays')
  ms['b'] = 19.5
  ms['a'] = 1
  await pass(120)
  t.equal(moved.length, 1, 'a better node is no reason')
})

t.test('what cannot be kept anywhere is told with the nearest that can take it, and nothing moves', async (t) => {
  const { moved, told, asked, pass } = world({ ms: { a: 50, b: 30, c: 19, d: undefined } })
  await pass(300)
  t.same(moved, [], 'c would keep it with too little to spare')
  t.ok(told.length <= 3, 'the same is not said with each of sixty measurements')
  t.match(told[0], /nearest that can: edge\/c, 19 ms from shop\.acme\.db instead of 18; other clusters: no other/)
  const waits = asked.slice(1).map((at, i) => at - (asked[i] as number))
  t.ok(
    waits.every((ms) => ms >= 30_000),
    `the root is not asked with each of them: ${waits.join()}`,
  )
})

t.test(
  'of two documents that ask for latency between two services the one that asks for less counts for both',
  async (t) => {
    const own = [{ type: 'latency', service: 'shop.acme.db', threshold: 90, rigidness: 1, convergence_time: 60 }]
    const asks = { type: 'latency', service: assignmentOf().spec.id, threshold: 20, rigidness: 1, convergence_time: 60 }
    const db = assignmentOf({ microservice_name: 'db', constraints: [asks] }).spec
    const { moved, told, pass } = world({ ms: { a: 50, b: 19, c: 17 }, service: { constraints: own }, askers: [db] })
    await pass(65)
    t.same(
      moved.map(({ node }) => node),
      ['edge/c'],
      'to one that keeps it with a tenth to spare',
    )
    t.match(told[0], /^50 ms from shop\.acme\.db\.prod instead of 20; kept in 0 of \d+ measurements/)
    const alone = world({ ms: { a: 50, b: 19, c: 17 }, service: { constraints: own } })
    await alone.pass(65)
    t.same([alone.moved, alone.told], [[], []])
  },
)

t.test('what would leave files on its node is told, and stays', async (t) => {
  const { moved, asked, told, pass } = world({ ms: { a: 50, b: 5 }, storage: 7 })
  await pass(120)
  t.same([moved, asked], [[], []])
  t.match(told, [/; it stays, since it would leave 7 MB of storage behind \(hedgerow migrate moves it\)$/])
})

t.test('what only another cluster can keep moves there, and no sooner again than within this one', async (t) => {
  const { moved, told, asked, pass } = world({ ms: { a: 50 }, other: 'far/n1' })
  await pass(240)
  t.same(moved, [])
  t.match(told[0], /are required; it moves to far\/n1$/)
  const waits = asked.slice(1).map((at, i) => at - (asked[i] as number))
  t.ok(asked.length >= 2 && waits.every((ms, i) => ms >= 60_000 * 2 ** i), `damped: ${waits.join()}`)
})

t.test('two nodes near the threshold never pass an instance to and fro', async (t) => {
  const { moved, pass, ms, restart } = world({ ms: { a: 5, b: 5 } })
  await pass(7_200, (second) => {
    if (second % 1_000 === 0) restart()
    const isOdd = Math.floor(second / 300) % 2 === 1
    ms['a'] = isOdd ? 50 : 5
    ms['b'] = isOdd ? 5 : 50
  })
  const gaps = moved.slice(1).map(({ at }, i) => at - (moved[i]?.at ?? 0))
  t.ok(moved.length >= 2 && moved.length <= 9, `${moved.length} moves in two hours of a change every five minutes`)
  t.ok(
    gaps.slice(0, 4).every((gap, i) => gap >= 60_000 * 2 ** i),
    `each rest is longer than the one before: ${gaps.join()}`,
  )
})

t.test('a node whose link has become too slow is told, and left for one that is fast enough', async (t) => {
  const kbit = { a: 1_000, b: 400 }
  const { moved, told, pass } = world({ ms: { a: 0, b: 0 }, kbit })
  await pass(30)
  t.same(told, [])
  kbit.a = 100
  await pass(5)
  t.same(told, [], 'a link that is slow for a moment is none')
  await pass(5)
  t.match(told, [/^its node has 100 kbit\/s out, and 500 are reserved there; no other node here can take it/])
  kbit.b = 600
  await pass(5)
  t.same(
    moved.map(({ node }) => node),
    ['edge/b'],
  )
  await pass(10)
  t.equal(told.at(-1), undefined)
  t.equal(moved.length, 1)
})

t.test('an instance whose node does not fit any more is moved', async (t) => {
  const db = assignmentOf({ microservice_name: 'db' })
  const avoiding = assignmentOf({
    microservice_name: 'db',
    constraints: [{ type: 'anti-affinity', service: assignmentOf().spec.id }],
  })
  const besideIt: AssignmentRecord = { assignment: db, wanted: true, node: 'edge/a', state: 'running', restarts: 0 }
  const rows: {
    why: string
    given: Partial<Parameters<typeof world>[0]>
    now: (labels: Record<string, Record<string, string>>) => void
    says: RegExp | undefined
  }[] = [
    {
      why: 'it has lost a label',
      given: { service: { constraints: [{ type: 'labels', match: ['disk=ssd'] }] } },
      now: (labels) => delete labels['a'],
      says: /^its node does not fit any more: label disk=ssd not met; it moves to edge\/b$/,
    },
    {
      why: 'what it is for is not there any more',
      given: { service: { constraints: [{ type: 'addons', needs: ['disk'] }] } },
      now: (labels) => delete labels['a'],
      says: /addon missing; it moves to edge\/b$/,
    },
    {
      why: 'one that it avoids is there',
      given: { service: { constraints: [{ type: 'anti-affinity', service: db.spec.id }] }, beside: [besideIt] },
      now: () => undefined,
      says: /it has an instance of shop\.acme\.db\.prod already; it moves to edge\/b$/,
    },
    {
      why: 'one whose document avoids it is there, and does not go',
      given: { service: {}, askers: [avoiding.spec], beside: [{ ...besideIt, assignment: avoiding }] },
      now: () => undefined,
      says: /it has an instance of shop\.acme\.db\.prod already; it moves to edge\/b$/,
    },
    {
      why: 'that one is on its way elsewhere',
      given: {
        service: { constraints: [{ type: 'anti-affinity', service: db.spec.id }] },
        beside: [{ ...besideIt, successor: { node: 'edge/b', assignment: db, state: 'starting', restarts: 0 } }],
      },
      now: () => undefined,
      says: undefined,
    },
    { why: 'all is well', given: { service: {} }, now: () => undefined, says: undefined },
  ]
  for (const { why, given, now, says } of rows) {
    const labels: Record<string, Record<string, string>> = { a: { disk: 'ssd' }, b: { disk: 'ssd' } }
    const { pass, moved, told } = world({ ms: { a: 1, b: 1 }, labels, ...given })
    if (given.beside === undefined) await pass(20)
    t.same([moved, told], [[], []], `${why}: not before`)
    now(labels)
    await pass(5)
    t.same(moved, [], `${why}: not at the first look`)
    await pass(5)
    t.same(
      moved.map(({ node }) => node),
      says === undefined ? [] : ['edge/b'],
      why,
    )
    if (says !== undefined) t.match(told.at(-1), says)
  }
})

t.test('one that fits nowhere runs on and says so, also with storage', async (t) => {
  const constraints = [{ type: 'labels', match: ['disk=ssd'] }]
  const nowhere = world({ ms: { a: 1, b: 1 }, service: { constraints } })
  await nowhere.pass(10)
  t.match(nowhere.told, [/label disk=ssd not met; no other node here can take it/])
  const stays = world({ ms: { a: 1, b: 1 }, labels: { b: { disk: 'ssd' } }, service: { constraints, storage: 5 } })
  await stays.pass(10)
  t.match(stays.told, [/label disk=ssd not met; it stays, since it would leave 5 MB of storage behind/])
  t.same([nowhere.moved, stays.moved], [[], []])
})

t.test('which instances a node has too little room for', async (t) => {
  const total = { memoryMb: 500, vcpus: 2, vgpus: 0, vtpus: 0, storageMb: 0 }
  const of = (id: string, [bandwidth_in, bandwidth_out]: [number, number], more: object = {}) => ({
    id,
    spec: specOf({ bandwidth_in, bandwidth_out, ...more }),
  })
  const runs = [of('a', [100, 0]), of('b', [300, 50]), of('c', [0, 200])]
  const sized = [
    of('a', [0, 0], { memory: 100, vcpus: 0.1 }),
    of('b', [0, 0], { memory: 300, vgpus: 1 }),
    of('c', [0, 0], { vcpus: 0.2 }),
  ]
  const rows = [
    { why: 'enough', has: { bandwidthInKbit: 400, bandwidthOutKbit: 250 }, short: [] },
    { why: 'not known', has: {}, short: [] },
    { why: 'the largest is enough', has: { bandwidthInKbit: 399 }, short: ['b'] },
    { why: 'both ways', has: { bandwidthInKbit: 150, bandwidthOutKbit: 60 }, short: ['b', 'c'] },
    { why: 'nothing', has: { bandwidthInKbit: 0 }, short: ['b', 'a'] },
    { why: 'exactly enough', has: { memoryMb: 400, vcpus: 0.3, vgpus: 1 }, of: sized, short: [] },
    { why: 'less memory', has: { memoryMb: 399, vgpus: 1 }, of: sized, short: ['b'] },
    { why: 'fewer cores', has: { vcpus: 0.2, vgpus: 1 }, of: sized, short: ['c'] },
    { why: 'its GPU is gone', has: { vgpus: 0 }, of: sized, short: ['b'] },
    { why: 'storage is not judged', has: {}, of: [of('a', [0, 0], { storage: 50 })], short: [] },
  ]
  for (const { why, has, of = runs, short } of rows)
    t.same([...shortOfCapacity({ ...total, ...has }, of).keys()], short, why)
})

t.test('a node that cannot start a second one is told, and it stays', async (t) => {
  const { told, pass, moved } = world({ ms: { a: 50, b: 5 }, moves: false })
  await pass(70)
  t.same(moved, [])
  t.match(told.at(-1), /edge\/b does not take it: no room for a second one/)
})

t.test('a violation at run time: the instance starts elsewhere, then ends where it was', async (t) => {
  await using world = await mesh({ cluster: { measureMs: 50 } })
  await world.node('home', { coordinate: coordinate(0) })
  const first = await world.node('first', { coordinate: coordinate(5) })
  const second = await world.node('second', { coordinate: coordinate(9) })
  const db = { microservice_name: 'db', constraints: [{ type: 'direct', node: 'home' }] }
  const near = { type: 'latency', threshold: 20, rigidness: 1, convergence_time: 0 }
  const web = {
    microservice_name: 'web',
    strategy: 'latency-and-location',
    constraints: [{ type: 'direct', node: 'first;second' }],
    connectivity: [{ target_microservice_id: 'db', con_constraints: [near] }],
  }
  await world.api.call('POST', '/apps', sla(db))
  await world.running(1)
  await world.api.call('POST', '/apps', sla(web))
  await world.running(2)
  const row = async () => (await world.instances()).find(({ id }) => id.includes('.web.'))
  t.equal((await row())?.node, 'edge/first')

  first.coordinate = coordinate(80)
  first.uplink.factsChanged()
  await until(
    async () => (await row())?.node === 'edge/second',
    'it has moved',
    async () => JSON.stringify(await row()),
  )
  await until(() => first.withdrawn.length === 1, 'its earlier run ends')
  t.equal((await row())?.state, 'running')

  second.coordinate = coordinate(70)
  second.uplink.factsChanged()
  const isTold = async () => ((await row())?.detail ?? '').startsWith('constraint violated: 70 ms from shop.acme.db')
  await until(isTold, 'what nobody can keep is told', async () => JSON.stringify(await row()))
  t.match((await row())?.detail, /nearest that can: edge\/first, 80 ms from shop\.acme\.db instead of 18/)
  t.equal((await row())?.node, 'edge/second', 'and it runs on')
  const services = await world.api.call<{ id: string; detail?: string }[]>('GET', '/services')
  t.match(services.find(({ id }) => id.includes('.web.'))?.detail, /^1 running, constraint violated: /)
  const events = await world.api.call<{ what: string }[]>('GET', '/events?name=shop.acme.web')
  const told = events.filter(({ what }) => ['violated', 'moved', 'kept'].includes(what))
  t.match(told, [
    { what: 'violated', by: 'cluster', node: 'edge/first', why: /^80 ms from shop\.acme\.db instead of 20/ },
    { what: 'moved', by: 'cluster', node: 'edge/second', why: /^from edge\/first; 80 ms from shop\.acme\.db/ },
    { what: 'kept', by: 'cluster', node: 'edge/second' },
    { what: 'violated', by: 'cluster', node: 'edge/second', why: /^70 ms/ },
  ])
})
