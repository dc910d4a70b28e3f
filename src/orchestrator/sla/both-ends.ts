import { interestOf } from '../../core/model/ids.ts'
import type { Constraint, NearWish, ServiceSpec, Topology } from '../spec.ts'
import type { Findings } from './findings.ts'
import type { ReadService } from './read-service.ts'

/*
 * What one service asks of another concerns both, as far as one document has both:
 *
 *     web ─ bandwidth 1,000 ─▶ db      each reserves it; of two wishes the larger counts, once
 *     web ─ latency ≤ 20 ─▶ db         web must be within 20 ms of db. Of db it is a wish: db may have to be somewhere else, and web follows
 *     web ◀─ latency ≤ 10 ─ db         both ask: each must be within 10 ms, the smaller of the two
 *     web ─ anti-affinity ─▶ db        neither goes where the other is
 */

/** What a service asks of its connection to `to`, a service id or an interest key. */
export interface Asked<T> {
  service: ServiceSpec
  to: string
  what: T
}

export interface AskedOfConnections {
  latencies: readonly Asked<Constraint>[]
  /** kbit/s */
  bandwidths: readonly Asked<number>[]
}

/** Step by step. */
export function* applyToBothEnds(
  { latencies, bandwidths }: AskedOfConnections,
  all: readonly ReadService[],
  findings: Findings,
): Generator<undefined, void> {
  const apart = all.flatMap(({ service }) => service.constraints.flatMap((each) => apartFrom(service, each)))
  if (latencies.length + bandwidths.length + apart.length === 0) return
  const byKey = Map.groupBy(
    all.flatMap(({ service }) => [service.id, interestOf(service.id)].map((key) => ({ key, service }))),
    ({ key }) => key,
  )
  yield
  const meant: Meant = (to) => byKey.get(to)?.map(({ service }) => service) ?? []
  reserveBandwidth(bandwidths, meant)
  yield* holdLatency(latencies, meant)
  yield* keepApart(apart, meant, (full, other) => {
    const { fields } = all.find(({ service }) => service === full) as ReadService
    findings.warn(
      fields.at('constraints'),
      `are too many: ${full.id} may be placed beside ${other.id}, which avoids it`,
      `name ${other.id} in one of them`,
    )
  })
}

type Meant = (to: string) => ServiceSpec[]

function reserveBandwidth(asked: readonly Asked<number>[], meant: Meant): void {
  const pairs = new Map<string, { ends: Set<ServiceSpec>; kbit: number }>()
  for (const { service, to, what: kbit } of asked) {
    const others = meant(to)
    const key = [service.id, others[0]?.id ?? to].sort().join(' ')
    const known = pairs.get(key)
    const ends = new Set([service, ...others, ...(known?.ends ?? [])])
    pairs.set(key, { ends, kbit: Math.max(kbit, known?.kbit ?? 0) })
  }
  for (const { ends, kbit } of pairs.values())
    for (const end of ends) {
      end.bandwidthInKbit += kbit
      end.bandwidthOutKbit += kbit
    }
}

function* holdLatency(asked: readonly Asked<Constraint>[], meant: Meant): Generator<undefined, void> {
  const answers = answersIn(asked, meant)
  const tightest = asked.map((each) => {
    const both = [each, ...meant(each.to).flatMap((other) => answers(other, each.service))]
    return both.reduce((least, { what }) => (msOf(what) < msOf(least) ? what : least), each.what)
  })
  const measures = tightest.map(({ type: _type, service: _service, ...rest }) => rest)
  for (const [i, { service, to, what }] of asked.entries()) {
    yield
    if (what !== tightest[i]) delete what.rigidness
    Object.assign(what, measures[i])
    for (const other of meant(to)) {
      if (other === service || answers(other, service).length > 0) continue
      const wish: NearWish = { type: 'latency', service: service.id, threshold: msOf(what) }
      other.prefersNear = [...(other.prefersNear ?? []), wish].slice(0, MOST_WISHES)
    }
  }
}

function* keepApart(
  asked: readonly Asked<Topology>[],
  meant: Meant,
  isFull: (service: ServiceSpec, other: ServiceSpec) => void,
): Generator<undefined, void> {
  const answers = answersIn(asked, meant)
  for (const { service, to, what: over } of asked) {
    yield
    for (const other of meant(to)) {
      if (other === service || answers(other, service).some(({ what }) => what === over)) continue
      if (other.constraints.length >= MOST_CONSTRAINTS) isFull(other, service)
      else other.constraints.push({ type: 'anti-affinity', service: service.id, over })
    }
  }
}

/** What the one asks of the other. */
function answersIn<T>(asked: readonly Asked<T>[], meant: Meant): (from: ServiceSpec, to: ServiceSpec) => Asked<T>[] {
  const byService = Map.groupBy(asked, ({ service }) => service)
  return (from, to) => (byService.get(from) ?? []).filter((each) => meant(each.to).includes(to))
}

function apartFrom(service: ServiceSpec, { type, service: to, over = 'node' }: Constraint): Asked<Topology>[] {
  return type === 'anti-affinity' && to !== undefined ? [{ service, to, what: over }] : []
}

function msOf({ threshold = Infinity }: Constraint): number {
  return threshold
}

/** Of one service, as many as a document may have itself. */
const MOST_CONSTRAINTS = 64
/** More are of no help: it cannot be near all of them. */
const MOST_WISHES = 16
