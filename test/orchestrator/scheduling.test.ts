import fc from 'fast-check'
import { test, type Test } from 'tap'
import {
  DIMENSIONS,
  demandOf,
  NOTHING,
  release,
  reserve,
  shortage,
} from '../../src/orchestrator/scheduling/capacity.ts'
import {
  nodeCandidate,
  portsOfNode,
  type Candidate,
  type NodeView,
} from '../../src/orchestrator/scheduling/candidate.ts'
import { nearestMs, type Anchor } from '../../src/orchestrator/scheduling/distance.ts'
import { distanceKm, fibreMs } from '../../src/orchestrator/scheduling/geometry.ts'
import type { PlacementRequest } from '../../src/orchestrator/scheduling/placement-request.ts'
import { RULES, schedule, reasonsText, type Decision } from '../../src/orchestrator/scheduling/schedule.ts'
import type { Capacity, Constraint, NodeFacts, ServiceSpec } from '../../src/orchestrator/spec.ts'
import { clusterCandidate, summarise } from '../../src/orchestrator/scheduling/summary.ts'
import { factsOf, specOf } from './specs.ts'

const plain = specOf()
const capacityOf = (amounts: Partial<Capacity> = {}): Capacity => ({ ...NOTHING, memoryMb: 1000, vcpus: 4, ...amounts })

interface NodeSays extends Partial<Omit<NodeView, 'facts' | 'free'>> {
  facts?: Partial<NodeFacts>
  free?: Partial<Capacity>
}

function viewOf(id: string, { facts, free, ...says }: NodeSays = {}): NodeView {
  return {
    facts: factsOf({ id, capacity: capacityOf(), ...facts }),
    condition: 'alive',
    free: capacityOf(free),
    portsTaken: [],
    instances: 0,
    perService: new Map(),
    ...says,
  }
}

const node = (id: string, says?: NodeSays): Candidate => nodeCandidate(viewOf(id, says))

function chosen(request: PlacementRequest, candidates: Candidate[]): string {
  const placement = schedule(request, candidates)
  return placement.kind === 'placed' ? placement.candidate.id : Object.keys(placement.reasons).join()
}

function reasonsIn(placement: Decision): Record<string, number> {
  return placement.kind === 'unplaceable' ? placement.reasons : {}
}

/** What is asked for, what the node says, and the reason against it; without a reason it is taken. */
interface Filtered {
  why: string
  spec?: Record<string, unknown>
  says?: NodeSays
  refusedBy?: string[]
  reason?: string
}

function filtered(t: Test, rows: readonly Filtered[]): void {
  for (const { why, spec, says, refusedBy = [], reason } of rows) {
    const placement = schedule({ spec: specOf(spec), refusedBy: new Set(refusedBy) }, [node('edge/n1', says)])
    if (reason === undefined) t.equal(placement.kind, 'placed', `${why}: taken`)
    else t.same(reasonsIn(placement), { [reason]: 1 }, `${why}: refused`)
  }
}

test('a node is refused for its state, its runtimes or its architecture, with the reason', async (t) => {
  filtered(t, [
    { why: 'nothing is asked for: any node that is alive will do' },
    { why: 'a cordoned node takes nothing new', says: { condition: 'cordoned' }, reason: 'cordoned' },
    { why: 'a lost node takes nothing', says: { condition: 'lost' }, reason: 'lost' },
    { why: 'a node that has refused is not asked again', refusedBy: ['edge/n1'], reason: 'refused it already' },
    { why: 'a node is asked although another has refused', refusedBy: ['edge/n2'] },
    {
      why: 'a runtime that the node does not offer',
      spec: { runtime: 'docker', code: 'x' },
      reason: 'runtime docker not offered',
    },
    {
      why: 'a runtime that the node offers',
      spec: { runtime: 'docker', code: 'x' },
      says: { facts: { runtimes: ['docker'] } },
    },
    { why: 'an architecture that the node does not have', spec: { arch: ['arm64'] }, reason: 'other architecture' },
    { why: 'one of the architectures asked for is enough', spec: { arch: ['arm64', 'amd64'] } },
  ])
})

test('a node without room is refused with what it lacks, and one with just enough is not', async (t) => {
  filtered(t, [
    {
      why: 'more memory than is free',
      spec: { memory: 501 },
      says: { free: { memoryMb: 500 } },
      reason: 'too little memory free',
    },
    { why: 'exactly the memory that is free', spec: { memory: 500 }, says: { free: { memoryMb: 500 } } },
    {
      why: 'more cores than are free',
      spec: { vcpus: 0.6 },
      says: { free: { vcpus: 0.5 } },
      reason: 'too few vcpus free',
    },
    { why: 'a gpu where there is none', spec: { vgpus: 1 }, reason: 'no gpu' },
    { why: 'a tpu where there is none', spec: { vtpus: 1 }, reason: 'no tpu' },
    { why: 'storage where there is none', spec: { storage: 1 }, reason: 'too little storage free' },
    { why: 'an overfull node still takes an instance without demands', says: { free: { memoryMb: -1 } } },
    {
      why: 'a fixed port that is taken',
      spec: { port: '80:8080', fixed_port: true },
      says: { portsTaken: ['tcp/8080'] },
      reason: 'fixed_port tcp/8080 taken',
    },
    {
      why: 'a host_port that is taken, whatever listens there',
      spec: { runtime: 'docker', code: 'web:1', ports: [{ port: 80, host_port: 8080 }, 8080] },
      says: { facts: factsOf({ runtimes: ['docker'] }), portsTaken: ['tcp/8080'] },
      reason: 'host_port tcp/8080 taken',
    },
    {
      why: 'a host_port of a program that is taken',
      spec: { ports: [{ port: 80, host_port: 8080 }] },
      says: { portsTaken: ['tcp/8080'] },
      reason: 'host_port tcp/8080 taken',
    },
    {
      why: 'a port in a container takes none of the node',
      spec: { runtime: 'docker', code: 'web:1', port: '8080' },
      says: { facts: factsOf({ runtimes: ['docker'] }), portsTaken: ['tcp/8080'] },
    },
    {
      why: 'a fixed port that is taken for the other protocol only',
      spec: { port: '80:8080/udp', fixed_port: true },
      says: { portsTaken: ['tcp/8080'] },
    },
    {
      why: 'a port that is taken but need not be that one',
      spec: { port: '80:8080' },
      says: { portsTaken: ['tcp/8080'] },
    },
  ])
})

test('a node is refused unless it is named or has what is asked for', async (t) => {
  filtered(t, [
    {
      why: 'direct: other nodes are named',
      spec: { constraints: [{ type: 'direct', node: 'n2;n3' }] },
      reason: 'not the node or cluster asked for',
    },
    {
      why: 'direct: this node is among those named, in other letters',
      spec: { constraints: [{ type: 'direct', node: 'n2;N1' }] },
    },
    {
      why: 'direct: this node is named with its cluster',
      spec: { constraints: [{ type: 'direct', node: 'edge/n1' }] },
    },
    {
      why: 'direct: a node of the same name in another cluster is named',
      spec: { constraints: [{ type: 'direct', node: 'core/n1' }] },
      reason: 'not the node or cluster asked for',
    },
    {
      why: 'direct: another cluster is named',
      spec: { constraints: [{ type: 'direct', cluster: 'core' }] },
      reason: 'not the node or cluster asked for',
    },
    {
      why: 'clusters: this one is not among them',
      spec: { constraints: [{ type: 'clusters', allowed: ['core'] }] },
      reason: 'cluster not allowed',
    },
    {
      why: 'clusters: this one is among them',
      spec: { constraints: [{ type: 'clusters', allowed: ['core', 'edge'] }] },
    },
    {
      why: 'addons: one of two is missing',
      spec: { constraints: [{ type: 'addons', needs: ['gpu', 'ssd'] }] },
      says: { facts: { labels: { gpu: 'yes' } } },
      reason: 'addon missing',
    },
    {
      why: 'addons: the label is there, and empty',
      spec: { constraints: [{ type: 'addons', needs: ['gpu'] }] },
      says: { facts: { labels: { gpu: '' } } },
    },
    {
      why: 'addons: the label says false',
      spec: { constraints: [{ type: 'addons', needs: ['gpu'] }] },
      says: { facts: { labels: { gpu: 'false' } } },
      reason: 'addon missing',
    },
  ])
})

test('a node is refused in another area, and every kind of constraint must hold', async (t) => {
  filtered(t, [
    {
      why: 'a node without an area where one is asked for',
      spec: { constraints: [{ type: 'latency', area: 'munich-1' }] },
      reason: 'other area',
    },
    {
      why: 'a node in one of two areas',
      spec: {
        constraints: [
          { type: 'latency', area: 'munich-1' },
          { type: 'latency', area: 'berlin-1' },
        ],
      },
      says: { facts: { area: 'berlin-1' } },
    },
    {
      why: 'a node that keeps one kind of constraint and not the other',
      spec: {
        constraints: [
          { type: 'latency', area: 'a' },
          { type: 'clusters', allowed: ['core'] },
        ],
      },
      says: { facts: { area: 'a' } },
      reason: 'cluster not allowed',
    },
  ])
})

test('a node is refused where it is too far from each place asked for', async (t) => {
  const munich = { lat: 48.137, lon: 11.576 }
  filtered(t, [
    {
      why: 'a node that does not say where it is',
      spec: { constraints: [{ type: 'geo', location: '48.1,11.6', threshold: 5 }] },
      reason: 'its location is not known',
    },
    {
      why: 'a node within the distance',
      spec: { constraints: [{ type: 'geo', location: '48.15,11.58', threshold: 5 }] },
      says: { facts: { location: munich } },
    },
    {
      why: 'a node beyond the distance',
      spec: { constraints: [{ type: 'geo', location: '52.52,13.4', threshold: 500 }] },
      says: { facts: { location: munich } },
      reason: 'more than 500 km from 52.52,13.4',
    },
    {
      why: 'a node just within a larger distance',
      spec: { constraints: [{ type: 'geo', location: '52.52,13.4', threshold: 510 }] },
      says: { facts: { location: munich } },
    },
    {
      why: 'a node near one of two places',
      spec: {
        constraints: [
          { type: 'geo', location: '52.52,13.4', threshold: 5 },
          { type: 'geo', location: '48.137,11.576', threshold: 5 },
        ],
      },
      says: { facts: { location: munich } },
    },
  ])
})

const coordinate = (ms: number, height = 0) => ({ at: [ms, 0, 0], height, error: 0.1 })
const anchor = (node: string, ms: number, beyondMs = 0): Anchor => ({ node, coordinate: coordinate(ms), beyondMs })

test('the distance of a node is that to its nearest anchor', async (t) => {
  const at = (ms: number | undefined, height?: number) =>
    node('edge/n1', ms === undefined ? {} : { facts: { coordinate: coordinate(ms, height) } })
  const rows: { why: string; from: Candidate; to: Anchor[]; ms: number | undefined }[] = [
    {
      why: 'the nearest of two anchors counts',
      from: at(10),
      to: [anchor('edge/a', 90), anchor('edge/b', 25)],
      ms: 15,
    },
    { why: 'the access link of the node is added', from: at(10, 4), to: [anchor('edge/a', 20)], ms: 14 },
    {
      why: 'an anchor on the node itself is no distance away, wherever it believes to be',
      from: at(undefined),
      to: [anchor('edge/n1', 500)],
      ms: 0,
    },
    { why: 'what lies beyond the anchor is added', from: at(10), to: [anchor('edge/a', 20, 7)], ms: 17 },
    {
      why: 'a node that does not know where it is has no distance',
      from: at(undefined),
      to: [anchor('edge/a', 20)],
      ms: undefined,
    },
    {
      why: 'an anchor that does not know where it is gives none',
      from: at(10),
      to: [{ node: 'edge/a', beyondMs: 0 }],
      ms: undefined,
    },
    { why: 'without an anchor there is no distance', from: at(10), to: [], ms: undefined },
  ]
  for (const { why, from, to, ms } of rows) t.equal(nearestMs(from, to), ms, why)
  t.equal(fibreMs(500), 5, '500 km are 5 ms there and back, at two thirds of the speed of light')
})

const DB = 'shop.acme.db.prod'
const to = (service: string, threshold: number) => ({ type: 'latency', service, threshold })
const toPlace = (location: string, threshold: number) => ({ type: 'latency', location, threshold })
const anchors: Record<string, Anchor[]> = {
  [DB]: [anchor('edge/a', 0), anchor('core/b', 200)],
  'shop.acme.log': [anchor('edge/a', 60)],
  'shop.acme.none': [],
  '48,11': [anchor('edge/a', 0, 3)],
  '52,13': [anchor('edge/c', 100, 3)],
  '0,0': [],
}
const near = ({ service, location }: Constraint) => anchors[service ?? `${location?.lat},${location?.lon}`] ?? []

/** What it must be near, where the node is in milliseconds, and the reason against it; without a reason it is taken. */
interface Near {
  why: string
  constraints: object[]
  at?: number
  reason?: string
}

function nearby(t: Test, rows: readonly Near[]): void {
  for (const { why, constraints, at, reason } of rows) {
    const candidate = node('edge/n1', at === undefined ? {} : { facts: { coordinate: coordinate(at) } })
    const spec = specOf({ constraints })
    const placement = schedule({ spec, near }, [candidate])
    if (reason === undefined) t.equal(placement.kind, 'placed', `${why}: taken`)
    else t.same(reasonsIn(placement), { [reason]: 1 }, `${why}: refused`)
    t.equal(schedule({ spec }, [candidate]).kind, 'placed', `${why}: a tier that knows no nodes leaves it to others`)
  }
}

test('a node must be near each service', async (t) => {
  nearby(t, [
    { why: 'exactly as far from the service as is allowed', constraints: [to(DB, 20)], at: 20 },
    {
      why: 'a millisecond too far from the service',
      constraints: [to(DB, 20)],
      at: 21,
      reason: `more than 20 ms from ${DB}`,
    },
    { why: 'near another instance of the service', constraints: [to(DB, 20)], at: 190 },
    {
      why: 'a node that has not been measured',
      constraints: [to(DB, 20)],
      reason: `latency to ${DB} not measured yet`,
    },
    {
      why: 'near one service, far from the other',
      constraints: [to(DB, 20), to('shop.acme.log', 20)],
      at: 0,
      reason: 'more than 20 ms from shop.acme.log',
    },
    { why: 'near both services', constraints: [to(DB, 30), to('shop.acme.log', 30)], at: 30 },
    { why: 'a service that does not run yet may be anywhere', constraints: [to('shop.acme.none', 1)] },
  ])
})

test('a node must be near one of the places, and near the services as well', async (t) => {
  nearby(t, [
    { why: 'near a place', constraints: [toPlace('48,11', 5)], at: 2 },
    { why: 'near one of two places', constraints: [toPlace('48,11', 5), toPlace('52,13', 5)], at: 101 },
    {
      why: 'near neither of two places',
      constraints: [toPlace('48,11', 5), toPlace('52,13', 5)],
      at: 50,
      reason: 'more than 5 ms from the location asked for',
    },
    {
      why: 'no node says where it is, so no place can be measured',
      constraints: [toPlace('0,0', 5)],
      at: 0,
      reason: 'no node has a location, so the distance to the location asked for is unknown',
    },
    {
      why: 'near the place, far from the service',
      constraints: [toPlace('48,11', 5), to('shop.acme.log', 20)],
      at: 0,
      reason: 'more than 20 ms from shop.acme.log',
    },
  ])
})

test('latency-and-location chooses the nearest node', async (t) => {
  const near = () => [anchor('edge/a', 0)]
  const at = (id: string, ms: number | undefined, says: NodeSays = {}) =>
    node(id, { ...says, facts: { ...says.facts, ...(ms === undefined ? {} : { coordinate: coordinate(ms) }) } })
  const constraints = [{ type: 'latency', service: 'shop.acme.db', threshold: 100 }]
  const spec = specOf({ strategy: 'latency-and-location', constraints })
  const nodes = [at('edge/far', 90), at('edge/near', 10, { instances: 9 }), at('edge/nearer', 9.8, { instances: 1 })]
  const placement = schedule({ spec, near }, nodes)
  t.match(
    placement,
    { candidate: { id: 'edge/nearer' }, why: '9.8 ms away from what it must be near' },
    'the nearest is chosen, although it is nearer by a fifth of a millisecond only',
  )
  const [munich, berlin] = [
    { lat: 48.1, lon: 11.6 },
    { lat: 52.5, lon: 13.4 },
  ]
  const placed = schedule(
    {
      spec: specOf({
        strategy: 'latency-and-location',
        constraints: [{ type: 'geo', location: '52.5,13.4', threshold: 1_000 }],
      }),
    },
    [
      at('edge/m', undefined, { facts: { location: munich } }),
      at('edge/b', undefined, { facts: { location: berlin } }),
    ],
  )
  t.match(placed, { candidate: { id: 'edge/b' }, why: /^0 km away/ }, 'for a place, the node at it is chosen')
})

test('each strategy ranks the candidates as it says', async (t) => {
  const has = (count: number) => new Map([[plain.id, count]])
  const rows: { why: string; strategy: string; nodes: Candidate[]; pick: string }[] = [
    {
      why: 'spread: first where the service has no instance, even to a fuller node',
      strategy: 'spread',
      nodes: [node('edge/a', { instances: 1, perService: has(1) }), node('edge/b', { instances: 9 })],
      pick: 'edge/b',
    },
    {
      why: 'spread: then where there are fewest instances',
      strategy: 'spread',
      nodes: [node('edge/a', { instances: 2 }), node('edge/b', { instances: 1 })],
      pick: 'edge/b',
    },
    {
      why: 'spread: then where most is free',
      strategy: 'spread',
      nodes: [node('edge/a', { free: { memoryMb: 500 } }), node('edge/b')],
      pick: 'edge/b',
    },
    {
      why: 'spread: of equal nodes the smallest id',
      strategy: 'spread',
      nodes: [node('edge/b'), node('edge/a'), node('edge/c')],
      pick: 'edge/a',
    },
    {
      why: 'best fit: the fullest node that still has room',
      strategy: 'best-fit',
      nodes: [node('edge/a'), node('edge/b', { free: { memoryMb: 200 } }), node('edge/c', { free: { memoryMb: 50 } })],
      pick: 'edge/b',
    },
    {
      why: 'best fit: of equally full nodes the one without an instance of the service',
      strategy: 'best-fit',
      nodes: [node('edge/a', { perService: has(1), instances: 1 }), node('edge/b')],
      pick: 'edge/b',
    },
  ]
  for (const { why, strategy, nodes, pick } of rows) {
    t.equal(chosen({ spec: specOf({ strategy, memory: 100 }) }, nodes), pick, why)
    t.equal(chosen({ spec: specOf({ strategy, memory: 100 }) }, nodes.toReversed()), pick, `${why}, in any order`)
  }
})

test('reasons are counted, the most frequent first', async (t) => {
  const nodes = [
    ...Array.from({ length: 3 }, (_, i) => node(`edge/small${i}`, { free: { memoryMb: 1 } })),
    node('edge/off', { condition: 'cordoned' }),
  ]
  const placement = schedule({ spec: specOf({ memory: 100 }) }, nodes)
  t.same(
    placement,
    { kind: 'unplaceable', reasons: { 'too little memory free': 3, cordoned: 1 } },
    'each reason is counted',
  )
  if (placement.kind === 'unplaceable')
    t.equal(
      reasonsText(placement.reasons, { nodes: 4, none: 'none' }),
      '4 nodes: 3 too little memory free, 1 cordoned',
      'the text begins with the most frequent',
    )
  t.same(schedule({ spec: plain }, []), { kind: 'unplaceable', reasons: {} }, 'without a node there is no reason')
  t.equal(
    reasonsText({}, { nodes: 0, none: 'no node is connected' }),
    'no node is connected',
    'and the text is the one given',
  )
  const placed = schedule({ spec: plain }, nodes)
  t.match(
    placed,
    { kind: 'placed', score: [-0, -0, Number], why: /0 instances of the service there/ },
    'a placement says its score and why',
  )
})

test('a filter or strategy can be added from outside', async (t) => {
  const placement = schedule({ spec: plain }, [node('edge/a'), node('edge/b')], {
    filters: [...RULES.filters, (_, { id }) => (id === 'edge/b' ? 'not on Sundays' : undefined)],
    strategies: {
      ...RULES.strategies,
      spread: { score: (_, { id }) => [id.charCodeAt(5)], why: () => 'later letters first' },
    },
  })
  t.match(
    placement,
    { candidate: { id: 'edge/a' }, why: 'later letters first' },
    'the filter took the node that the strategy prefers',
  )
})

test('a summary has totals and capabilities, not nodes', async (t) => {
  const views = [
    viewOf('edge/n1', {
      free: { memoryMb: 100, vcpus: 4 },
      facts: { area: 'munich', labels: { gpu: 'yes' }, location: { lat: 1, lon: 2 } },
      instances: 2,
      portsTaken: ['tcp/80', 'tcp/443'],
    }),
    viewOf('edge/n2', {
      free: { memoryMb: 800, vcpus: 1 },
      facts: { arch: 'arm64', runtimes: ['docker', 'process'] },
      portsTaken: ['tcp/80'],
    }),
    viewOf('edge/n3', { condition: 'lost', facts: { area: 'berlin' } }),
    viewOf('edge/n4', { condition: 'cordoned' }),
  ]
  const summary = summarise('edge', views)
  const expected = {
    cluster: 'edge',
    nodes: 2,
    total: { ...NOTHING, memoryMb: 2000, vcpus: 8 },
    free: { ...NOTHING, memoryMb: 900, vcpus: 5 },
    largestFree: { ...NOTHING, memoryMb: 800, vcpus: 4 },
    runtimes: ['docker', 'external', 'process'],
    arch: ['amd64', 'arm64'],
    areas: ['munich'],
    locations: [{ lat: 1, lon: 2 }],
    addons: ['gpu'],
    labels: { gpu: ['yes'] },
    regions: [],
    measured: 0,
    portsTaken: ['tcp/80'],
    instances: 2,
  }
  t.same(summary, expected, 'only the two nodes that are alive count, and what any of them has')
  t.same(JSON.parse(JSON.stringify(summary)), summary, 'it is plain JSON')
  t.notMatch(JSON.stringify(summary), /n1|n2/, 'no node is named in it')
  const many = Array.from({ length: 200 }, (_, i) =>
    viewOf(`edge/m${i}`, { facts: { location: { lat: i / 10, lon: 0 } } }),
  )
  t.ok(summarise('edge', many).locations.length <= 64, 'no more than 64 locations are listed')
})

test('clusters are chosen by the same function as nodes', async (t) => {
  const perService = new Map([[plain.id, 1]])
  const big = summarise('big', [viewOf('big/n1', { instances: 6 }), viewOf('big/n2')])
  const small = summarise('small', [viewOf('small/n1', { free: { memoryMb: 300 }, instances: 2 })])
  const none = summarise('none', [])
  const candidates = (counts: Partial<Record<string, ReadonlyMap<string, number>>> = {}) =>
    [big, small, none].map((summary) =>
      clusterCandidate(summary, { condition: 'alive', perService: counts[summary.cluster] ?? new Map() }),
    )
  t.equal(chosen({ spec: plain }, candidates()), 'small', 'the cluster with two instances a node rather than three')
  t.equal(
    chosen({ spec: plain }, candidates({ small: perService })),
    'big',
    'the cluster without an instance of the service',
  )
  t.equal(
    chosen({ spec: specOf({ memory: 301 }) }, candidates()),
    'big',
    'the cluster that has a node with so much memory free',
  )
  const reasons = { 'too little memory free': 2, 'no node there accepts instances': 1 }
  t.same(
    schedule({ spec: specOf({ memory: 1001 }) }, candidates()),
    { kind: 'unplaceable', reasons },
    'what no cluster has room for is unplaceable, with the reason of each',
  )
  t.equal(
    chosen({ spec: plain, refusedBy: new Set(['small']) }, candidates()),
    'big',
    'the cluster that has not refused',
  )
  const at = (constraint: object) => specOf({ constraints: [constraint] })
  t.equal(
    chosen({ spec: at({ type: 'direct', node: 'n7' }) }, candidates()),
    'small',
    'a node that is named may be in any cluster: the root does not know nodes',
  )
  t.equal(
    chosen({ spec: at({ type: 'direct', node: 'big/n7' }) }, candidates()),
    'big',
    'a node that is named with its cluster is looked for there',
  )
  t.equal(chosen({ spec: at({ type: 'direct', cluster: 'big' }) }, candidates()), 'big', 'the cluster that is named')
})

test('releasing what was reserved restores the capacity', async (t) => {
  const amount = fc.record({
    memoryMb: fc.integer({ min: 0, max: 1e6 }),
    vcpus: fc.integer({ min: 0, max: 64_000 }).map((thousandths) => thousandths / 1000),
    vgpus: fc.nat(8),
    vtpus: fc.nat(8),
    storageMb: fc.nat(1e6),
    bandwidthInKbit: fc.nat(1e6),
    bandwidthOutKbit: fc.nat(1e6),
  })
  fc.assert(
    fc.property(amount, fc.array(amount, { maxLength: 20 }), (total, demands) => {
      const left = demands.reduce(reserve, total)
      const back = demands.toReversed().reduce(release, left)
      return DIMENSIONS.every((dimension) => back[dimension] === total[dimension])
    }),
    { numRuns: 200, seed: 4 },
  )
  t.equal(
    shortage(NOTHING, { ...NOTHING, memoryMb: -5 }),
    undefined,
    'who demands nothing lacks nothing, even where less than nothing is free',
  )
  t.equal(shortage({ ...NOTHING, vcpus: 1, vgpus: 1 }, NOTHING), 'vcpus', 'the first thing that is short is named')
  t.equal(
    Math.round(distanceKm({ lat: 52.52, lon: 13.405 }, { lat: 48.137, lon: 11.576 })),
    504,
    'Berlin to Munich is 504 km',
  )
  t.equal(
    Math.round(distanceKm({ lat: 0, lon: 179.9 }, { lat: 0, lon: -179.9 })),
    22,
    'the short way over the date line is taken',
  )
})

const arbitrarySpec = fc
  .record({
    memory: fc.nat(400),
    vcpus: fc.constantFrom(0, 0.1, 0.5, 1, 3),
    strategy: fc.constantFrom('spread', 'best-fit'),
    microservice_name: fc.constantFrom('cart', 'stock', 'web'),
    port: fc.constantFrom('', '80:8080', '81:8081'),
    fixed_port: fc.boolean(),
    arch: fc.constantFrom([], ['amd64'], ['arm64']),
  })
  .map((service) => specOf(service))

const arbitraryNode = fc.record({
  memoryMb: fc.nat(1000),
  vcpus: fc.nat(4),
  arch: fc.constantFrom('amd64', 'arm64'),
  condition: fc.constantFrom('alive' as const, 'alive' as const, 'cordoned' as const, 'lost' as const),
})

test('a cluster that is filled one by one is never over-committed', async (t) => {
  fc.assert(
    fc.property(
      fc.array(arbitraryNode, { maxLength: 8 }),
      fc.array(arbitrarySpec, { maxLength: 40 }),
      (nodes, specs) => {
        const views = new Map(
          nodes.map(({ memoryMb, vcpus, arch, condition }, i) => {
            const capacity = { ...NOTHING, memoryMb, vcpus }
            const id = `edge/n${i}`
            return [id, { ...viewOf(id, { condition, facts: { arch, capacity } }), free: capacity }] as [
              string,
              NodeView,
            ]
          }),
        )
        for (const spec of specs) {
          const summary = summarise('edge', views.values())
          const cluster = schedule({ spec }, [clusterCandidate(summary, { condition: 'alive', perService: new Map() })])
          const placement = schedule({ spec }, [...views.values()].map(nodeCandidate))
          if (placement.kind === 'unplaceable') continue
          if (cluster.kind !== 'placed') return false // the root must never hide a node that would do
          place(views, placement.candidate.id, spec)
        }
        return [...views.values()].every(
          ({ free, portsTaken, condition, instances }) =>
            DIMENSIONS.every((dimension) => (free[dimension] ?? 0) >= 0) &&
            new Set(portsTaken).size === portsTaken.length &&
            (condition === 'alive' || instances === 0),
        )
      },
    ),
    { numRuns: 150, seed: 5 },
  )
  t.pass('no node was ever given more than it has, nor one port twice, nor anything while it was not alive')
})

test('the order of the candidates makes no difference', async (t) => {
  fc.assert(
    fc.property(
      fc.array(arbitraryNode, { minLength: 1, maxLength: 8 }),
      arbitrarySpec,
      fc.nat(7),
      (nodes, spec, turn) => {
        const candidates = nodes.map(({ memoryMb, vcpus, arch, condition }, i) =>
          node(`edge/n${i}`, { condition, facts: { arch }, free: { memoryMb, vcpus } }),
        )
        const turned = [...candidates.slice(turn), ...candidates.slice(0, turn)].toReversed()
        const [a, b] = [schedule({ spec }, candidates), schedule({ spec }, turned)]
        if (a.kind === 'placed' && b.kind === 'placed')
          return a.candidate === b.candidate && candidates.includes(a.candidate)
        return a.kind === b.kind && JSON.stringify(sorted(a)) === JSON.stringify(sorted(b))
      },
    ),
    { numRuns: 300, seed: 6 },
  )
  t.pass('each random set of nodes gave the same placement in two orders')
})

test('replicas of one service are spread over all nodes', async (t) => {
  const views = new Map(Array.from({ length: 5 }, (_, i) => [`edge/n${i}`, viewOf(`edge/n${i}`)] as [string, NodeView]))
  for (let i = 0; i < 12; i++) {
    const placement = schedule({ spec: plain }, [...views.values()].map(nodeCandidate))
    if (placement.kind === 'placed') place(views, placement.candidate.id, plain)
  }
  t.same(
    [...views.values()].map(({ instances }) => instances).sort((a, b) => a - b),
    [2, 2, 2, 3, 3],
    'twelve replicas on five nodes: two or three on each',
  )
})

function place(views: Map<string, NodeView>, id: string, spec: ServiceSpec): void {
  const view = views.get(id) as NodeView
  views.set(id, {
    ...view,
    free: reserve(view.free, demandOf(spec)),
    instances: view.instances + 1,
    portsTaken: [...view.portsTaken, ...portsOfNode(spec)],
    perService: new Map(view.perService).set(spec.id, (view.perService.get(spec.id) ?? 0) + 1),
  })
}

function sorted(placement: ReturnType<typeof schedule>): unknown {
  return placement.kind === 'unplaceable'
    ? Object.entries(placement.reasons).map(String).sort()
    : placement.candidate.id
}
