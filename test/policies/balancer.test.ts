import t from 'tap'
import { createBalancer, type Balancer } from '../../proxy/policies/index.ts'
import type { ServiceEntry } from '../../src/core/model/change.ts'
import type { Choice } from '../../src/core/model/choice.ts'
import { INSTANCE_STATES, type Instance } from '../../src/core/model/instance.ts'
import type { Target } from '../../src/core/table/view.ts'
import { SERVICE, fixed, onNodes, ordinals } from '../contracts/policy.ts'

const measures = {
  rttMs: (node: string) => ({ n1: 12.34, n2: 40 })[node],
  isHere: (node: string) => node === 'n0',
  openFlows: () => 0,
  random: fixed(),
}

const THREE = onNodes(['n2', 'n1', 'n3'])

/** What a choice orders among these instances, and the reason that `trace` shows. */
const CHOICES: Array<{ choice: Choice; running: Instance[]; order: number[]; reason: string }> = [
  { choice: { instance: 'any', policy: 'rr' }, running: THREE, order: [0, 1, 2], reason: 'next in turn' },
  {
    choice: { instance: 'any', policy: 'closest' },
    running: THREE,
    order: [1, 0, 2],
    reason: 'nearest: 12.3 ms to n1',
  },
  {
    choice: { instance: 'any', policy: 'closest' },
    running: onNodes(['n1', 'n0']),
    order: [1, 0],
    reason: 'on this node',
  },
  {
    choice: { instance: 'any', policy: 'closest' },
    running: onNodes(['n3']),
    order: [0],
    reason: 'no node has been measured yet',
  },
  {
    choice: { instance: 2, policy: 'pinned' },
    running: THREE,
    order: [2],
    reason: 'instance 2 was asked for and runs',
  },
  {
    choice: { instance: 7, policy: 'pinned' },
    running: THREE,
    order: [],
    reason: 'instance 7 does not run, and the name allows no other',
  },
  {
    choice: { instance: 2, policy: 'rr' },
    running: THREE,
    order: [2, 0, 1],
    reason: 'instance 2 was asked for and runs',
  },
  {
    choice: { instance: 2, policy: 'closest' },
    running: THREE,
    order: [2, 1, 0],
    reason: 'instance 2 was asked for and runs',
  },
  {
    choice: { instance: 7, policy: 'closest' },
    running: THREE,
    order: [1, 0, 2],
    reason: 'instance 7 does not run; by closest: nearest: 12.3 ms to n1',
  },
  {
    choice: { instance: 7, policy: 'rr' },
    running: THREE,
    order: [0, 1, 2],
    reason: 'instance 7 does not run; by rr: next in turn',
  },
  { choice: { instance: 'any', policy: 'least' }, running: [], order: [], reason: 'no instance runs' },
  { choice: { instance: 0, policy: 'pinned' }, running: [], order: [], reason: 'no instance runs' },
]

t.test('a choice of instance and policy, and the reason for trace', async (t) => {
  for (const { choice, running, order, reason } of CHOICES) {
    const balancer = createBalancer(measures)
    const ordered = balancer.order(target(choice), entryOf(running), 'caller')
    t.same(ordinals(ordered.instances), order, `${choice.instance}.${choice.policy}: ${reason}`)
    t.equal(ordered.reason, reason, `${choice.instance}.${choice.policy} says: ${reason}`)
  }
  const sticky = createBalancer(measures).order(target({ instance: 'any', policy: 'pinned' }), entryOf(THREE), 'caller')
  t.equal(sticky.reason, 'this caller sticks to it', 'any.pinned says that the caller keeps its instance')
  const idle = createBalancer(measures).order(target({ instance: 'any', policy: 'least' }), entryOf(THREE), 'caller')
  t.match(idle.reason, /fewer open flows/, 'any.least says that the instance has fewer open flows')
})

t.test('only what runs is a candidate', async (t) => {
  const instances = INSTANCE_STATES.map((state, ordinal): Instance => {
    return { id: `${SERVICE}.${ordinal}`, service: SERVICE, ordinal, node: 'n1', state }
  })
  const runs = INSTANCE_STATES.indexOf('running')
  for (const policy of ['rr', 'closest', 'pinned', 'least'] as const) {
    const balancer = createBalancer(measures)
    const any = order(balancer, { instance: 'any', policy }, instances)
    t.same(any, [runs], `any.${policy} gives the one instance that runs`)
    for (const ordinal of instances.keys()) {
      const expected = policy === 'pinned' && ordinal !== runs ? [] : [runs]
      t.same(
        order(balancer, { instance: ordinal, policy }, instances),
        expected,
        `${ordinal}.${policy} gives ${expected.length === 0 ? 'none' : 'it too'}`,
      )
    }
  }
})

t.test('the order of an entry’s instances means nothing', async (t) => {
  const shuffled = onNodes(['a', 'b', 'c', 'd']).toReversed()
  const ordered = order(createBalancer(measures), { instance: 'any', policy: 'rr' }, shuffled)
  t.same(ordered, [0, 1, 2, 3], 'round robin begins with the lowest ordinal')
  t.same(ordinals(shuffled), [3, 2, 1, 0], 'the entry is left as it was')
})

t.test('turns belong to a target', async (t) => {
  const balancer = createBalancer(measures)
  const entry = entryOf(onNodes(['a', 'b', 'c']))
  const first = (target: Target) => ordinals(balancer.order(target, entry, 'c').instances)[0]
  const one = target({ instance: 'any', policy: 'rr' }, 1)
  const other = target({ instance: 'any', policy: 'rr' }, 2)
  const turns = [first(one), first(one), first(other), first(one), first(other)]
  t.same(turns, [0, 1, 0, 2, 1], 'each of two targets goes around by itself')
})

t.test('an instance that was swapped out is not given any more, at once', async (t) => {
  const balancer = createBalancer(measures)
  const choice: Choice = { instance: 'any', policy: 'rr' }
  const all = onNodes(['a', 'b', 'c'])
  t.same(order(balancer, choice, all), [0, 1, 2], 'at first all three are given')
  const without = all.with(1, { ...all[1]!, state: 'lost' })
  t.same(order(balancer, choice, without), [2, 0], 'the lost one is left out of the next order')
})

t.test('a limit is kept, also around the instance that was asked for', async (t) => {
  const many = onNodes(Array.from({ length: 1_000 }, (_, i) => `node${i % 50}`))
  const balancer = createBalancer(measures)
  for (const policy of ['rr', 'closest', 'least'] as const) {
    for (const limit of [1, 2, 4]) {
      const { instances } = balancer.order(target({ instance: 500, policy }), entryOf(many), 'c', limit)
      t.equal(instances.length, limit, `500.${policy} with limit ${limit} gives ${limit}`)
      t.equal(instances[0]?.ordinal, 500, `500.${policy} with limit ${limit} begins with the instance asked for`)
      t.equal(new Set(instances).size, limit, `500.${policy} with limit ${limit} gives no instance twice`)
    }
  }
})

t.test('targets without end do not fill the memory, and those in use keep working', async (t) => {
  const balancer = createBalancer(measures)
  const entry = entryOf(onNodes(['a', 'b']))
  for (let vip = 0; vip < 25_000; vip++) {
    const { instances } = balancer.order(target({ instance: 'any', policy: 'rr' }, vip), entry, 'c')
    if (instances.length !== 2) t.fail(`target ${vip} did not get both instances`)
  }
  const late = target({ instance: 'any', policy: 'rr' }, 24_999)
  t.same(ordinals(balancer.order(late, entry, 'c').instances), [1, 0], 'the latest is remembered')
})

function order(balancer: Balancer, choice: Choice, instances: readonly Instance[]): number[] {
  return ordinals(balancer.order(target(choice), entryOf(instances), 'caller').instances)
}

function target(choice: Choice, vip = 0xe0100): Target {
  return { choice, vip, service: entryOf([]).service }
}

function entryOf(instances: readonly Instance[]): ServiceEntry {
  const [app, appNamespace, name, namespace] = SERVICE.split('.') as [string, string, string, string]
  const service = { id: SERVICE, app, appNamespace, name, namespace, ports: [], allow: [], vips: {} }
  return { version: 1, service, instances, nodes: [] }
}
