import { createBalancer } from '../../../proxy/policies/index.ts'
import { carrierFor } from '../../../proxy/tunnel/session/placement.ts'
import type { ServiceEntry } from '../../../src/core/model/change.ts'
import { POLICIES } from '../../../src/core/model/choice.ts'
import type { Scenario } from '../bench.ts'
import { median, OURS } from '../table.ts'

const LIMIT = 'limit'
const INSTANCES = 1_000
const measureOf = (policy: string) => `pick by ${policy}, then a path, of ${INSTANCES} instances`

/** In this process: the order that a policy gives, then the carrier for the first of it. Every instance on a node of its own. */
export const pick: Scenario = {
  rows: POLICIES.map((policy) => ({
    measure: measureOf(policy),
    unit: 'µs',
    better: 'lower' as const,
    against: { [LIMIT]: 1 },
    limits: { [LIMIT]: 20 },
  })),
  needs: [],
  lanes: [
    {
      name: OURS,
      isOfThisCheckout: true,
      measure: () =>
        Promise.resolve(Object.fromEntries(POLICIES.map((policy) => [measureOf(policy), pickMicros(policy)]))),
    },
  ],
}

/** µs of CPU for one pick: the median of runs, since a collection of garbage in one says nothing. */
export function pickMicros(policy: (typeof POLICIES)[number], instances = INSTANCES): number {
  const entry = entryOf(instances)
  const rtt = new Map(entry.instances.map(({ node }, i) => [node, { rttMs: 1 + ((i * 7919) % instances) / 10 }]))
  const flows = new Map(entry.instances.map(({ id }, i) => [id, i % 3]))
  const balancer = createBalancer({
    rttMs: (node) => rtt.get(node)?.rttMs,
    isHere: (node) => node === 'edge/here',
    openFlows: (instance) => flows.get(instance) ?? 0,
  })
  const carriers = [0, 1, 2, 3].map((streams) => ({
    path: 'direct' as const,
    streams,
    backlog: 0,
    isDraining: false,
    bulks: 0,
    isDoubtful: false,
  }))
  const target = { service: entry.service, choice: { instance: 'any', policy } as const, vip: 1 }
  let chosen = 0
  const turn = (callers: number) => {
    for (let i = 0; i < callers; i++) {
      const [first] = balancer.order(target, entry, `node edge/n${i & 63}`).instances
      // What a flow leaves behind: its instance has one more open, another one less; a session's measure moves now and then.
      if (first !== undefined) flows.set(first.id, ((flows.get(first.id) ?? 0) + 1) % 5)
      if (carrierFor(carriers) !== undefined) chosen++
    }
  }
  turn(2_000)
  const runs = Array.from({ length: 9 }, () => {
    const before = process.threadCpuUsage()
    turn(2_000)
    const { user, system } = process.threadCpuUsage(before)
    return (user + system) / 2_000
  })
  if (chosen === 0) throw new Error('nothing was chosen')
  return median(runs) as number
}

function entryOf(count: number): ServiceEntry {
  const id = 'shop.acme.cart.prod'
  const parts = { app: 'shop', appNamespace: 'acme', name: 'cart', namespace: 'prod' }
  const nodes = Array.from({ length: count }, (_, i) => ({ id: `edge/node-${i}`, addresses: [], relays: [] }))
  return {
    version: 1,
    service: { id, ...parts, ports: [{ port: 80, protocol: 'tcp' }], allow: [], vips: { 'any.rr': 1 } },
    instances: nodes.map(({ id: node }, ordinal) => ({
      id: `${id}.${ordinal}`,
      service: id,
      ordinal,
      node,
      state: 'running',
    })),
    nodes,
  }
}
