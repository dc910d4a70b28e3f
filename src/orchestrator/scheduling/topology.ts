import type { Constraint, Topology } from '../spec.ts'
import type { Candidate } from './candidate.ts'
import type { PlacementRequest, Placed } from './placement-request.ts'

/*
 * Where instances count as together: on one node, in one area, in one cluster. For the root a candidate is a whole cluster with
 * several areas, of which one is enough; the cluster then judges its nodes.
 */

/** Why the candidate is too near to an instance of the service that it must stay away from. */
export function together(constraint: Constraint, candidate: Candidate, request: PlacementRequest): string | undefined {
  const { service = request.spec.id, over = 'node' } = constraint
  const domains = domainsOf(candidate, over)
  if (over === 'node' && service === request.spec.id && candidate.node !== undefined) {
    if ((candidate.perService.get(service) ?? 0) === 0) return undefined
  } else {
    if (domains === undefined) return undefined
    if (domains.length === 0) return `has no ${over}, which anti-affinity needs`
    const counts = request.decision?.counts(constraint) ?? countsIn(constraint, request)
    if (domains.some((domain) => (counts.get(domain) ?? 0) === 0)) return undefined
  }
  const where = { node: 'it has', area: 'its area has', cluster: 'its cluster has' }[over]
  return `${where} an instance of ${service} already`
}

/** Why one more instance there would leave the service more uneven than the constraint allows. A preference refuses nothing. */
export function uneven(constraint: Constraint, candidate: Candidate, request: PlacementRequest): string | undefined {
  const { over = 'node', maxSkew } = constraint
  if (maxSkew === undefined) return undefined
  const count = fewestIn(constraint, candidate, request)
  if (count === undefined) return undefined
  if (count === Infinity) return `has no ${over} to spread over`
  const fewest = request.decision?.fewest(constraint) ?? count
  return count + 1 - fewest > maxSkew
    ? `its ${over} has too many instances of the service for an even spread`
    : undefined
}

/** Instances of the service in the candidate's emptiest domain; `Infinity` without a domain, `undefined` when that is not known here. */
export function fewestIn(constraint: Constraint, candidate: Candidate, request: PlacementRequest): number | undefined {
  const { over = 'node' } = constraint
  const domains = domainsOf(candidate, over)
  if (domains === undefined) return undefined
  if (over === 'node') return candidate.perService.get(request.spec.id) ?? 0
  const counts = request.decision?.counts(constraint) ?? countsIn(constraint, request)
  return domains.reduce((least, domain) => Math.min(least, counts.get(domain) ?? 0), Infinity)
}

/** How many instances of the service that is meant there are in each domain. */
export function countsIn(constraint: Constraint, { spec, placed }: PlacementRequest): ReadonlyMap<string, number> {
  const { service = spec.id, over = 'node' } = constraint
  const counts = new Map<string, number>()
  for (const instance of placed?.(service) ?? []) {
    const domain = domainOf(instance, over)
    if (domain !== undefined) counts.set(domain, (counts.get(domain) ?? 0) + 1)
  }
  return counts
}

/** `undefined`: the root does not know the nodes of a cluster. */
function domainsOf(candidate: Candidate, over: Topology): readonly string[] | undefined {
  switch (over) {
    case 'node':
      return candidate.node === undefined ? undefined : [candidate.node]
    case 'area':
      return candidate.areas
    case 'cluster':
      return [candidate.cluster]
    default:
      return over satisfies never
  }
}

function domainOf({ node, cluster, area }: Placed, over: Topology): string | undefined {
  return { node, area, cluster }[over]
}
