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

t.test('round robin gives each running instance exactly one turn in a round', async (t) => {
  t.test('9 instances, 900 flows: 100 each', async (t) => {
    const running = onNodes(Array.from({ length: 9 }, (_, i) => `n${i % 3}`))
    const counts = count(roundRobin, 900, () => running)
    t.same([...counts.values()], Array(9).fill(100))
  })

  t.test('the rest of the order goes on around', async (t) => {
    const view = viewOf({ limit: 4 })
    const running = onNodes(['a', 'b', 'c', 'd', 'e'])
    t.same(ordinals(roundRobin(running, view)), [0, 1, 2, 3])
    t.same(ordinals(roundRobin(running, view)), [1, 2, 3, 4])
    t.same(ordinals(roundRobin(running, view)), [2, 3, 4, 0])
  })

  t.test('an instance that goes does not cost or win another its turn', async (t) => {
    const view = viewOf({ limit: 1 })
    const all = onNodes(['a', 'b', 'c', 'd'])
    const first = (running: readonly Instance[]) => ordinals(roundRobin(running, view))[0]
    t.equal(first(all), 0)
    t.equal(first(all), 1)
    t.equal(first(without(all, 1)), 2, 'the one whose turn it was has gone')
    t.equal(first(without(all, 3)), 0, 'the next has gone: around')
    t.equal(first(all), 1)
    t.equal(first(onNodes(['a'], 9)), 9, 'none of the old')
    t.equal(first(all), 0)
  })

  t.test('while others come and go, those that stay get exactly one turn a round', async (t) => {
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
    t.pass()
  })
})

t.test('closest orders by node, round trip and open flows', async (t) => {
  const running = onNodes(['far', 'near', 'here', 'new', 'near'])
  const rtts: Record<string, number> = { far: 80, near: 3 }
  const rttMs = (node: string) => rtts[node]

  t.test('this node, then by round-trip time, then what nobody has measured', async (t) => {
    const isHere = (node: string) => node === 'here'
    t.same(ordinals(closest(running, viewOf({ rttMs, isHere, limit: 9 }))), [2, 1, 4, 0, 3])
  })

  t.test('fewest open flows breaks ties, on a node and among unmeasured nodes', async (t) => {
    const openFlows = (id: string) => (id.endsWith('.1') ? 5 : 1)
    t.same(ordinals(closest(running, viewOf({ rttMs, openFlows, limit: 2 }))), [4, 1])
    const flows = new Map<string, number>()
    const nobody = viewOf({ openFlows: (id) => flows.get(id) ?? 0, limit: 1 })
    for (let i = 0; i < 50; i++) {
      const [first] = closest(running, nobody)
      flows.set(first!.id, (flows.get(first!.id) ?? 0) + 1)
    }
    t.same([...flows.values()], [10, 10, 10, 10, 10], 'as long as nothing is measured they share evenly')
  })

  t.test('the node in use stays first until another is clearly nearer', async (t) => {
    const two = onNodes(['a', 'b'])
    const rows = [
      { why: 'jitter on a short path', a: 1, b: 0.6, moves: false },
      { why: 'much nearer in share, but not by a millisecond', a: 1, b: 0.1, moves: false },
      { why: 'a millisecond is nothing on a long path', a: 100, b: 95, moves: false },
      { why: 'a fifth nearer, not more', a: 100, b: 80, moves: false },
      { why: 'clearly nearer', a: 100, b: 79, moves: true },
      { why: 'clearly nearer on a short path', a: 3, b: 1, moves: true },
      { why: 'the present is no longer measured', a: undefined, b: 200, moves: true },
      { why: 'the other is not measured', a: 300, b: undefined, moves: false },
    ]
    for (const { why, a, b, moves } of rows) {
      const memory = { node: 'a' }
      const view = viewOf({ memory, rttMs: (node) => (node === 'a' ? a : b) })
      t.same(ordinals(closest(two, view)), moves ? [1, 0] : [0, 1], why)
      t.equal(memory.node, moves ? 'b' : 'a', `${why}: remembered`)
    }
  })

  t.test('two nodes that jitter around the same distance: no flapping', async (t) => {
    const chance = fixed()
    const view = viewOf({ rttMs: () => 20 + 3 * chance() })
    const two = onNodes(['a', 'b'])
    const firsts = new Set(Array.from({ length: 500 }, () => ordinals(closest(two, view))[0]))
    t.equal(firsts.size, 1)
  })

  t.test('it moves when its node has nothing left, and an instance here always wins', async (t) => {
    const view = viewOf({ rttMs: (node) => (node === 'a' ? 10 : 40), isHere: (node) => node === 'here' })
    t.same(ordinals(closest(onNodes(['b', 'a']), view)), [1, 0])
    t.same(ordinals(closest(onNodes(['b']), view)), [0])
    t.same(ordinals(closest(onNodes(['b', 'a', 'here']), view)), [2, 1, 0])
  })

  t.test(
    'of very many nodes a short list is kept for half a second, and compared by what is measured now',
    async (t) => {
      const many = onNodes(Array.from({ length: 1_000 }, (_, i) => `n${i}`))
      const rtts = new Map(many.map(({ node, ordinal }) => [node, 10 + ordinal]))
      let asked = 0
      let nowMs = 0
      const rttMs = (node: string) => (asked++, rtts.get(node))
      const view = viewOf({ rttMs, now: () => nowMs, limit: 2, memory: {} })
      t.same(ordinals(closest(many, view)), [0, 1], 'the nearest of all')
      asked = 0
      rtts.set('n0', 900)
      t.same(ordinals(closest(many, view)), [1, 2], 'one of the list became slow: seen at once')
      t.ok(asked < 50, `${asked} round trips asked for, not 1,000`)
      rtts.set('n500', 0.1)
      t.same(ordinals(closest(many, view)), [1, 2], 'one outside became near')
      nowMs += 500
      t.same(ordinals(closest(many, view)), [500, 1], 'seen with the next list')
      const fewer = many.filter(({ ordinal }) => ordinal !== 500)
      t.same(ordinals(closest(fewer, view)), [1, 2], 'other instances run: a new list at once')
    },
  )

  t.test('the present node leads with all it has, and the others follow', async (t) => {
    const memory = { node: 'p' }
    const rttMs = (node: string) => ({ a: 10, b: 10.1, p: 10.5 })[node]
    const view = viewOf({ memory, rttMs, limit: 4 })
    t.same(ordinals(closest(onNodes(['a', 'a', 'a', 'b', 'p', 'p']), view)), [4, 5, 0, 1])
  })
})

t.test('pinned to any', async (t) => {
  t.test('an order that was worked out before holds as long as the same instances run', async (t) => {
    const running = onNodes(Array.from({ length: 50 }, () => 'n'))
    const view = viewOf({ caller: 'one', memory: {} })
    const order = ordinals(pinned(running, view))
    t.same(ordinals(pinned(running, view)), order)
    t.not(String(ordinals(pinned(running, { ...view, caller: 'two' }))), String(order), 'each caller has its own')
    t.same(ordinals(pinned(running, { ...view, limit: 1 })), order.slice(0, 1), 'and each limit')
    const without = running.filter(({ ordinal }) => ordinal !== order[0])
    t.equal(ordinals(pinned(without, view))[0], order[1], 'the first has gone: its second')
    for (let i = 0; i < 1_000; i++) pinned(running, { ...view, caller: `caller ${i}` })
    t.ok((view.memory.orders?.byCaller.size ?? 0) <= 256, 'callers without end do not fill the memory')
  })

  const running = onNodes(Array.from({ length: 10 }, () => 'n'))
  const callers = Array.from({ length: 2_000 }, (_, i) => `shop.acme.front.prod.${i}`)
  const choose = (caller: string, from: readonly Instance[]) => ordinals(pinned(from, viewOf({ caller })))

  t.test('each caller sticks, whatever else happens', async (t) => {
    for (const caller of callers.slice(0, 50)) {
      const [first] = choose(caller, running)
      const view = viewOf({ caller, random: Math.random, openFlows: () => 99, rttMs: () => 300 })
      t.equal(ordinals(pinned(running.slice(), view))[0], first)
    }
  })

  t.test('callers spread evenly', async (t) => {
    const counts = Array<number>(10).fill(0)
    for (const caller of callers) counts[choose(caller, running)[0] as number]! += 1
    // 200 each on average, standard deviation 13.4: five of them
    for (const [ordinal, callersHere] of counts.entries())
      t.ok(Math.abs(callersHere - 200) < 67, `${ordinal}: ${callersHere}`)
  })

  t.test('only the callers of the instance that goes move, each to its second, and back', async (t) => {
    for (const caller of callers.slice(0, 300)) {
      const [first, second] = choose(caller, running)
      t.equal(choose(caller, without(running, first as number))[0], second)
      const other = (first as number) === 3 ? 4 : 3
      t.equal(choose(caller, without(running, other))[0], first)
    }
  })

  t.test('a new instance takes its share from all, and no one else moves', async (t) => {
    const more = onNodes(Array.from({ length: 11 }, () => 'n'))
    let moved = 0
    for (const caller of callers) {
      const [now] = choose(caller, more)
      if (now === choose(caller, running)[0]) continue
      moved += 1
      if (now !== 10) t.fail(`${caller} moved to ${now}`)
    }
    t.ok(moved > 100 && moved < 270, `${moved} of 2,000 moved; about 182 should`)
  })

  t.test('one caller of many services does not always get the same number', async (t) => {
    const firsts = new Set<number>()
    for (let i = 0; i < 40; i++) {
      const service = `shop.acme.s${i}.prod`
      const instances = running.map((one) => ({ ...one, service, id: `${service}.${one.ordinal}` }))
      firsts.add(ordinals(pinned(instances, viewOf()))[0] as number)
    }
    t.ok(firsts.size >= 8, `${firsts.size} different`)
  })
})

t.test('least takes the less loaded of two, weighted by distance', async (t) => {
  t.test('of two, the one with fewer flows', async (t) => {
    const two = onNodes(['a', 'b'])
    const view = viewOf({ openFlows: (id) => (id.endsWith('.0') ? 3 : 2) })
    for (let i = 0; i < 20; i++) t.same(ordinals(least(two, view)), [1, 0])
  })

  t.test('weighted by latency', async (t) => {
    const rows = [
      { why: 'near and idle', near: 0, far: 0, first: 0 },
      { why: 'near takes more', near: 3, far: 0, first: 0 },
      { why: 'until it is loaded out of proportion', near: 60, far: 0, first: 1 },
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
    t.same(ordinals(least(onNodes(['a', 'b']), here)), [1], 'this node is nearest')
  })

  t.test('2,000 flows over 20 equal instances stay close together', async (t) => {
    const running = onNodes(Array.from({ length: 20 }, () => 'n'))
    const flows = new Map<string, number>()
    const view = viewOf({ limit: 1, random: fixed(), openFlows: (id) => flows.get(id) ?? 0 })
    for (let i = 0; i < 2_000; i++) {
      const [first] = least(running, view)
      flows.set(first!.id, (flows.get(first!.id) ?? 0) + 1)
    }
    t.equal(flows.size, 20)
    for (const [id, open] of flows) t.ok(Math.abs(open - 100) <= 5, `${id}: ${open}`)
  })
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
