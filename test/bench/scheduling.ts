import { availableParallelism, cpus } from 'node:os'
import { scriptOptions } from '../../.config/script-options.ts'
import type { Coordinate } from '../../src/core/model/coordinate.ts'
import { nodeCandidate, type Candidate, type NodeView } from '../../src/orchestrator/scheduling/candidate.ts'
import { demandOf, reserve } from '../../src/orchestrator/scheduling/capacity.ts'
import type { Anchor } from '../../src/orchestrator/scheduling/distance.ts'
import { refusal, schedule } from '../../src/orchestrator/scheduling/schedule.ts'
import type { Constraint, ServiceSpec } from '../../src/orchestrator/spec.ts'
import { parseSla } from '../../src/orchestrator/sla/parse.ts'

/*
 * How long one decision takes from 10 to 10,000 workers, and how good it is.
 *
 *     npm run bench:scheduling
 *     npm run bench:scheduling -- --json --rounds 200
 *
 * Time: one `schedule()` from what a cluster knows of its nodes, for a service with a latency constraint to a service of 16 instances and
 * a distance constraint. Quality: the latency that the chosen places really have. Placement sees network coordinates, which are wrong
 * by a few per cent, as Vivaldi's are; what counts is the true round trip.
 *
 * LDP stands for the algorithm of Oakestra's paper (Bartolomeo et al., USENIX ATC 2023): the same filters by resources, distance and
 * latency, then any node that passes. It is written here from its description, and takes one at random.
 */

export interface Figure {
  measure: string
  ours: number
  goal: number | null
  unit: string
  ok: boolean | null
  /** What others get for the same, where there is something to compare. */
  against?: Record<string, number>
}

const WORKERS = [10, 50, 100, 500, 1_000, 5_000, 10_000]
/** Milliseconds; the reference published 16.5, 26, 41.5 and 140 for these numbers of workers on its own machines. */
const GOALS: Readonly<Record<number, number>> = { 500: 5, 10_000: 100 }
const PUBLISHED: Readonly<Record<number, number>> = { 10: 16.5, 50: 26, 100: 41.5, 500: 140 }

/** The same numbers for the same seed (mulberry32). */
export function randomOf(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296
  }
}

interface World {
  views: NodeView[]
  /** The true round trip, ms. */
  rtt(a: string, b: string): number
}

const CITIES = 8

/** Nodes around a few cities: the round trip is the way between cities, and the access link of each. */
function worldOf(workers: number, random: () => number): World {
  const cities = Array.from({ length: CITIES }, () => ({ lat: 36 + random() * 22, lon: -8 + random() * 34 }))
  const truth = new Map<string, { at: number[]; height: number }>()
  const views = Array.from({ length: workers }, (_, i): NodeView => {
    const id = `edge/n${i}`
    const city = cities[i % CITIES] as { lat: number; lon: number }
    const location = { lat: city.lat + (random() - 0.5) / 2, lon: city.lon + (random() - 0.5) / 2 }
    // 100 km are about 1 ms there and back in fibre, twice that by the way that it takes
    const at = [location.lat * 111 * 0.02, location.lon * 78 * 0.02, 0]
    const height = 0.3 + 6 * random() ** 3
    truth.set(id, { at, height })
    const wrong = () => 1 + (random() - 0.5) * 0.16
    const coordinate: Coordinate = { at: at.map((x) => x + (random() - 0.5) * 2), height: height * wrong(), error: 0.1 }
    const vcpus = 2 + Math.floor(random() * 15)
    const capacity = { memoryMb: vcpus * 2_048, vcpus, vgpus: random() < 0.1 ? 1 : 0, vtpus: 0, storageMb: 50_000 }
    const used = random() * 0.9
    const free = {
      ...capacity,
      memoryMb: Math.floor(capacity.memoryMb * (1 - used)),
      vcpus: Math.floor(vcpus * (1 - used)),
    }
    return {
      facts: {
        id,
        capacity,
        runtimes: ['process'],
        arch: 'amd64',
        addresses: [],
        labels: { zone: `z${i % 4}` },
        version: '0',
        coordinate,
        location,
      },
      condition: 'alive',
      free,
      portsTaken: [],
      instances: Math.floor(used * 20),
      perService: new Map(),
    }
  })
  const rtt = (a: string, b: string) => {
    if (a === b) return 0
    const [one, other] = [truth.get(a), truth.get(b)]
    if (one === undefined || other === undefined) throw new Error('no such node')
    return Math.hypot(...one.at.map((x, axis) => x - (other.at[axis] ?? 0))) + one.height + other.height
  }
  return { views, rtt }
}

function specOf(service: Record<string, unknown>): ServiceSpec {
  const [spec] = specsOf([{ microservice_name: 'web', ...service }])
  if (spec === undefined) throw new Error('no service')
  return spec
}

/** Those of one document. */
function specsOf(services: readonly Record<string, unknown>[]): ServiceSpec[] {
  const parsed = parseSla({
    application_name: 'shop',
    application_namespace: 'acme',
    microservices: services.map((service) => ({ cmd: ['web'], ...service })),
  })
  if (parsed.kind !== 'accepted') throw new Error(JSON.stringify(parsed))
  return parsed.apps.flatMap((app) => app.services)
}

/** One decision for each round; the median and the slowest but one in a hundred, ms. */
export function decisionMs(workers: number, rounds: number): { median: number; p99: number } {
  const random = randomOf(workers)
  const { views } = worldOf(workers, random)
  const spec = specOf({
    strategy: 'latency-and-location',
    memory: 512,
    vcpus: 1,
    constraints: [
      { type: 'latency', service: 'shop.acme.db', threshold: 25 },
      { type: 'geo', location: '48.1,11.6', threshold: 1_500 },
    ],
  })
  const times = Array.from({ length: rounds }, () => {
    const anchors: Anchor[] = Array.from({ length: 16 }, () => {
      const { id, coordinate } = (views[Math.floor(random() * workers)] as NodeView).facts
      return { node: id, beyondMs: 0, ...(coordinate === undefined ? {} : { coordinate }) }
    })
    const start = performance.now()
    schedule({ spec, near: () => anchors }, views.map(nodeCandidate))
    return performance.now() - start
  })
  const sorted = times.toSorted((a, b) => a - b)
  return { median: sorted[sorted.length >> 1] as number, p99: sorted[Math.ceil(sorted.length * 0.99) - 1] as number }
}

type Near = (constraint: Constraint) => Anchor[]
type Chooser = (spec: ServiceSpec, near: Near, candidates: Candidate[]) => string | undefined

const ours: Chooser = (spec, near, candidates) => {
  const decision = schedule({ spec, near }, candidates)
  return decision.kind === 'placed' ? decision.candidate.id : undefined
}

function ldp(random: () => number): Chooser {
  return (spec, near, candidates) => {
    const passed = candidates.filter((candidate) => refusal({ spec, near }, candidate) === undefined)
    return passed[Math.floor(random() * passed.length)]?.id
  }
}

export interface Quality {
  /** Services with a place. */
  placed: number
  /** Of those, with a true round trip beyond the threshold. */
  violated: number
  /** The mean true round trip to the service before, ms. */
  meanMs: number
}

function nearTo(i: number, threshold: number): Record<string, unknown> {
  if (i === 0) return { constraints: [{ type: 'latency', service: 'shop.acme.home', threshold }] }
  return {
    connectivity: [{ target_microservice_id: `s${i - 1}`, con_constraints: [{ type: 'latency', threshold }] }],
  }
}

interface Chain {
  world: World
  specs: ServiceSpec[]
  home: string
}

/** A pipeline of services, each within so many ms of the one before; the first is near one node. */
function chainOf(seed: number, { workers, services }: { workers: number; services: number }): Chain {
  const random = randomOf(seed)
  const world = worldOf(workers, random)
  const document = Array.from({ length: services }, (_, i) => ({
    microservice_name: `s${i}`,
    strategy: 'latency-and-location',
    memory: 1_024 * (1 + Math.floor(random() * 3)),
    vcpus: 1,
    ...nearTo(i, 8 + Math.floor(random() * 12)),
  }))
  const specs = specsOf(document)
  return { world, specs, home: `edge/n${Math.floor(random() * workers)}` }
}

/** One after the other, as they come: where each goes, or nowhere. */
function place({ world, specs, home }: Chain, choose: Chooser): (string | undefined)[] {
  const views = new Map(world.views.map((view) => [view.facts.id, view]))
  let before = home
  return specs.map((spec) => {
    const { coordinate } = (views.get(before) as NodeView).facts
    const anchors = [{ node: before, beyondMs: 0, ...(coordinate === undefined ? {} : { coordinate }) }]
    const near: Near = ({ service }) => (service === spec.constraints[0]?.service ? anchors : []) // those after it are still to come
    const chosen = choose(spec, near, [...views.values()].map(nodeCandidate))
    if (chosen === undefined) return undefined
    const view = views.get(chosen) as NodeView
    views.set(chosen, { ...view, free: reserve(view.free, demandOf(spec)), instances: view.instances + 1 })
    before = chosen
    return chosen
  })
}

function judge({ world, specs, home }: Chain, places: readonly (string | undefined)[]): Quality {
  let [before, placed, violated, sum] = [home, 0, 0, 0]
  for (const [i, at] of places.entries()) {
    if (at === undefined) continue
    const ms = world.rtt(before, at)
    placed += 1
    sum += ms
    if (ms > (specs[i]?.constraints[0]?.threshold ?? Infinity)) violated += 1
    before = at
  }
  return { placed, violated, meanMs: placed === 0 ? 0 : sum / placed }
}

/** Every assignment that fits and keeps the true thresholds: most services placed, then the least latency in all. */
export function optimum(chain: Chain): Quality {
  const { world, specs, home } = chain
  let best: Quality = { placed: 0, violated: 0, meanMs: Infinity }
  const free = new Map(world.views.map(({ facts, free }) => [facts.id, free]))
  const go = (i: number, before: string, placed: number, sum: number) => {
    if (placed + specs.length - i < best.placed) return
    const spec = specs[i]
    if (spec === undefined) {
      const meanMs = placed === 0 ? 0 : sum / placed
      if (placed > best.placed || (placed === best.placed && meanMs < best.meanMs))
        best = { placed, violated: 0, meanMs }
      return
    }
    const demand = demandOf(spec)
    for (const [id, left] of free) {
      const ms = world.rtt(before, id)
      if (ms > (spec.constraints[0]?.threshold ?? Infinity)) continue
      if (left.memoryMb < demand.memoryMb || left.vcpus < demand.vcpus) continue
      free.set(id, reserve(left, demand))
      go(i + 1, id, placed + 1, sum + ms)
      free.set(id, left)
    }
    go(i + 1, before, placed, sum)
  }
  go(0, home, 0, 0)
  return best
}

function total(all: readonly Quality[]): Quality {
  const placed = all.reduce((sum, each) => sum + each.placed, 0)
  const violated = all.reduce((sum, each) => sum + each.violated, 0)
  const ms = all.reduce((sum, each) => sum + each.meanMs * each.placed, 0)
  return { placed, violated, meanMs: placed === 0 ? 0 : ms / placed }
}

export function qualities(cases: number, size: { workers: number; services: number }, withOptimum: boolean) {
  const chains = Array.from({ length: cases }, (_, i) => chainOf(1_000 + i, size))
  const of = (choose: Chooser) => total(chains.map((chain) => judge(chain, place(chain, choose))))
  return {
    services: cases * size.services,
    ours: of(ours),
    ldp: of(ldp(randomOf(7))),
    ...(withOptimum ? { optimum: total(chains.map(optimum)) } : {}),
  }
}

export function measureAll(rounds: number, say: (figure: Figure) => void): void {
  decisionMs(500, 50) // compiled
  for (const workers of WORKERS) {
    const { median, p99 } = decisionMs(
      workers,
      Math.max(Math.min(rounds, 20), Math.round(rounds / Math.max(1, workers / 500))),
    )
    const goal = GOALS[workers] ?? null
    const published = PUBLISHED[workers]
    say({
      measure: `decision, ${workers} workers`,
      ours: round(median),
      goal,
      unit: 'ms',
      ok: goal === null ? null : median < goal,
      against: { p99: round(p99), ...(published === undefined ? {} : { published }) },
    })
  }
  const large = qualities(40, { workers: 200, services: 12 }, false)
  sayQuality('200 workers, 12 services', large, say)
  const small = qualities(60, { workers: 8, services: 5 }, true)
  sayQuality('8 workers, 5 services', small, say)
}

function sayQuality(
  what: string,
  { services, ours, ldp, optimum }: ReturnType<typeof qualities>,
  say: (figure: Figure) => void,
) {
  const of = (value: (quality: Quality) => number) => ({
    ldp: round(value(ldp)),
    ...(optimum === undefined ? {} : { optimum: round(value(optimum)) }),
  })
  const row = (measure: string, unit: string, value: (quality: Quality) => number, isOk: boolean) =>
    say({
      measure: `${measure}, ${what}`,
      ours: round(value(ours)),
      goal: round(value(ldp)),
      unit,
      ok: isOk,
      against: of(value),
    })
  row('placed', '%', ({ placed }) => (100 * placed) / services, ours.placed >= ldp.placed)
  row('true round trip, mean', 'ms', ({ meanMs }) => meanMs, ours.meanMs <= ldp.meanMs)
  row(
    'beyond the threshold in truth',
    '%',
    ({ placed, violated }) => (100 * violated) / Math.max(placed, 1),
    ours.violated <= ldp.violated,
  )
}

function round(value: number): number {
  return Number(value.toPrecision(3))
}

function main(): void {
  const { json, rounds } = scriptOptions({
    name: 'npm run bench:scheduling',
    about: 'How long a placement takes with 10 to 10,000 workers, and how good it is against LDP and the optimum.',
    options: {
      json: { kind: 'flag', meaning: 'one object a line' },
      rounds: { kind: 'number', meaning: 'decisions at up to 500 workers; fewer with more', default: 200 },
    },
  })
  if (!json)
    process.stdout.write(
      `${availableParallelism()} × ${cpus()[0]?.model ?? 'unknown processor'}, Node ${process.version}\n`,
    )
  measureAll(Math.min(Math.max(rounds, 1), 10_000), (figure) =>
    process.stdout.write(json ? `${JSON.stringify(figure)}\n` : line(figure)),
  )
}

function line({ measure, ours, goal, unit, ok, against = {} }: Figure): string {
  const others = Object.entries(against).map(([name, value]) => `${name} ${value}`)
  const judged = goal === null ? '' : `goal ${goal}${ok === true ? ', met' : ', missed'}`
  return `${measure.padEnd(58)} ${`${ours} ${unit}`.padStart(10)}   ${[...others, judged].filter((text) => text !== '').join('; ')}\n`
}

if (import.meta.main) main()
