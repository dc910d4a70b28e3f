import fc from 'fast-check'
import t from 'tap'
import type { Policy, PolicyView } from '../../proxy/policies/contract.ts'
import type { Instance } from '../../src/core/model/instance.ts'

export const SERVICE = 'shop.acme.cart.prod'

/** Instances of one service by ordinal, on the nodes named: `onNodes(['n1', 'n2'])` are 0 and 1. */
export function onNodes(nodes: readonly string[], first = 0): Instance[] {
  return nodes.map((node, i) => ({
    id: `${SERVICE}.${first + i}`,
    service: SERVICE,
    ordinal: first + i,
    node,
    state: 'running',
  }))
}

export function viewOf(parts: Partial<PolicyView> = {}): PolicyView {
  return {
    service: SERVICE,
    choice: { instance: 'any', policy: 'rr' },
    caller: 'caller',
    limit: 4,
    memory: {},
    rttMs: () => undefined,
    isHere: () => false,
    openFlows: () => 0,
    random: Math.random,
    now: () => 0,
    ...parts,
  }
}

export function ordinals(instances: readonly Instance[]): number[] {
  return instances.map(({ ordinal }) => ordinal)
}

/** What the caller may rely on, whatever the policy: an order to try, made of what runs. */
export function policyContract(name: string, make: () => Policy): void {
  t.test(`${name} keeps the contract of policies`, async (t) => {
    t.test('nothing runs: nothing to try', async (t) => {
      t.same(make()([], viewOf()), [])
    })

    t.test('one instance is the order', async (t) => {
      t.same(ordinals(make()(onNodes(['n1'], 7), viewOf())), [7])
      t.same(ordinals(make()(onNodes(['n1'], 7), viewOf({ limit: 1 }))), [7])
    })

    t.test('in any world, turn after turn: as many as may be tried, of those that run, none twice', async (t) => {
      fc.assert(
        fc.property(worlds, ({ instances, limit, rtts, flows, here, turns, seed }) => {
          const policy = make()
          let state = seed
          const random = () => (state = (state * 16_807) % 2_147_483_647) / 2_147_483_647
          const view = viewOf({
            limit,
            random,
            rttMs: (node) => rtts.get(node),
            isHere: (node) => node === here,
            openFlows: (id) => flows.get(id) ?? 0,
          })
          for (let turn = 0; turn < turns; turn++) {
            const before = JSON.stringify(instances)
            // Once in a while an instance comes or goes: the memory is of another set then.
            const running = instances.filter((_, i) => turn === 0 || (i + turn) % 5 !== 0)
            const order = policy(running, view)
            if (JSON.stringify(instances) !== before) throw new Error('it changed what it was given')
            if (order.length !== Math.min(limit, running.length))
              throw new Error(`${order.length} of ${running.length}`)
            if (new Set(order).size !== order.length) throw new Error('an instance twice')
            if (order.some((instance) => !running.includes(instance))) throw new Error('one that does not run')
          }
        }),
        { numRuns: 300 },
      )
      t.pass('300 worlds')
    })

    t.test('asked for all, it gives every instance once', async (t) => {
      const running = onNodes(['n1', 'n2', 'n1', 'n3', 'n2', 'n1', 'n4'])
      const order = make()(running, viewOf({ limit: 100, rttMs: (node) => (node === 'n3' ? undefined : 5) }))
      t.same(
        ordinals(order).toSorted((a, b) => a - b),
        [0, 1, 2, 3, 4, 5, 6],
      )
    })

    t.test('what it keeps is in the memory it was handed: two targets do not disturb each other', async (t) => {
      const running = onNodes(['n1', 'n2', 'n3'])
      const alone = turns(make(), running, 6)
      const policy = make()
      const other = viewOf({ random: fixed(), memory: {} })
      const view = viewOf({ random: fixed(), memory: {} })
      const beside = Array.from({ length: 6 }, () => {
        policy(running, other)
        return ordinals(policy(running, view))
      })
      t.same(beside, alone)
    })
  })
}

function turns(policy: Policy, running: readonly Instance[], count: number): number[][] {
  const view = viewOf({ random: fixed(), memory: {} })
  return Array.from({ length: count }, () => ordinals(policy(running, view)))
}

/** The same chances every time. */
export function fixed(seed = 42): () => number {
  let state = seed
  return () => (state = (state * 16_807) % 2_147_483_647) / 2_147_483_647
}

const node: fc.Arbitrary<string> = fc.constantFrom('n1', 'n2', 'n3', 'n4', 'n5')
const rtt = fc.oneof(fc.constant(undefined), fc.constantFrom(0, 1, 5), fc.double({ min: 0, max: 300, noNaN: true }))
const worlds = fc.record({
  instances: fc.array(node, { maxLength: 12 }).map((nodes) => onNodes(nodes)),
  limit: fc.integer({ min: 1, max: 15 }),
  rtts: fc.array(fc.tuple(node, rtt)).map((pairs) => new Map(pairs)),
  flows: fc
    .array(fc.nat({ max: 9 }), { maxLength: 12 })
    .map((counts) => new Map(counts.map((count, i) => [`${SERVICE}.${i}`, count]))),
  here: fc.option(node),
  turns: fc.integer({ min: 1, max: 8 }),
  seed: fc.integer({ min: 1, max: 2_147_483_646 }),
})
