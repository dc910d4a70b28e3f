import fc from 'fast-check'
import t, { type Test } from 'tap'
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
    for (const [promise, check] of Object.entries(PROMISES)) t.test(promise, async (t) => check(t, make))
  })
}

const PROMISES: Readonly<Record<string, (t: Test, make: () => Policy) => void>> = {
  'nothing runs: nothing to try': nothingRuns,
  'one instance is the order': oneRuns,
  'in any world, turn after turn: as many as may be tried, of those that run, none twice': anyWorld,
  'asked for all, it gives every instance once': askedForAll,
  'what it keeps is in the memory it was handed: two targets do not disturb each other': memoryApart,
}

function nothingRuns(t: Test, make: () => Policy): void {
  t.same(make()([], viewOf()), [], 'the order is empty')
}

function oneRuns(t: Test, make: () => Policy): void {
  t.same(ordinals(make()(onNodes(['n1'], 7), viewOf())), [7], 'the only instance is tried')
  t.same(ordinals(make()(onNodes(['n1'], 7), viewOf({ limit: 1 }))), [7], 'also where one only may be tried')
}

function anyWorld(t: Test, make: () => Policy): void {
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
        const wrong = faultOf(policy(running, view), running, limit)
        if (wrong !== undefined) throw new Error(`turn ${turn}: ${wrong}`)
        if (JSON.stringify(instances) !== before) throw new Error('the policy changed what it was given')
      }
    }),
    { numRuns: 300 },
  )
  t.pass('in 300 worlds each order was sound')
}

/** What is wrong with an order to try; nothing when it is sound. */
function faultOf(order: readonly Instance[], running: readonly Instance[], limit: number): string | undefined {
  const wanted = Math.min(limit, running.length)
  if (order.length !== wanted) return `${order.length} instances to try instead of ${wanted}`
  if (new Set(order).size !== order.length) return 'an instance is to be tried twice'
  return order.every((instance) => running.includes(instance))
    ? undefined
    : 'an instance is to be tried that does not run'
}

function askedForAll(t: Test, make: () => Policy): void {
  const running = onNodes(['n1', 'n2', 'n1', 'n3', 'n2', 'n1', 'n4'])
  const order = make()(running, viewOf({ limit: 100, rttMs: (node) => (node === 'n3' ? undefined : 5) }))
  t.same(
    ordinals(order).toSorted((a, b) => a - b),
    [0, 1, 2, 3, 4, 5, 6],
    'each of the seven is there once',
  )
}

function memoryApart(t: Test, make: () => Policy): void {
  const running = onNodes(['n1', 'n2', 'n3'])
  const alone = turns(make(), running, 6)
  const policy = make()
  const other = viewOf({ random: fixed(), memory: {} })
  const view = viewOf({ random: fixed(), memory: {} })
  const beside = Array.from({ length: 6 }, () => {
    policy(running, other)
    return ordinals(policy(running, view))
  })
  t.same(beside, alone, 'beside another target the order is the same as alone')
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
