import fc from 'fast-check'
import t from 'tap'
import { closest } from '../../proxy/policies/closest.ts'
import type { Policy } from '../../proxy/policies/contract.ts'
import { policies } from '../../proxy/policies/index.ts'
import { least } from '../../proxy/policies/least.ts'
import { pinned } from '../../proxy/policies/pinned.ts'
import { roundRobin } from '../../proxy/policies/round-robin.ts'
import type { Instance } from '../../src/core/model/instance.ts'
import { fixed, onNodes, ordinals, policyContract, viewOf } from '../contracts/policy.ts'

for (const [name, policy] of Object.entries(policies)) policyContract(name, () => policy)

// ── round robin gives each running instance exactly one turn in a round ──

t.test('round robin gives each of 9 instances 100 of 900 flows', async (t) => {
  const running = onNodes(Array.from({ length: 9 }, (_, i) => `n${i % 3}`))
  const counts = count(roundRobin, 900, () => running)
  t.same([...counts.values()], Array(9).fill(100), 'every instance has 100 flows')
})

t.test('an order of round robin begins one further each time, and goes around', async (t) => {
  const view = viewOf({ limit: 4 })
  const running = onNodes(['a', 'b', 'c', 'd', 'e'])
  t.same(ordinals(roundRobin(running, view)), [0, 1, 2, 3], 'the first order begins with the first instance')
  t.same(ordinals(roundRobin(running, view)), [1, 2, 3, 4], 'the second begins with the second')
  t.same(ordinals(roundRobin(running, view)), [2, 3, 4, 0], 'the third begins with the third, and goes on at the first')
})

t.test('with round robin, an instance that goes neither costs nor gives another a turn', async (t) => {
  const view = viewOf({ limit: 1 })
  const all = onNodes(['a', 'b', 'c', 'd'])
  const first = (running: readonly Instance[]) => ordinals(roundRobin(running, view))[0]
  t.equal(first(all), 0, 'the first turn is of instance 0')
  t.equal(first(all), 1, 'the second turn is of instance 1')
  t.equal(first(without(all, 1)), 2, 'instance 1, which had its turn, has gone: instance 2 is next all the same')
  t.equal(first(without(all, 3)), 0, 'instance 3, whose turn it would be, has gone: it goes around to instance 0')
  t.equal(first(all), 1, 'it goes on with instance 1 when all run again')
  t.equal(first(onNodes(['a'], 9)), 9, 'of the instances before none runs: the one that runs has the turn')
  t.equal(first(all), 0, 'after instance 9 it goes around to instance 0')
})

t.test('with round robin, instances that stay get exactly one turn a round while others come and go', async (t) => {
  const all = onNodes(Array.from({ length: 8 }, () => 'n'))
  const masks = fc.array(fc.nat({ max: 255 }), { minLength: 20, maxLength: 60 })
  fc.assert(
    fc.property(masks, (masks) => {
      const stay = [2, 5] // always there
      const view = viewOf({ limit: 1 })
      const seen: number[] = []
      for (const mask of masks) {
        const running = all.filter(({ ordinal }) => stay.includes(ordinal) || (mask & (1 << ordinal)) !== 0)
        seen.push(ordinals(roundRobin(running, view))[0] as number)
      }
      const turns = seen.filter((ordinal) => stay.includes(ordinal))
      return turns.every((ordinal, i) => i === 0 || ordinal !== turns[i - 1])
    }),
  )
  t.pass('of two instances that always run, neither had two turns without one of the other between')
})

// ── closest orders by node, round trip and open flows ──

const FIVE = onNodes(['far', 'near', 'here', 'new', 'near'])
const rttOfFive = (node: string) => ({ far: 80, near: 3 })[node]

t.test('closest puts this node first, then orders by round trip, and puts unmeasured nodes last', async (t) => {
  const isHere = (node: string) => node === 'here'
  const ordered = closest(FIVE, viewOf({ rttMs: rttOfFive, isHere, limit: 9 }))
  t.same(ordinals(ordered), [2, 1, 4, 0, 3], 'here, the two that are near, far, and the new one')
})

t.test('of equally near instances, closest takes the one with the fewest open flows', async (t) => {
  const openFlows = (id: string) => (id.endsWith('.1') ? 5 : 1)
  const ordered = closest(FIVE, viewOf({ rttMs: rttOfFive, openFlows, limit: 2 }))
  t.same(ordinals(ordered), [4, 1], 'on one node, the instance with fewer open flows comes first')
  const flows = new Map<string, number>()
  const nobody = viewOf({ openFlows: (id) => flows.get(id) ?? 0, limit: 1 })
  for (let i = 0; i < 50; i++) {
    const [first] = closest(FIVE, nobody)
    flows.set(first!.id, (flows.get(first!.id) ?? 0) + 1)
  }
  t.same([...flows.values()], [10, 10, 10, 10, 10], 'instances on unmeasured nodes share the flows evenly')
})

t.test('with closest, the node in use stays first until another is clearly nearer', async (t) => {
  const two = onNodes(['a', 'b'])
  const rows = [
    { why: 'it stays for jitter on a short path', a: 1, b: 0.6, moves: false },
    { why: 'it stays when the other is nearer by less than a millisecond, though tenfold', a: 1, b: 0.1, moves: false },
    { why: 'it stays when the other is 5 ms nearer on a long path', a: 100, b: 95, moves: false },
    { why: 'it stays when the other is a fifth nearer, not more', a: 100, b: 80, moves: false },
    { why: 'it moves when the other is more than a fifth nearer', a: 100, b: 79, moves: true },
    { why: 'it moves when the other is clearly nearer on a short path', a: 3, b: 1, moves: true },
    { why: 'it moves when the node in use is no longer measured', a: undefined, b: 200, moves: true },
    { why: 'it stays when the other is not measured', a: 300, b: undefined, moves: false },
  ]
  for (const { why, a, b, moves } of rows) {
    const memory = { node: 'a' }
    const view = viewOf({ memory, rttMs: (node) => (node === 'a' ? a : b) })
    t.same(ordinals(closest(two, view)), moves ? [1, 0] : [0, 1], why)
    t.equal(memory.node, moves ? 'b' : 'a', `${why}, and remembers the node that is first`)
  }
})

t.test('closest does not flap between two nodes that jitter around the same distance', async (t) => {
  const chance = fixed()
  const view = viewOf({ rttMs: () => 20 + 3 * chance() })
  const two = onNodes(['a', 'b'])
  const firsts = new Set(Array.from({ length: 500 }, () => ordinals(closest(two, view))[0]))
  t.equal(firsts.size, 1, 'the same node is first 500 times')
})

t.test('closest moves when its node has no instance left, and always prefers an instance here', async (t) => {
  const view = viewOf({ rttMs: (node) => (node === 'a' ? 10 : 40), isHere: (node) => node === 'here' })
  t.same(ordinals(closest(onNodes(['b', 'a']), view)), [1, 0], 'the nearer node, a, comes first')
  t.same(ordinals(closest(onNodes(['b']), view)), [0], 'without an instance on a, the one on b is taken')
  t.same(ordinals(closest(onNodes(['b', 'a', 'here']), view)), [2, 1, 0], 'an instance here comes before both')
})

t.test(
  'of very many nodes, closest keeps a short list for half a second and compares it by what is measured now',
  async (t) => {
    const many = onNodes(Array.from({ length: 1_000 }, (_, i) => `n${i}`))
    const rtts = new Map(many.map(({ node, ordinal }) => [node, 10 + ordinal]))
    let asked = 0
    let nowMs = 0
    const rttMs = (node: string) => (asked++, rtts.get(node))
    const view = viewOf({ rttMs, now: () => nowMs, limit: 2, memory: {} })
    t.same(ordinals(closest(many, view)), [0, 1], 'at first it takes the nearest of all')
    asked = 0
    rtts.set('n0', 900)
    t.same(ordinals(closest(many, view)), [1, 2], 'a node of the list became slow: that is seen at once')
    t.ok(asked < 50, `${asked} round trips asked for, not 1,000`)
    rtts.set('n500', 0.1)
    t.same(ordinals(closest(many, view)), [1, 2], 'a node outside the list became near: that is not seen yet')
    nowMs += 500
    t.same(ordinals(closest(many, view)), [500, 1], 'the node that became near is seen with the next list')
    const fewer = many.filter(({ ordinal }) => ordinal !== 500)
    t.same(ordinals(closest(fewer, view)), [1, 2], 'when other instances run, a new list is made at once')
  },
)

t.test('with closest, all instances of the node in use come before those of the others', async (t) => {
  const memory = { node: 'p' }
  const rttMs = (node: string) => ({ a: 10, b: 10.1, p: 10.5 })[node]
  const view = viewOf({ memory, rttMs, limit: 4 })
  const ordered = closest(onNodes(['a', 'a', 'a', 'b', 'p', 'p']), view)
  t.same(ordinals(ordered), [4, 5, 0, 1], 'both of p, the node in use, then those of a, which is a little nearer')
})

// ── pinned gives each caller an instance that it keeps ──

t.test('pinned keeps the order that it worked out for a caller as long as the same instances run', async (t) => {
  const running = onNodes(Array.from({ length: 50 }, () => 'n'))
  const view = viewOf({ caller: 'one', memory: {} })
  const order = ordinals(pinned(running, view))
  t.same(ordinals(pinned(running, view)), order, 'the same caller gets the same order')
  t.not(
    String(ordinals(pinned(running, { ...view, caller: 'two' }))),
    String(order),
    'another caller gets an order of its own',
  )
  t.same(
    ordinals(pinned(running, { ...view, limit: 1 })),
    order.slice(0, 1),
    'a smaller limit gives the beginning of the order',
  )
  const without = running.filter(({ ordinal }) => ordinal !== order[0])
  t.equal(ordinals(pinned(without, view))[0], order[1], 'when the first has gone, the second takes its place')
  for (let i = 0; i < 1_000; i++) pinned(running, { ...view, caller: `caller ${i}` })
  t.ok((view.memory.orders?.byCaller.size ?? 0) <= 256, 'callers without end do not fill the memory')
})

const TEN = onNodes(Array.from({ length: 10 }, () => 'n'))
const CALLERS = Array.from({ length: 2_000 }, (_, i) => `shop.acme.front.prod.${i}`)
const choose = (caller: string, from: readonly Instance[]) => ordinals(pinned(from, viewOf({ caller })))

t.test('with pinned, each caller keeps its instance whatever is measured', async (t) => {
  for (const caller of CALLERS.slice(0, 50)) {
    const [first] = choose(caller, TEN)
    const view = viewOf({ caller, random: Math.random, openFlows: () => 99, rttMs: () => 300 })
    t.equal(ordinals(pinned(TEN.slice(), view))[0], first, `${caller} gets the same instance again`)
  }
})

t.test('pinned spreads callers evenly', async (t) => {
  const counts = Array<number>(10).fill(0)
  for (const caller of CALLERS) counts[choose(caller, TEN)[0] as number]! += 1
  // 200 each on average, standard deviation 13.4: five of them
  for (const [ordinal, callersHere] of counts.entries())
    t.ok(Math.abs(callersHere - 200) < 67, `instance ${ordinal} has about 200 of 2,000 callers: ${callersHere}`)
})

t.test('with pinned, only the callers of an instance that goes move, each to its second', async (t) => {
  for (const caller of CALLERS.slice(0, 300)) {
    const [first, second] = choose(caller, TEN)
    t.equal(choose(caller, without(TEN, first as number))[0], second, `${caller} moves when its instance has gone`)
    const other = (first as number) === 3 ? 4 : 3
    t.equal(choose(caller, without(TEN, other))[0], first, `${caller} stays when another instance has gone`)
  }
})

t.test('with pinned, a new instance takes its share from all, and no other caller moves', async (t) => {
  const more = onNodes(Array.from({ length: 11 }, () => 'n'))
  let moved = 0
  for (const caller of CALLERS) {
    const [now] = choose(caller, more)
    if (now === choose(caller, TEN)[0]) continue
    moved += 1
    if (now !== 10) t.fail(`${caller} moved to ${now}, which is not the new instance`)
  }
  t.ok(moved > 100 && moved < 270, `${moved} of 2,000 moved; about 182 should`)
})

t.test('with pinned, one caller of many services does not always get the same number', async (t) => {
  const firsts = new Set<number>()
  for (let i = 0; i < 40; i++) {
    const service = `shop.acme.s${i}.prod`
    const instances = TEN.map((one) => ({ ...one, service, id: `${service}.${one.ordinal}` }))
    firsts.add(ordinals(pinned(instances, viewOf()))[0] as number)
  }
  t.ok(firsts.size >= 8, `of 40 services, one caller gets at least 8 different numbers: ${firsts.size}`)
})

// ── least takes the less loaded of two, weighted by distance ──

t.test('of two equally near instances, least takes the one with fewer flows', async (t) => {
  const two = onNodes(['a', 'b'])
  const view = viewOf({ openFlows: (id) => (id.endsWith('.0') ? 3 : 2) })
  for (let i = 0; i < 20; i++) t.same(ordinals(least(two, view)), [1, 0], 'instance 1 has fewer flows')
})

t.test('least weighs the open flows by the distance', async (t) => {
  const rows = [
    { why: 'of two idle instances the near one is taken', near: 0, far: 0, first: 0 },
    { why: 'the near one is taken though it has a few flows more', near: 3, far: 0, first: 0 },
    { why: 'the far one is taken when the near one is loaded out of proportion', near: 60, far: 0, first: 1 },
  ]
  for (const { why, near, far, first } of rows) {
    const view = viewOf({
      limit: 1,
      openFlows: (id) => (id.endsWith('.0') ? near : far),
      rttMs: (node) => (node === 'near' ? 1 : 100),
    })
    t.same(ordinals(least(onNodes(['near', 'far']), view)), [first], why)
  }
  const here = viewOf({ limit: 1, isHere: (node) => node === 'b', rttMs: () => 50 })
  t.same(ordinals(least(onNodes(['a', 'b']), here)), [1], 'an instance on this node is nearest')
})

t.test('with least, 2,000 flows over 20 equal instances stay close together', async (t) => {
  const running = onNodes(Array.from({ length: 20 }, () => 'n'))
  const flows = new Map<string, number>()
  const view = viewOf({ limit: 1, random: fixed(), openFlows: (id) => flows.get(id) ?? 0 })
  for (let i = 0; i < 2_000; i++) {
    const [first] = least(running, view)
    flows.set(first!.id, (flows.get(first!.id) ?? 0) + 1)
  }
  t.equal(flows.size, 20, 'every instance has flows')
  for (const [id, open] of flows) t.ok(Math.abs(open - 100) <= 5, `${id} has 95 to 105 flows: ${open}`)
})

function without(instances: readonly Instance[], ordinal: number): Instance[] {
  return instances.filter((instance) => instance.ordinal !== ordinal)
}

function count(policy: Policy, flows: number, running: () => readonly Instance[]): Map<number, number> {
  const counts = new Map<number, number>()
  const view = viewOf()
  for (let i = 0; i < flows; i++) {
    const [first] = ordinals(policy(running(), view)) as [number]
    counts.set(first, (counts.get(first) ?? 0) + 1)
  }
  return counts
}
