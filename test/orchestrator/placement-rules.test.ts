import fc from 'fast-check'
import { test } from 'tap'
import { printLabelRule, readLabelRule } from '../../src/core/model/label-rule.ts'
import type { Coordinate } from '../../src/core/model/coordinate.ts'
import { nodeCandidate, type Candidate, type NodeView } from '../../src/orchestrator/scheduling/candidate.ts'
import { circlesAround, MOST_CIRCLES, MOST_REGIONS, regionsAround } from '../../src/orchestrator/scheduling/cover.ts'
import { distanceKm } from '../../src/orchestrator/scheduling/geometry.ts'
import { whatIf } from '../../src/orchestrator/scheduling/explain.ts'
import type { Placed, PlacementRequest } from '../../src/orchestrator/scheduling/placement-request.ts'
import { refusal, schedule } from '../../src/orchestrator/scheduling/schedule.ts'
import { clusterCandidate, summarise } from '../../src/orchestrator/scheduling/summary.ts'
import { distanceMs, flatMs } from '../../src/core/model/coordinate.ts'
import { parseSla } from '../../src/orchestrator/sla/parse.ts'
import type { NodeFacts } from '../../src/orchestrator/spec.ts'
import { factsOf, specOf } from './specs.ts'

const CART = 'shop.acme.cart.prod'

function viewOf(id: string, facts: Partial<NodeFacts> = {}, perService: Record<string, number> = {}): NodeView {
  const all = factsOf({ id, ...facts })
  return {
    facts: all,
    condition: 'alive',
    free: all.capacity,
    portsTaken: [],
    instances: Object.values(perService).reduce((sum, count) => sum + count, 0),
    perService: new Map(Object.entries(perService)),
  }
}

const node = (...of: Parameters<typeof viewOf>): Candidate => nodeCandidate(viewOf(...of))
const cluster = (name: string, views: NodeView[]): Candidate =>
  clusterCandidate(summarise(name, views), { condition: 'alive', perService: new Map() })
const constrained = (...constraints: object[]) => specOf({ constraints })
const coordinate = (ms: number): Coordinate => ({ at: [ms, 0, 0], height: 0, error: 0.1 })

function chosen(request: PlacementRequest, candidates: Candidate[]): string {
  const decision = schedule(request, candidates)
  if (decision.kind === 'placed') return decision.candidate.id
  return Object.entries(decision.reasons)
    .map(([reason, count]) => `${count} ${reason}`)
    .join(', ')
}

test('conditions on labels are read as Kubernetes writes them', async (t) => {
  const rows: [text: string, labels: Record<string, string>, holds: boolean][] = [
    ['disk=ssd', { disk: 'ssd' }, true],
    ['disk == ssd', { disk: 'hdd' }, false],
    ['disk=ssd', {}, false],
    ['disk!=ssd', { disk: 'ssd' }, false],
    ['disk!=ssd', {}, true],
    ['zone in (eu, us)', { zone: 'us' }, true],
    ['zone in (eu, us)', { zone: 'asia' }, false],
    ['zone notin (eu, us)', { zone: 'asia' }, true],
    ['zone notin (eu, us)', { zone: 'eu' }, false],
    ['camera', { camera: 'false' }, true],
    ['camera', {}, false],
    ['!camera', {}, true],
    ['!camera', { camera: 'yes' }, false],
    ['acme.io/tier=edge', { 'acme.io/tier': 'edge' }, true],
    ['constructor', {}, false],
  ]
  for (const [text, labels, holds] of rows) {
    const spec = constrained({ type: 'labels', match: [text] })
    const placed = schedule({ spec }, [node('edge/n1', { labels })]).kind === 'placed'
    t.equal(placed, holds, `${text} on ${JSON.stringify(labels)}`)
  }
  for (const text of ['', 'a=', '=b', 'a in ()', 'a in (b', 'a b', 'a in (b,,c)', '!', 'a=b,c'])
    t.equal(readLabelRule(text), undefined, `${JSON.stringify(text)} is no condition`)
  for (const text of ['disk=ssd', 'disk!=ssd', 'zone in (eu, us)', 'zone notin (eu, us)', 'camera', '!camera'])
    t.equal(printLabelRule(readLabelRule(text) as never), text, `${text} is printed as it was written`)
  t.equal(
    chosen({ spec: constrained({ type: 'labels', match: ['disk=ssd', 'gpu'] }) }, [
      node('edge/n1', { labels: { gpu: '1' } }),
    ]),
    '1 label disk=ssd not met',
    'the condition that is not met is named',
  )
})

test('a document says what is wrong with a constraint', async (t) => {
  const faultsOf = (constraint: object) => {
    const parsed = parseSla({
      microservice_name: 'cart',
      application_namespace: 'acme',
      cmd: ['true'],
      constraints: [constraint],
    })
    return parsed.kind === 'refused' ? parsed.faults.map(({ path, problem }) => `${path} ${problem}`) : []
  }
  t.match(faultsOf({ type: 'labels' }), [/match is missing/])
  t.match(faultsOf({ type: 'labels', match: ['a b'] }), [/match\[0\] "a b" is not a condition on labels/])
  t.match(faultsOf({ type: 'spread' }), [/over is missing/])
  t.match(faultsOf({ type: 'spread', over: 'planet' }), [/must be node or area or cluster/])
  t.match(faultsOf({ type: 'spread', over: 'area', max_skew: 0 }), [/must be 1 to 1000/])
  t.same(faultsOf({ type: 'anti-affinity' }), [], 'anti-affinity needs nothing else')
  t.match(faultsOf({ type: 'affinty' }), [/must be direct or .*/])
})

test('bandwidth and storage are reserved like memory, and a node that does not know its bandwidth takes none of it', async (t) => {
  const capacity = { memoryMb: 1_000, vcpus: 4, vgpus: 0, vtpus: 0, storageMb: 500 }
  const fast = { ...capacity, bandwidthInKbit: 1_000, bandwidthOutKbit: 100 }
  const ask = (wanted: object, has: NodeFacts['capacity']) =>
    chosen({ spec: specOf({ ...wanted }) }, [node('edge/n1', { capacity: has })])
  t.equal(ask({ bandwidth_in: 1_000, bandwidth_out: 100 }, fast), 'edge/n1', 'exactly what is there')
  t.equal(ask({ bandwidth_in: 1_001 }, fast), '1 too little inbound bandwidth free')
  t.equal(ask({ bandwidth_out: 101 }, fast), '1 too little outbound bandwidth free')
  t.equal(ask({ bandwidth_in: 1 }, capacity), '1 its bandwidth is not known')
  t.equal(ask({}, capacity), 'edge/n1', 'who asks for none goes anywhere')
  t.equal(ask({ storage: 501 }, fast), '1 too little storage free')
  const summary = cluster('edge', [viewOf('edge/n1', { capacity: fast }), viewOf('edge/n2', { capacity })])
  t.equal(
    chosen({ spec: specOf({ bandwidth_in: 900 }) }, [summary]),
    'edge',
    'the root sees the best node of a cluster',
  )
  t.equal(chosen({ spec: specOf({ bandwidth_in: 1_001 }) }, [summary]), '1 too little inbound bandwidth free')
})

test('anti-affinity keeps instances off the nodes, areas and clusters of others', async (t) => {
  const placed = (service: string): Placed[] =>
    ({
      [CART]: [{ node: 'edge/n1', cluster: 'edge', area: 'munich' }],
      'shop.acme.db': [{ node: 'edge/n2', cluster: 'edge', area: 'berlin' }],
    })[service] ?? []
  const nodes = [
    node('edge/n1', { area: 'munich' }, { [CART]: 1 }),
    node('edge/n2', { area: 'berlin' }),
    node('edge/n3', { area: 'munich' }),
    node('west/n4', { area: 'paris' }),
    node('west/n5'),
  ]
  const left = (constraint: object) => {
    const request = { spec: constrained({ type: 'anti-affinity', ...constraint }), placed }
    return nodes.flatMap((each) => (refusal(request, each) === undefined ? [each.id] : []))
  }
  t.same(left({}), ['edge/n2', 'edge/n3', 'west/n4', 'west/n5'], 'not on the same node')
  t.same(left({ over: 'area' }), ['edge/n2', 'west/n4'], 'not in the same area, and only where the area is known')
  t.same(left({ over: 'cluster' }), ['west/n4', 'west/n5'], 'not in the same cluster')
  t.same(
    left({ service: 'shop.acme.db' }),
    ['edge/n1', 'edge/n3', 'west/n4', 'west/n5'],
    'not where another service is',
  )
  t.same(left({ service: 'shop.acme.db', over: 'area' }), ['edge/n1', 'edge/n3', 'west/n4'])
  const edge = cluster('edge', [viewOf('edge/n1', { area: 'munich' })])
  const west = cluster('west', [viewOf('west/n4', { area: 'paris' }), viewOf('west/n6', { area: 'munich' })])
  const spec = constrained({ type: 'anti-affinity', over: 'area' })
  t.equal(
    chosen({ spec, placed }, [edge]),
    `1 its area has an instance of ${CART} already`,
    'the root does not ask a cluster all of whose areas have one',
  )
  t.equal(chosen({ spec, placed }, [edge, west]), 'west', 'a cluster with another area may have room')
})

test('a service is placed near those who must be near it, where it can be', async (t) => {
  const spec = { ...specOf(), prefersNear: [{ type: 'latency' as const, service: 'shop.acme.web', threshold: 20 }] }
  const at = (ms: number) => node(`edge/n${ms}`, { coordinate: coordinate(ms), area: `${ms}` })
  const placedAt = (ms: number | undefined, candidates: Candidate[]) =>
    chosen(
      { spec, near: () => (ms === undefined ? [] : [{ node: 'edge/web', beyondMs: 0, coordinate: coordinate(ms) }]) },
      candidates,
    )
  const nodes = [at(10), at(30), at(90), node('edge/unmeasured')]
  t.equal(placedAt(undefined, nodes), 'edge/n10', 'anywhere while there is none of them')
  t.equal(placedAt(45, nodes), 'edge/n30')
  t.equal(placedAt(20, [at(90), node('edge/unmeasured')]), 'edge/n90', 'else the nearest')
  t.equal(placedAt(20, [node('edge/unmeasured')]), 'edge/unmeasured', 'and nowhere is it refused')
  const busy = { ...at(30), perService: new Map([[spec.id, 5]]) }
  t.equal(placedAt(45, [at(10), busy]), 'edge/n30', 'it counts before the strategy')
})

test('the first instance of a service leaves room near it for those that must be near it', async (t) => {
  const spec = {
    ...specOf({
      memory: 100,
      strategy: 'latency-and-location',
      constraints: [{ type: 'latency', service: 'shop.acme.log', threshold: 50 }],
    }),
    prefersNear: [{ type: 'latency' as const, service: 'shop.acme.web', threshold: 10 }],
  }
  const at = (ms: number, memoryMb: number) => {
    const one = node(`edge/n${ms}`, { coordinate: coordinate(ms) })
    return { ...one, free: { ...one.free, memoryMb }, largestFree: { ...one.free, memoryMb } }
  }
  const anchor = (ms: number) => [{ node: 'edge/other', beyondMs: 0, coordinate: coordinate(ms) }]
  const placedWhere = (candidates: Candidate[], { web, placed }: { web?: number; placed?: Placed[] } = {}) => {
    const near: PlacementRequest['near'] = ({ service }) =>
      service === 'shop.acme.log' ? anchor(0) : web === undefined ? [] : anchor(web)
    return chosen({ spec, near, ...(placed === undefined ? {} : { placed: () => placed }) }, candidates)
  }
  const rows: [why: string, where: string, ...of: Parameters<typeof placedWhere>][] = [
    ['enough room everywhere: the nearest', 'edge/n3', [at(3, 900), at(30, 900)]],
    ['the last room at the nearest: where there is more', 'edge/n30', [at(3, 100), at(30, 200)]],
    ['room on a neighbour counts', 'edge/n3', [at(3, 100), at(8, 400), at(30, 400)]],
    ['a neighbour beyond the threshold does not', 'edge/n40', [at(3, 100), at(20, 100), at(40, 400)]],
    ['more room than it takes is no reason', 'edge/n3', [at(3, 500), at(30, 9_000)]],
    ['nobody is still to come', 'edge/n3', [at(3, 100), at(12, 200)], { web: 4 }],
    ['the service has an instance already', 'edge/n3', [at(3, 100), at(30, 200)], { placed: [{ cluster: 'edge' }] }],
    ['no room at all near any: the nearest', 'edge/n3', [at(3, 100), at(30, 100)]],
  ]
  for (const [why, where, candidates, more] of rows) t.equal(placedWhere(candidates, more), where, why)
  const many = [at(3, 100), ...Array.from({ length: 70 }, (_, i) => at(100 + i, 100)), at(30, 400)]
  t.equal(placedWhere(many), 'edge/n3', 'where many nodes have room, none is looked for')
  const { terms } = whatIf({ spec, near: () => [] }, [at(3, 100)], { most: 1 })
  t.ok(terms.includes('room near it for shop.acme.web'), '`explain` says so')
})

test('instances are spread over areas and clusters', async (t) => {
  const areas = { a: 'munich', b: 'munich', c: 'munich', d: 'berlin', e: 'paris' }
  const fill = (constraint: object, replicas: number) => {
    const placed: Placed[] = []
    const counts: Record<string, number> = {}
    for (let i = 0; i < replicas; i++) {
      const nodes = Object.entries(areas).map(([name, area]) =>
        node(`edge/${name}`, { area }, counts[name] === undefined ? {} : { [CART]: counts[name] }),
      )
      const spec = constrained({ type: 'spread', over: 'area', ...constraint })
      const decision = schedule({ spec, placed: () => placed }, nodes)
      if (decision.kind === 'unplaceable') break
      const name = decision.candidate.id.slice(5) as keyof typeof areas
      counts[name] = (counts[name] ?? 0) + 1
      placed.push({ node: decision.candidate.id, cluster: 'edge', area: areas[name] })
    }
    return Object.fromEntries(
      Map.groupBy(placed, ({ area }) => area as string)
        .entries()
        .map(([area, of]) => [area, of.length]),
    )
  }
  t.same(fill({}, 9), { berlin: 3, munich: 3, paris: 3 }, 'as a preference: as many in each area, not on each node')
  t.same(fill({ max_skew: 1 }, 9), { berlin: 3, munich: 3, paris: 3 }, 'and as a rule')
  const spec = constrained({ type: 'spread', over: 'area', max_skew: 1 })
  const full = { memoryMb: 0, vcpus: 0, vgpus: 0, vtpus: 0, storageMb: 0 }
  const there: Placed[] = [{ node: 'edge/a', cluster: 'edge', area: 'munich' }]
  const big = { ...spec, memoryMb: 10 }
  t.equal(
    chosen({ spec: big, placed: () => there }, [
      node('edge/b', { area: 'munich' }),
      node('edge/d', { area: 'berlin', capacity: full }),
    ]),
    'edge/b',
    'an area without room is not one to wait for',
  )
  t.match(
    chosen({ spec, placed: () => there }, [
      node('edge/b', { area: 'munich' }),
      node('edge/n', {}),
      node('edge/d', { area: 'berlin' }),
    ]),
    /^edge\/d$/,
  )
  t.match(
    chosen({ spec, placed: () => there }, [node('edge/n', {})]),
    /1 has no area to spread over/,
    'without an area there is nothing to count',
  )
  const byCluster = constrained({ type: 'spread', over: 'cluster' })
  t.equal(
    chosen({ spec: byCluster, placed: () => there }, [
      cluster('edge', [viewOf('edge/n1')]),
      cluster('west', [viewOf('west/n1')]),
    ]),
    'west',
    'the root takes the cluster with fewest',
  )
})

test('the nearest that can is told, with how far it is', async (t) => {
  const near = () => [{ node: 'edge/db', coordinate: coordinate(0), beyondMs: 0 }]
  const spec = specOf({ memory: 100, constraints: [{ type: 'latency', service: 'shop.acme.db', threshold: 20 }] })
  const full = { memoryMb: 10, vcpus: 0, vgpus: 0, vtpus: 0, storageMb: 0 }
  const decision = schedule({ spec, near }, [
    node('edge/far', { coordinate: coordinate(90) }),
    node('edge/nearer', { coordinate: coordinate(34) }),
    node('edge/full', { coordinate: coordinate(25), capacity: full }),
    node('edge/unknown'),
  ])
  t.match(decision, {
    kind: 'unplaceable',
    nearest: { id: 'edge/nearer', what: '34 ms from shop.acme.db instead of 20' },
  })
  const geo = constrained({ type: 'geo', location: '48,11', threshold: 10 })
  t.match(schedule({ spec: geo }, [node('edge/b', { location: { lat: 52.5, lon: 13.4 } })]), {
    nearest: { id: 'edge/b', what: '529 km from 48,11 instead of 10' },
  })
  t.notOk(
    'nearest' in schedule({ spec: specOf({ memory: 9_999 }) }, [node('edge/n1')]),
    'distance has nothing to do with it',
  )
})

test('the cheapest node is the one whose part costs least', async (t) => {
  const capacity = (vcpus: number) => ({ memoryMb: 0, vcpus, vgpus: 0, vtpus: 0, storageMb: 0 })
  const nodes = [
    node('edge/small', { capacity: capacity(1), costPerHour: 0.1 }),
    node('edge/large', { capacity: capacity(8), costPerHour: 0.4 }),
    node('edge/unknown', { capacity: capacity(8) }),
  ]
  const spec = specOf({ strategy: 'cheapest', vcpus: 1 })
  t.match(schedule({ spec }, nodes), { candidate: { id: 'edge/large' }, why: '0.05 an hour for its part of the node' })
  t.equal(chosen({ spec }, [node('edge/unknown')]), 'edge/unknown', 'one that does not say is better than none')
  const [dear, cheap] = ['dear', 'cheap'].map((name, i) => cluster(name, [viewOf(`${name}/n`, { costPerHour: 2 - i })]))
  t.equal(
    chosen({ spec }, [dear as Candidate, cheap as Candidate]),
    'cheap',
    'the root looks at the cheapest node of each',
  )
})

test('a strategy that is not offered is a reason, whatever its name', async (t) => {
  for (const strategy of ['lowest-carbon', 'constructor', '__proto__'])
    t.equal(chosen({ spec: { ...specOf(), strategy } }, [node('edge/n1')]), `1 strategy ${strategy} not offered`)
})

const arbitraryPlace = fc.record({
  lat: fc.double({ min: -90, max: 90, noNaN: true }),
  lon: fc.double({ min: -180, max: 180, noNaN: true }),
})
const arbitraryCoordinate = fc.record({
  at: fc.array(fc.double({ min: -500, max: 500, noNaN: true }), { minLength: 3, maxLength: 3 }),
  height: fc.double({ min: 0, max: 50, noNaN: true }),
  error: fc.constant(0.1),
})

test('a few circles hold all places, and a few regions all coordinates', async (t) => {
  fc.assert(
    fc.property(fc.array(arbitraryPlace, { maxLength: 300 }), (places) => {
      const circles = circlesAround(places)
      return (
        circles.length <= MOST_CIRCLES &&
        places.every((place) => circles.some((circle) => distanceKm(circle, place) <= (circle.km ?? 0) + 1e-6))
      )
    }),
    { numRuns: 100, seed: 11 },
  )
  fc.assert(
    fc.property(fc.array(arbitraryCoordinate, { maxLength: 200 }), (coordinates) => {
      const regions = regionsAround(coordinates)
      return (
        regions.length <= MOST_REGIONS &&
        coordinates.every((one) =>
          regions.some(({ at, height, ms }) => flatMs(at, one.at) <= ms + 1e-6 && height <= one.height),
        )
      )
    }),
    { numRuns: 100, seed: 12 },
  )
  const few = [
    { lat: 48.137, lon: 11.576 },
    { lat: 52.5, lon: 13.4 },
    { lat: 48.137, lon: 11.576 },
  ]
  t.same(circlesAround(few), few.slice(0, 2), 'few places are listed as they are')
})

test('the root never hides a cluster with a node that would do', async (t) => {
  const arbitraryNode = fc.record({
    coordinate: fc.option(arbitraryCoordinate, { nil: undefined }),
    location: fc.option(arbitraryPlace, { nil: undefined }),
    area: fc.option(fc.constantFrom('munich', 'berlin'), { nil: undefined }),
    labels: fc.dictionary(fc.constantFrom('disk', 'zone', 'gpu'), fc.constantFrom('a', 'b', 'false')),
  })
  const arbitraryConstraint = fc.oneof(
    fc.record({ type: fc.constant('latency'), service: fc.constant('shop.acme.db'), threshold: fc.nat(300) }),
    fc.record({
      type: fc.constant('geo'),
      location: fc.constantFrom('48,11', '0,0', '-33,151'),
      threshold: fc.nat(9_000),
    }),
    fc.record({ type: fc.constant('latency'), area: fc.constantFrom('munich', 'berlin') }),
    fc.record({
      type: fc.constant('labels'),
      match: fc.array(fc.constantFrom('disk=a', 'disk!=a', 'gpu', '!gpu', 'zone in (a, b)'), {
        minLength: 1,
        maxLength: 2,
      }),
    }),
    fc.record({ type: fc.constant('anti-affinity'), over: fc.constantFrom('node', 'area', 'cluster') }),
  )
  fc.assert(
    fc.property(
      fc.array(arbitraryNode, { minLength: 1, maxLength: 30 }),
      fc.array(arbitraryConstraint, { minLength: 1, maxLength: 3 }),
      fc.array(arbitraryCoordinate, { minLength: 1, maxLength: 3 }),
      (nodes, constraints, instances) => {
        const views = nodes.map((each, i) => {
          const facts = Object.entries(each).filter(([, value]) => value !== undefined)
          return viewOf(`edge/n${i}`, Object.fromEntries(facts))
        })
        const near = () =>
          instances.map((one, i) => ({ node: `${i === 0 ? 'edge' : 'west'}/x${i}`, coordinate: one, beyondMs: 0 }))
        const placed = (): Placed[] => [{ node: 'west/x1', cluster: 'west', area: 'munich' }]
        const request = { spec: constrained(...constraints), near, placed }
        if (schedule(request, views.map(nodeCandidate)).kind === 'unplaceable') return true
        return schedule(request, [cluster('edge', views)]).kind === 'placed'
      },
    ),
    { numRuns: 400, seed: 13 },
  )
  t.ok(distanceMs(coordinate(0), coordinate(5)) === 5)
})

test('the root leaves out clusters that are wholly too far, and takes the nearest', async (t) => {
  const near = () => [{ node: 'home/db', coordinate: coordinate(0), beyondMs: 0 }]
  const at = (name: string, ...ms: (number | undefined)[]) =>
    cluster(
      name,
      ms.map((each, i) => viewOf(`${name}/n${i}`, each === undefined ? {} : { coordinate: coordinate(each) })),
    )
  const spec = specOf({
    strategy: 'latency-and-location',
    constraints: [{ type: 'latency', service: 'shop.acme.db', threshold: 20 }],
  })
  t.equal(chosen({ spec, near }, [at('far', 90, 95)]), '1 more than 20 ms from shop.acme.db')
  t.equal(chosen({ spec, near }, [at('far', 90, undefined)]), 'far', 'one with a node that was not measured is asked')
  t.equal(chosen({ spec, near }, [at('a', 15, 90), at('b', 5, 90), at('c', 90)]), 'b', 'the nearest')
  t.equal(chosen({ spec, near }, [at('b', 5), at('home', 30)]), 'home', 'where the other service is')
})
