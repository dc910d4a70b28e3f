import t, { type Test } from 'tap'
import { plan, type ClusterConditions, type Step } from '../../src/orchestrator/root/plan.ts'
import type { InstanceRecord, ServiceRecord } from '../../src/orchestrator/root/root-store.ts'
import { specOf } from './specs.ts'

const service = (replicas: number, generation = 1): ServiceRecord => ({
  id: 'shop.acme.cart.prod',
  spec: specOf({ replicas }),
  generation,
  version: 1,
})
const at = (ordinal: number, changes: Partial<InstanceRecord> = {}): InstanceRecord => ({
  id: `shop.acme.cart.prod.${ordinal}`,
  service: 'shop.acme.cart.prod',
  ordinal,
  wanted: true,
  generation: 1,
  state: 'running',
  restarts: 0,
  cluster: 'edge',
  changedAt: 0,
  ...changes,
})
const nowhere = (ordinal: number, changes: Partial<InstanceRecord> = {}) => {
  const { cluster: _, ...record } = at(ordinal, changes)
  return record
}
const id = (ordinal: number) => `shop.acme.cart.prod.${ordinal}`
const up: ClusterConditions = {
  isUp: () => true,
  isLost: () => false,
  hasRoomElsewhere: () => true,
  whyWaiting: () => undefined,
  mayUpdate: () => true,
}
const away: ClusterConditions = { ...up, isUp: () => false }
const lost: ClusterConditions = { ...away, isLost: () => true }
const full: ClusterConditions = { ...lost, hasRoomElsewhere: () => false }

/** What is wanted, what is, and the steps from here to there. Without a service nothing is wanted. */
interface Row {
  why: string
  service?: ServiceRecord
  instances: InstanceRecord[]
  conditions?: ClusterConditions
  steps: Step[]
}

function planned(t: Test, rows: readonly Row[]): void {
  for (const { why, service, instances, conditions = up, steps } of rows)
    t.same(plan(service, instances, conditions), steps, why)
}

t.test('as many instances are created or retired as the service wants', async (t) => {
  planned(t, [
    { why: 'as many run as are wanted: nothing to do', service: service(2), instances: [at(0), at(1)], steps: [] },
    {
      why: 'a new service has each of its instances created',
      service: service(2),
      instances: [],
      steps: [
        { kind: 'create', ordinal: 0 },
        { kind: 'create', ordinal: 1 },
      ],
    },
    {
      why: 'scaling up creates the lowest number that is free',
      service: service(3),
      instances: [at(0), at(2)],
      steps: [{ kind: 'create', ordinal: 1 }],
    },
    {
      why: 'scaling down retires and withdraws the highest number',
      service: service(1),
      instances: [at(0), at(1)],
      steps: [
        { kind: 'retire', id: id(1) },
        { kind: 'withdraw', id: id(1), cluster: 'edge' },
      ],
    },
  ])
})

t.test('an instance that is no longer wanted ends, and its number is not used meanwhile', async (t) => {
  planned(t, [
    {
      why: 'a number that still ends is withdrawn again, not created',
      service: service(1),
      instances: [at(0, { wanted: false })],
      steps: [{ kind: 'withdraw', id: id(0), cluster: 'edge' }],
    },
    {
      why: 'the instance of a deleted service is withdrawn',
      instances: [at(0, { wanted: false })],
      steps: [{ kind: 'withdraw', id: id(0), cluster: 'edge' }],
    },
    {
      why: 'an instance that ends and is in no cluster is forgotten',
      instances: [nowhere(0, { wanted: false })],
      steps: [{ kind: 'forget', id: id(0) }],
    },
    {
      why: 'an instance that ends in a cluster which is away waits for it',
      instances: [at(0, { wanted: false })],
      conditions: away,
      steps: [],
    },
    {
      why: 'an instance that ends in a cluster which is lost is forgotten',
      instances: [at(0, { wanted: false })],
      conditions: lost,
      steps: [{ kind: 'forget', id: id(0) }],
    },
  ])
})

t.test('an instance is placed when it is in no cluster, or in one that is lost while another has room', async (t) => {
  planned(t, [
    {
      why: 'an instance that is in no cluster is placed',
      service: service(1),
      instances: [nowhere(0)],
      steps: [{ kind: 'place', id: id(0) }],
    },
    {
      why: 'an instance in a cluster that is away stays there',
      service: service(1),
      instances: [at(0)],
      conditions: away,
      steps: [],
    },
    {
      why: 'an instance in a cluster that is lost is placed anew',
      service: service(1),
      instances: [at(0)],
      conditions: lost,
      steps: [{ kind: 'place', id: id(0) }],
    },
    {
      why: 'an instance in a cluster that is lost stays there when no other has room',
      service: service(1),
      instances: [at(0)],
      conditions: full,
      steps: [],
    },
    {
      why: 'one with a lease stays, since its cluster may live on, cut off, and grant it',
      service: { ...service(1), spec: specOf({ replicas: 1, lease_seconds: 20 }) },
      instances: [at(0)],
      conditions: lost,
      steps: [],
    },
    {
      why: 'an instance whose node is lost, and whose cluster has no other for it, is placed in another cluster',
      service: service(1),
      instances: [at(0, { state: 'lost', noOtherNode: true })],
      steps: [{ kind: 'place', id: id(0) }],
    },
    {
      why: 'it waits for what it starts after',
      service: service(1),
      instances: [nowhere(0, { state: 'requested' })],
      conditions: { ...up, whyWaiting: () => 'waits for db' },
      steps: [{ kind: 'wait', id: id(0), why: 'waits for db' }],
    },
    {
      why: 'it stays bound to its node when no other cluster has room',
      service: service(1),
      instances: [at(0, { state: 'lost', noOtherNode: true })],
      conditions: { ...up, hasRoomElsewhere: () => false },
      steps: [],
    },
  ])
})

t.test('a new generation replaces the old one instance by instance', async (t) => {
  planned(t, [
    {
      why: 'of an old generation one instance is updated first',
      service: service(2, 2),
      instances: [at(0), at(1)],
      steps: [{ kind: 'update', id: id(0), cluster: 'edge', how: 'beside-if-possible' }],
    },
    {
      why: 'the second waits until the first of the new generation runs',
      service: service(2, 2),
      instances: [at(0, { generation: 2, state: 'starting' }), at(1)],
      steps: [],
    },
    {
      why: 'the second is updated once the first runs',
      service: service(2, 2),
      instances: [at(0, { generation: 2 }), at(1)],
      steps: [{ kind: 'update', id: id(1), cluster: 'edge', how: 'beside-if-possible' }],
    },
    {
      why: 'a new generation that failed stops the update of the others',
      service: service(2, 2),
      instances: [at(0, { generation: 2, state: 'failed' }), at(1)],
      steps: [],
    },
    {
      why: 'a failed generation is replaced by a newer one',
      service: service(2, 3),
      instances: [at(0, { generation: 2, state: 'failed' }), at(1)],
      steps: [{ kind: 'update', id: id(0), cluster: 'edge', how: 'beside-if-possible' }],
    },
    {
      why: 'one whose cluster has just refused is not updated now',
      service: service(1, 2),
      instances: [at(0)],
      conditions: { ...up, mayUpdate: () => false },
      steps: [],
    },
    {
      why: 'an instance in a cluster that is away is not updated',
      service: service(1, 2),
      instances: [at(0)],
      conditions: away,
      steps: [],
    },
  ])
})

t.test('a newer document without a new generation is sent to all, and moves what does not meet it', async (t) => {
  const newer = { ...service(2), revision: 5 }
  planned(t, [
    {
      why: 'each is sent it, whatever the others do',
      service: newer,
      instances: [at(0, { state: 'starting' }), at(1, { revision: 4 })],
      steps: [
        { kind: 'renew', id: id(0), cluster: 'edge' },
        { kind: 'renew', id: id(1), cluster: 'edge' },
      ],
    },
    {
      why: 'one that has it is left alone, one whose node does not meet it moves',
      service: newer,
      instances: [at(0, { revision: 5 }), at(1, { unsuited: 'too little memory free' })],
      steps: [{ kind: 'move', id: id(1), cluster: 'edge' }],
    },
    {
      why: 'one of an old generation gets it with the new one',
      service: { ...newer, generation: 2 },
      instances: [at(0), at(1)],
      steps: [{ kind: 'update', id: id(0), cluster: 'edge', how: 'beside-if-possible' }],
    },
    { why: 'a cluster that is away waits', service: newer, instances: [at(0), at(1)], conditions: away, steps: [] },
  ])
})
