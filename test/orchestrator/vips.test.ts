import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import t, { type Test } from 'tap'
import { MeshError } from '../../src/core/errors.ts'
import { systemClock } from '../../src/core/kit/clock.ts'
import { POLICIES, type ChoiceKey } from '../../src/core/model/choice.ts'
import { applyRecordSteps } from '../../src/orchestrator/root/instance-records.ts'
import { plan, type ClusterConditions } from '../../src/orchestrator/root/plan.ts'
import { RootStore } from '../../src/orchestrator/root/root-store.ts'
import { changeStore, remove, submit, type Submitted } from '../../src/orchestrator/root/submission.ts'
import { addressToIndex, mendVips } from '../../src/orchestrator/root/vip-requests.ts'
import { Vips } from '../../src/orchestrator/root/vips.ts'
import { parseSla } from '../../src/orchestrator/sla/parse.ts'
import { mesh, sla } from './mesh.ts'
import { until } from '../support/until.ts'

t.setTimeout(280_000) // a busy machine takes several times as long
const REST_MS = 3_600_000
const RR = 'any.rr'

/** The root's store and VIPs, without the network: what is applied is planned and recorded at once. */
class VipWorld implements Disposable {
  readonly dir = mkdtempSync(join(tmpdir(), 'hedgerow-vips-'))
  wall = 1_000_000_000_000
  readonly clock = { ...systemClock, wall: () => this.wall }
  readonly events = { record: () => undefined }
  store!: RootStore
  vips!: Vips
  /** Services whose addresses were mended at the last start. */
  mended: string[] = []

  constructor() {
    this.start()
  }

  start(): void {
    this.store = RootStore.open(this.dir)
    this.vips = new Vips(this.store.vips, REST_MS, this.clock)
    this.mended = changeStore(this, () => mendVips(this))
  }

  restart(): void {
    this.store[Symbol.dispose]()
    this.start()
  }

  /** `services` by name; `app` has the namespace `ns`. */
  apply(services: Record<string, object>, { app = 'app', prune = false, used = [] as string[] } = {}): Submitted {
    const parsed = parseSla({
      application_name: app,
      application_namespace: 'ns',
      microservices: Object.entries(services).map(([name, more]) => ({
        microservice_name: name,
        cmd: ['run'],
        ...more,
      })),
    })
    if (parsed.kind === 'refused') throw new MeshError('SLA_INVALID', { faults: parsed.faults })
    const submitted = submit({ apps: parsed.apps, customer: '', prune, used: new Set(used) }, this)
    this.settle()
    return submitted
  }

  scale(name: string, replicas: number): void {
    const service = this.store.services.get(idOf(name))
    if (service === undefined) return
    this.store.services.put(service.id, { ...service, spec: { ...service.spec, replicas } })
    this.settle()
  }

  delete(name: string): void {
    changeStore(this, () => remove(idOf(name), this))
    this.settle()
  }

  vip(name: string, choice: ChoiceKey = RR): number | undefined {
    return this.vips.of(idOf(name)).get(choice)
  }

  /** Creates and forgets instance records until nothing is left to do. */
  settle(): void {
    const lost: ClusterConditions = {
      isUp: () => false,
      isLost: () => true,
      hasRoomElsewhere: () => false,
      mayUpdate: () => true,
      whyWaiting: () => undefined,
    }
    const services = new Set([
      ...this.store.services.keys(),
      ...this.store.instances.list().map(({ service }) => service),
    ])
    for (const id of services) {
      for (;;) {
        const steps = plan(this.store.services.get(id), this.store.instancesOf(id), lost)
        const records = steps.filter(({ kind }) => kind === 'create' || kind === 'retire' || kind === 'forget')
        if (records.length === 0) break
        applyRecordSteps(id, records, this)
      }
    }
  }

  /** What is wrong with the assignment as a whole; empty when all is well. */
  faults(): string[] {
    const faults: string[] = []
    const inUse = this.store.vips.list().filter(({ freedAt }) => freedAt === undefined)
    const owners = new Map<string, number>()
    for (const { index, service, choice, requested } of inUse) {
      const wish = this.store.services.get(service)?.spec.addresses[choice]
      const isRequested = wish !== undefined && at(wish) === index
      if ((requested === true) !== isRequested) faults.push(`${choice} of ${service}: requested is ${requested}`)
      const owner = `${service} ${choice}`
      if (owners.has(owner)) faults.push(`${owner} has two indices`)
      owners.set(owner, index)
      if (this.vips.of(service).get(choice) !== index) faults.push(`memory and disk differ about ${owner}`)
      if (this.store.services.get(service) === undefined) faults.push(`${owner} does not exist`)
    }
    const shown = new Map<number, string>()
    for (const { id, spec } of this.store.services.list()) {
      for (const [choice, index] of this.vips.of(id)) {
        const twin = shown.get(index)
        if (twin !== undefined) faults.push(`${index} belongs to ${twin} and to ${choice} of ${id}`)
        shown.set(index, `${choice} of ${id}`)
        if (!owners.has(`${id} ${choice}`)) faults.push(`${choice} of ${id} is not saved`)
      }
      const instances = this.store.instancesOf(id).filter(({ wanted }) => wanted)
      for (const who of ['any', ...instances.map(({ ordinal }) => String(ordinal))])
        for (const policy of POLICIES)
          if (!this.vips.of(id).has(`${who}.${policy}` as ChoiceKey))
            faults.push(`${who}.${policy} of ${id} has no address`)
      for (const [choice, address] of Object.entries(spec.addresses))
        if (this.vips.of(id).get(choice as ChoiceKey) !== addressToIndex(String(address)))
          faults.push(`${choice} of ${id} does not have ${address}`)
    }
    return faults
  }

  [Symbol.dispose](): void {
    this.store[Symbol.dispose]()
    rmSync(this.dir, { recursive: true, force: true })
  }
}

const idOf = (name: string) => `app.ns.${name}.ns`
const at = (address: string) => addressToIndex(address) as number
const rr = (rr_ip: string) => ({ addresses: { rr_ip } })
/** Where automatic addresses begin. */
const AUTOMATIC = at('10.30.128.0')

t.test('an address is assigned automatically, kept over a restart, and rests when it is freed', async (t) => {
  using world = new VipWorld()
  world.apply({ a: {} })
  const a = world.vip('a')
  t.ok(a !== undefined && a >= AUTOMATIC, 'from the upper half of the block')
  world.apply({ a: {} })
  world.restart()
  t.equal(world.vip('a'), a)
  t.same(world.mended, [], 'nothing to mend')
  world.delete('a')
  t.equal(world.vips.at(a ?? 0), undefined)
  world.apply({ b: {} })
  t.notOk([...world.vips.of(idOf('b')).values()].includes(a ?? 0), 'a freed one rests')
  world.apply({ a: {} })
  t.equal(world.vip('a'), a, 'its own service gets it back')
})

t.test('all requests of a document are assigned first, and automatic addresses step aside', async (t) => {
  using world = new VipWorld()
  // alpha's other choices would have got the address that beta requests
  const next = '10.30.128.1'
  world.apply({ alpha: rr('10.30.128.0'), beta: rr(next) })
  t.equal(world.vip('alpha'), at('10.30.128.0'))
  t.equal(world.vip('beta'), at(next))
  t.same(world.faults(), [])
  world.restart()
  t.same(world.faults(), [])
  t.same(world.mended, [])
})

t.test('a claim of an address that another owner has throws', async (t) => {
  using world = new VipWorld()
  world.apply({ a: rr('10.30.30.30') })
  t.throws(() => world.vips.claim(at('10.30.30.30'), idOf('b'), RR), /belongs to any.rr of app.ns.a.ns/)
  t.throws(() => world.vips.claim(at('10.30.30.30'), idOf('a'), 'any.closest'), /belongs to/)
  world.vips.claim(at('10.30.30.30'), idOf('a'), RR)
  t.same(world.faults(), [], 'and changes nothing')
})

t.test('services of one document may swap their addresses, or take that of one it removes', async (t) => {
  using world = new VipWorld()
  world.apply({ a: rr('10.30.30.30'), b: rr('10.30.30.31'), c: rr('10.30.30.32') })
  const { warnings } = world.apply({ a: rr('10.30.30.31'), b: rr('10.30.30.30') })
  t.match(warnings, [{ problem: /10.30.30.31 was any.rr of app.ns.b.ns/ }, { problem: /was any.rr of app.ns.a.ns/ }])
  t.same([world.vip('a'), world.vip('b')], [at('10.30.30.31'), at('10.30.30.30')])
  world.apply({ a: rr('10.30.30.32'), b: rr('10.30.30.30') }, { prune: true })
  t.equal(world.vip('a'), at('10.30.30.32'))
  t.same(world.faults(), [])
})

t.test('a requested address of another document is refused, with its owner and what to do', async (t) => {
  using world = new VipWorld()
  world.apply({ a: rr('10.30.30.30') })
  t.throws(() => world.apply({ b: rr('10.30.30.30') }, { app: 'other' }), {
    code: 'SLA_CONFLICT',
    details: {
      conflicts: [
        {
          path: 'applications[0].microservices[0].addresses',
          problem: '10.30.30.30 for any.rr: it belongs to any.rr of app.ns.a.ns, which requests it',
          remedy: 'choose another address',
        },
      ],
    },
  })
  t.equal(world.store.services.get('other.ns.b.ns'), undefined)
  t.same(world.faults(), [])
})

t.test('an automatic address gives way to a request, unless a node uses its service', async (t) => {
  using world = new VipWorld()
  world.apply({ a: {} })
  const before = world.vip('a', 'any.closest') as number
  const address = `10.30.128.${before - AUTOMATIC}`
  t.throws(() => world.apply({ b: rr(address) }, { app: 'other', used: ['app.ns.a'] }), {
    code: 'SLA_CONFLICT',
    details: { conflicts: [{ problem: /assigned to any.closest of app.ns.a.ns, which nodes are using/ }] },
  })
  t.equal(world.vip('a', 'any.closest'), before)
  const { moved } = world.apply({ b: rr(address) }, { app: 'other' })
  t.same(moved, [idOf('a')], 'its tables are published again')
  t.equal(world.vips.at(before)?.service, 'other.ns.b.ns')
  t.not(world.vip('a', 'any.closest'), before)
  t.same(world.faults(), [])
})

t.test('a freed address may be requested at once, with a warning', async (t) => {
  using world = new VipWorld()
  world.apply({ a: rr('10.30.50.50') })
  world.delete('a')
  const { warnings } = world.apply({ b: rr('10.30.50.50') }, { app: 'other' })
  t.match(warnings, [
    {
      path: 'applications[0].microservices[0].addresses',
      problem: /10.30.50.50 was any.rr of app.ns.a.ns until recently; a caller that remembers it reaches this service/,
      remedy: /choose another address/,
    },
  ])
  t.equal(world.vips.at(at('10.30.50.50'))?.service, 'other.ns.b.ns')
  t.same(world.apply({ b: rr('10.30.50.50') }, { app: 'other' }).warnings, [], 'once')
  world.apply({ b: {} }, { app: 'other' })
  t.equal(world.vips.at(at('10.30.50.50'))?.requested, undefined, 'no longer requested: kept as an automatic one')
})

t.test('an address rests for its time only, also when the clock is set back or forward', async (t) => {
  for (const stepMs of [REST_MS + 1, 365 * 86_400_000, -365 * 86_400_000]) {
    using world = new VipWorld()
    world.apply({ a: rr('10.30.50.50') })
    world.delete('a')
    t.ok(world.vips.restingAt(at('10.30.50.50')) !== undefined, 'the freed address rests')
    world.wall += stepMs
    t.equal(world.vips.restingAt(at('10.30.50.50')), undefined, String(stepMs))
    t.same(world.apply({ b: rr('10.30.50.50') }).warnings, [])
  }
})

t.test('of a service that is gone nothing is left once its addresses have rested', async (t) => {
  using world = new VipWorld()
  world.apply({ a: rr('10.30.50.50'), b: { replicas: 2 } })
  const rows = () => world.store.vips.keys().length
  const before = rows()
  world.scale('b', 1)
  world.delete('a')
  t.equal(rows(), before, 'they rest')
  t.equal(world.vips.forgetRested(100), 0)
  world.wall += REST_MS / 2
  world.delete('b')
  world.apply({ b: {} })
  world.wall += REST_MS / 2 + 1
  t.equal(world.vips.forgetRested(2), 2, 'some at a time')
  world.restart()
  t.equal(world.vips.forgetRested(100), 6, 'those of a service that is there stay')
  t.equal(rows(), world.vips.used + 4)
  t.same(world.vips.services(), [idOf('b')])
  t.equal(world.vips.restingAt(at('10.30.50.50')), undefined)
  world.scale('b', 2)
  t.equal(rows(), world.vips.used, 'which has them again')
})

t.test('an instance keeps a requested address when it is scaled away and back', async (t) => {
  using world = new VipWorld()
  const addresses = { instances: [{ from: 0, to: 2, start: '10.30.40.0' }] }
  world.apply({ a: { replicas: 3, addresses } })
  world.scale('a', 1)
  t.equal(world.vip('a', '2.pinned'), at('10.30.40.2'))
  t.equal(world.vip('a', '2.rr'), undefined, 'an automatic one is freed')
  world.scale('a', 3)
  t.equal(world.vip('a', '2.pinned'), at('10.30.40.2'))
  world.apply({ a: { replicas: 1 } })
  t.equal(world.vip('a', '2.pinned'), undefined, 'it is no longer requested')
  t.same(world.faults(), [])
})

t.test('doubles in a saved store are found at the start and mended', async (t) => {
  using world = new VipWorld()
  world.apply({ alpha: rr('10.30.30.30'), beta: rr('10.30.30.31'), gamma: { replicas: 2 } })
  const { vips: saved } = world.store
  // as an earlier version left it: beta's request had overwritten the record of a choice of alpha
  saved.delete(String(world.vip('alpha', 'any.closest')))
  // one choice with two indices
  saved.put(String(at('10.30.200.200')), { index: at('10.30.200.200'), service: idOf('gamma'), choice: RR })
  // a request that was assigned to somebody else, and an owner that is gone
  saved.put(String(at('10.30.30.31')), { index: at('10.30.30.31'), service: idOf('alpha'), choice: 'any.least' })
  saved.put(String(at('10.30.200.201')), { index: at('10.30.200.201'), service: idOf('nobody'), choice: RR })
  // an address that is never assigned
  saved.put(String(at('10.30.1.0') - 0xcb), { index: at('10.30.1.0') - 0xcb, service: idOf('gamma'), choice: '7.rr' })
  world.restart()
  t.same(world.faults(), [])
  t.equal(world.vip('beta'), at('10.30.30.31'))
  t.ok(world.vip('alpha', 'any.closest'), 'the lost name has an address again')
  t.ok(world.mended.includes(idOf('alpha')) && world.mended.includes(idOf('beta')), 'both services are named as mended')
  world.restart()
  t.same(world.mended, [], 'once')
})

// few addresses, some where automatic ones come from, so that requests and automatic ones meet often
const address = fc.constantFrom(
  '10.30.30.30',
  '10.30.30.31',
  '10.30.30.32',
  '10.30.40.0',
  '10.30.40.1',
  ...Array.from({ length: 14 }, (_, i) => `10.30.128.${i}`),
)
const service = fc.record(
  {
    replicas: fc.integer({ min: 0, max: 3 }),
    rr_ip: address,
    closest_ip: address,
    start: address,
  },
  { requiredKeys: ['replicas'] },
)
const name = fc.constantFrom('a', 'b', 'c')
const app = fc.constantFrom('app', 'other')
const step = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant('apply' as const),
      app,
      services: fc.dictionary(name, service, { minKeys: 1 }),
      prune: fc.boolean(),
      isUsed: fc.boolean(),
    }),
  },
  fc.record({ kind: fc.constant('scale' as const), name, replicas: fc.integer({ min: 0, max: 4 }) }),
  fc.record({ kind: fc.constant('delete' as const), name }),
  fc.record({ kind: fc.constant('restart' as const) }),
  fc.record({ kind: fc.constant('wait' as const), ms: fc.constantFrom(60_000, REST_MS + 1, -REST_MS) }),
)
type Step = typeof step extends fc.Arbitrary<infer One> ? One : never

function take(taken: Step, world: VipWorld): void {
  switch (taken.kind) {
    case 'apply': {
      const documents = Object.entries(taken.services).map(([name, asked]) => [name, document(asked)])
      const used = taken.isUsed ? ['app.ns.a', 'other.ns.b'] : []
      world.apply(Object.fromEntries(documents), { app: taken.app, prune: taken.prune, used })
      return
    }
    case 'scale':
      return world.scale(taken.name, taken.replicas)
    case 'delete':
      return world.delete(taken.name)
    case 'wait':
      world.wall += taken.ms
      return
    case 'restart':
      world.restart()
      if (world.mended.length > 0) throw new Error(`a restart mended what was whole: ${world.mended.join()}`)
      return
    default:
      taken satisfies never
  }
}

/** Takes the step; one that is refused must have changed nothing. */
function takeWhole(taken: Step, world: VipWorld): void {
  const kept = () => JSON.stringify([world.store.vips.list(), world.store.services.list()])
  const before = kept()
  try {
    take(taken, world)
  } catch (error) {
    if (!(error instanceof MeshError)) throw error
    if (kept() !== before) throw new Error('a refused document changed something', { cause: error })
  }
}

t.test('every address has one owner, whatever is applied, scaled, deleted and restarted', async (t) => {
  fc.assert(
    fc.property(fc.array(step, { minLength: 1, maxLength: 12 }), (steps) => {
      using world = new VipWorld()
      for (const taken of steps) {
        takeWhole(taken, world)
        const faults = world.faults()
        if (faults.length > 0) throw new Error(faults.join('\n'))
      }
    }),
    { numRuns: 60 },
  )
  t.pass('no address had two owners after any step of any run')
})

function document({
  replicas,
  rr_ip,
  closest_ip,
  start,
}: {
  replicas: number
  rr_ip?: string
  closest_ip?: string
  start?: string
}) {
  const instances = start === undefined ? undefined : [{ from: 0, to: 1, start }]
  return { replicas, addresses: { rr_ip, closest_ip, instances } }
}

t.test('a root asks its clusters whether a node uses a service before it moves its address', async (t: Test) => {
  await using world = await mesh()
  const node = await world.node('n1')
  await world.api.call('POST', '/apps', sla({ microservice_name: 'cart' }))
  await world.running(1)
  const row = await world.api.call<{ vips: Record<string, number> }>('GET', '/services/shop.acme.cart.prod')
  const address = `10.30.128.${(row.vips['any.closest'] ?? 0) - AUTOMATIC}`
  const stock = { ...sla({ microservice_name: 'stock', addresses: { rr_ip: address } }) }
  const other = { ...stock, applications: [{ ...stock.applications[0], application_name: 'depot' }] }
  await node.uplink.ask('shop.acme.cart', AbortSignal.timeout(30_000))
  await t.rejects(
    world.api.call('POST', '/apps', other),
    { code: 'SLA_CONFLICT' },
    'while a node uses the service its address is not taken',
  )
  node.uplink.forget(['shop.acme.cart'])
  await node.uplink.askVip(5, AbortSignal.timeout(30_000)) // in order on the link: the cluster has read it
  await world.api.call('POST', '/apps', other)
  const moved = await world.api.call<{ vips: Record<string, number> }>('GET', '/services/shop.acme.cart.prod')
  t.not(moved.vips['any.closest'], row.vips['any.closest'], 'once no node uses it, the address moves')
  await until(async () => (await world.running(2)).length === 2, 'both run')
})
