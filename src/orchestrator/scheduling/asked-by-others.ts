import { interestOf } from '../../core/model/ids.ts'
import type { Constraint, NearWish, ServiceSpec } from '../spec.ts'

/*
 * What a service of another document asks of its connection to this one concerns this one as well, as it does within a document (sla/both-ends.ts),
 * if it may: both are of one namespace, or this one allows the other by name to call it. `*` is not enough: it would let anybody say where
 * this one must not be.
 *
 *     billing.acme.web ─ anti-affinity ─▶ shop.acme.db     db goes nowhere near web either
 *     billing.acme.web ─ latency ≤ 20 ─▶ shop.acme.db      db prefers to be near web; if it asks the same of web, the smaller threshold holds
 */

/** More are of no help: it cannot be near all of them. */
const MOST_WISHES = 16
/** Of one service, as many as a document may have itself. */
const MOST_CONSTRAINTS = 64

/** What others that are asked for this service may name it by. */
export function targetsOf({ id, constraints }: Pick<ServiceSpec, 'id' | 'constraints'>): string[] {
  const named = constraints.flatMap(({ type, service }) =>
    service !== undefined && (type === 'anti-affinity' || type === 'latency') ? [service] : [],
  )
  return [...new Set(named)].filter((service) => service !== id && service !== interestOf(id))
}

/** What others ask of a service that its own document does not say. */
export interface Asked {
  constraints: readonly Constraint[]
  prefersNear: readonly NearWish[]
}

/** The service as it is placed; itself where nobody asks anything of it that its own document does not say. */
export function withAskedBy(spec: ServiceSpec, others: readonly ServiceSpec[]): ServiceSpec {
  return withAsked(spec, askedBy(spec, others))
}

export function withAsked(spec: ServiceSpec, asked: Asked | undefined): ServiceSpec {
  if (asked === undefined) return spec
  const { constraints, prefersNear: wishes } = asked
  return {
    ...spec,
    constraints: [...spec.constraints, ...constraints].slice(0, Math.max(MOST_CONSTRAINTS, spec.constraints.length)),
    ...(wishes.length === 0 ? {} : { prefersNear: [...(spec.prefersNear ?? []), ...wishes].slice(0, MOST_WISHES) }),
  }
}

export function askedBy(spec: ServiceSpec, others: readonly ServiceSpec[]): Asked | undefined {
  const constraints: Constraint[] = []
  const wishes: NearWish[] = []
  for (const other of others) {
    if (other.id === spec.id || !mayAsk(other, spec)) continue
    for (const constraint of other.constraints) {
      const { type, service, over = 'node', threshold } = constraint
      if (service === undefined || !means(service, spec.id)) continue
      if (type === 'anti-affinity' && !avoids([...spec.constraints, ...constraints], { id: other.id, over }))
        constraints.push({ type, service: other.id, over })
      if (type !== 'latency' || threshold === undefined) continue
      const own = spec.constraints.filter((each) => each.type === 'latency' && means(each.service, other.id))
      if (own.some((each) => threshold < (each.threshold ?? Infinity)))
        constraints.push({ ...constraint, service: other.id })
      const isKnown = own.length > 0 || spec.prefersNear?.some((wish) => means(wish.service, other.id)) === true
      if (!isKnown) wishes.push({ type, service: other.id, threshold })
    }
  }
  if (constraints.length + wishes.length === 0) return undefined
  return { constraints: constraints.slice(0, MOST_CONSTRAINTS), prefersNear: wishes.slice(0, MOST_WISHES) }
}

function mayAsk(other: ServiceSpec, { appNamespace, allow }: ServiceSpec): boolean {
  if (other.appNamespace === appNamespace) return true
  return allow.some((rule) => rule === other.id || rule === `${other.app}.${other.appNamespace}`)
}

function avoids(constraints: readonly Constraint[], { id, over: where }: { id: string; over: string }): boolean {
  return constraints.some(
    ({ type, service, over = 'node' }) => type === 'anti-affinity' && over === where && means(service, id),
  )
}

function means(service: string | undefined, id: string): boolean {
  return service !== undefined && (service === id || service === interestOf(id))
}
