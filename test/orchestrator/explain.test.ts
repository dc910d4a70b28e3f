import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { textOf } from '../../src/cli/explain.ts'
import { Store } from '../../src/core/kit/store.ts'
import { nodeCandidate, type Candidate } from '../../src/orchestrator/scheduling/candidate.ts'
import { whatIf } from '../../src/orchestrator/scheduling/explain.ts'
import { type KeptDecision, KeptDecisions } from '../../src/orchestrator/scheduling/kept-decisions.ts'
import { RULES, schedule } from '../../src/orchestrator/scheduling/schedule.ts'
import type { PlacementExplanation } from '../../src/orchestrator/root/explain.ts'
import { ManualClock } from '../support/manual-clock.ts'
import { mesh, sla, type World } from './mesh.ts'
import { factsOf, specOf } from './specs.ts'
import { until } from '../support/until.ts'

const CART = 'shop.acme.cart.prod'
const spec = specOf({ memory: 100, vcpus: 1 })

function node(id: string, { memoryMb = 1_000, vcpus = 4, siblings = 0, isOpen = true } = {}): Candidate {
  const capacity = { memoryMb: 1_000, vcpus: 4, vgpus: 0, vtpus: 0, storageMb: 0 }
  return nodeCandidate({
    facts: factsOf({ id, capacity }),
    condition: isOpen ? 'alive' : 'cordoned',
    free: { ...capacity, memoryMb, vcpus },
    portsTaken: [],
    instances: siblings,
    perService: new Map([[spec.id, siblings]]),
  })
}

t.test('every candidate is shown with what each filter and score says, the best first', async (t) => {
  const candidates = [
    node('edge/full', { memoryMb: 10 }),
    node('edge/both', { memoryMb: 10, isOpen: false }),
    node('edge/second', { siblings: 1 }),
    node('edge/first'),
  ]
  const told = whatIf({ spec }, candidates, { most: 10 })
  t.match(told, { strategy: spec.strategy, candidates: 4, fit: 2, chosen: 'edge/first', why: String })
  t.same(
    told.judged.map(({ id }) => id),
    ['edge/first', 'edge/second', 'edge/full', 'edge/both'],
  )
  t.same(
    told.judged.map(({ refusals }) => refusals),
    [
      {},
      {},
      { capacity: 'too little memory free: 10 of 100 MB' },
      { condition: 'cordoned', capacity: 'too little memory free: 10 of 100 MB' },
    ],
    'all that refuse, not only the first, with numbers',
  )
  t.equal(told.judged[0]?.score?.length, told.terms.length, 'each number of the score has a name')
  t.ok(told.judged.slice(2).every(({ score }) => score === undefined))
  t.ok(told.filters.includes('fixed port'), 'filters have names for people')
  t.notMatch(told.filters.join(), /\d/, 'which are not those of functions, that a bundle renames')
  t.same(
    whatIf({ spec }, candidates, { most: 1 }).judged.map(({ id }) => id),
    ['edge/first'],
    'the rest is counted',
  )
})

t.test('of those that are too far away, the nearest comes first', async (t) => {
  const at = (id: string, lat: number) => ({ ...node(id), locations: [{ lat, lon: 11 }] })
  const near = specOf({ constraints: [{ type: 'geo', location: '48,11', threshold: 50 }] })
  const told = whatIf({ spec: near }, [at('edge/a', 51), at('edge/b', 49), node('edge/c')], { most: 10 })
  t.same(
    told.judged.map(({ id, refusals }) => [id, refusals['distance']]),
    [
      ['edge/b', '111 km from 48,11 instead of 50'],
      ['edge/a', '334 km from 48,11 instead of 50'],
      ['edge/c', 'its location is not known'],
    ],
  )
})

t.test('what is explained is what is decided, for every strategy', async (t) => {
  for (const strategy of Object.keys(RULES.strategies)) {
    const request = { spec: { ...spec, strategy } }
    for (let round = 0; round < 50; round++) {
      const candidates = Array.from({ length: 8 }, (_, index) =>
        node(`edge/n${index}`, {
          memoryMb: (index * 7 + round * 13) % 400,
          vcpus: (index + round) % 4,
          siblings: (index * round) % 3,
          isOpen: (index + round) % 5 !== 0,
        }),
      )
      const decision = schedule(request, candidates)
      const told = whatIf(request, candidates, { most: 100 })
      t.equal(told.chosen, decision.kind === 'placed' ? decision.candidate.id : undefined)
      const counted = Object.values(decision.reasons).reduce((sum, count) => sum + count, 0)
      t.equal(told.fit, candidates.length - counted)
    }
  }
})

t.test('decisions are kept, with a bounded number of candidates', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'hedgerow-decisions-'))
  t.teardown(() => rmSync(dir, { recursive: true }))
  using store = Store.open(join(dir, 'some.db'))
  const parts = {
    saved: store.collection<KeptDecision>('decisions'),
    together: (work: () => void) => store.transaction(work),
    clock: new ManualClock(),
    isThere: (id: string) => id !== `${CART}.1998`,
  }
  const kept = new KeptDecisions(parts)
  const request = { spec }
  const candidates = Array.from({ length: 200 }, (_, index) => node(`edge/n${index}`, { siblings: 200 - index }))
  candidates.push(node('edge/cordoned', { isOpen: false }))
  const decision = schedule(request, candidates)
  if (decision.kind !== 'placed') return t.fail('it fits')
  kept.keep(`${CART}.0`, decision, { request, candidates, at: 7 })
  const told = kept.get(`${CART}.0`)
  t.match(told, { at: 7, candidates: 201, fit: 200, chosen: 'edge/n199' })
  t.equal(told?.judged[0]?.id, 'edge/n199', 'the chosen one is among those that are kept')
  t.equal(told?.judged.length, 32)
  for (let count = 0; count < 2_000; count++)
    kept.keep(`${CART}.${count}`, decision, { request, candidates: candidates.slice(0, 1), at: count })
  t.equal(kept.get(`${CART}.0`), undefined, 'the oldest are forgotten')
  t.ok(kept.get(`${CART}.1999`))
  kept[Symbol.dispose]()
  const next = new KeptDecisions(parts)
  t.equal(parts.saved.keys().length, 1_000, 'on disk as well')
  t.equal(next.get(`${CART}.1998`), undefined, 'but for what is gone')
  t.same(next.get(`${CART}.1999`), kept.get(`${CART}.1999`), 'there for the next process')
  next.keep(`${CART}.2000`, decision, { request, candidates, at: 1 })
  next[Symbol.dispose]()
  t.equal(parts.saved.keys().length, 1_000)
})

function explainOf(world: World, path: string): Promise<PlacementExplanation> {
  return world.api.call<PlacementExplanation>('GET', `/${path}`)
}

t.test('an instance shows the decision that placed it, or what would be decided now, and says which', async (t) => {
  await using world = await mesh({ clusters: ['edge', 'west'] })
  await Promise.all([world.node('n1', { memoryMb: 50 }), world.node('n2'), world.node('w1', { cluster: 'west' })])
  await until(async () => (await world.api.call<unknown[]>('GET', '/nodes')).length === 3, 'three nodes')
  const constraints = [{ type: 'clusters', allowed: ['edge'] }]
  await world.api.call('POST', '/apps', sla({ microservice_name: 'cart', constraints }))
  await world.running(1)
  const decided = await explainOf(world, `instances/${CART}.0/explain`)
  t.match(decided, { instance: `${CART}.0`, state: 'running', node: 'edge/n2', root: { chosen: 'edge', at: Number } })
  t.match(decided.root.judged, [{ id: 'edge' }, { id: 'west', refusals: { constraints: 'cluster not allowed' } }])
  t.match(decided.clusters, [
    {
      cluster: 'edge',
      nodes: {
        at: Number,
        chosen: 'edge/n2',
        judged: [{ id: 'edge/n2' }, { id: 'edge/n1', refusals: { capacity: 'too little memory free' } }],
      },
    },
  ])
  const anew = await explainOf(world, `instances/${CART}.0/explain?anew=true`)
  t.notOk('at' in anew.root, 'what would be decided now has no time')
  t.same(anew.clusters.map(({ cluster }) => cluster).toSorted(), ['edge', 'west'], 'of every cluster')
  t.match(
    textOf(decided),
    /running on edge\/n2\n[^]*as decided at 2[^]*edge\/n2 is chosen[^]*capacity: too little memory free/,
  )
  t.match(textOf(anew), /what would be decided now/)

  await world.stopCluster('edge')
  await world.startCluster('edge')
  await world.stopRoot()
  await world.startRoot()
  await until(() => world.cluster().isLinked && world.cluster('west').isLinked, 'the clusters are back')
  t.same(await explainOf(world, `instances/${CART}.0/explain`), decided, 'both tiers have kept it')
  await world.killCluster('edge')
  await world.startCluster('edge')
  t.same(await explainOf(world, `instances/${CART}.0/explain`), decided, 'also over kill -9')

  await world.api.call('DELETE', `/services/${CART}`)
  await until(async () => (await world.instances()).length === 0, 'deleted')
  await Promise.all([world.stopRoot(), world.stopCluster('edge')])
  for (const file of ['root/root.db', 'edge/cluster.db']) {
    using store = Store.open(join(world.dir, file))
    t.same(store.collection('decisions').keys(), [], `nothing of it is left in ${file}`)
  }
})

t.test('a service that fits nowhere shows what each node lacks', async (t) => {
  await using world = await mesh()
  await world.node('n1')
  await world.api.call('POST', '/apps', sla({ microservice_name: 'cart', memory: 100_000, arch: ['arm64'] }))
  await until(async () => (await world.instances())[0]?.state === 'unplaceable', 'unplaceable')
  for (const path of [`instances/${CART}.0/explain`, `services/${CART}/explain`]) {
    const told = await explainOf(world, path)
    t.match(told.clusters, [
      {
        nodes: {
          fit: 0,
          judged: [
            { id: 'edge/n1', refusals: { architecture: 'other architecture', capacity: 'too little memory free' } },
          ],
        },
      },
    ])
    t.notOk('chosen' in told.root)
    t.match(
      textOf(told),
      /none can take it; edge\/n1 comes nearest, but for architecture: other[^]*\n0 of 1 can take it/,
    )
  }
  await t.rejects(explainOf(world, 'services/shop.acme.no.prod/explain'), { code: 'SERVICE_UNKNOWN' })
  await t.rejects(explainOf(world, `instances/${CART}.7/explain`), { code: 'INSTANCE_UNKNOWN' })
  await t.rejects(explainOf(world, `services/${CART}/explain?most=0`), { code: 'USAGE' })
})
