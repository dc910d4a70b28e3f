import type { ServiceSpec } from '../spec.ts'
import { clusterCandidate } from '../scheduling/summary.ts'
import { nearestText, type Nearest } from '../scheduling/nearest.ts'
import { reasonsText, refusal } from '../scheduling/schedule.ts'
import type { Clusters, LinkedCluster } from './clusters.ts'
import type { RootStore } from './root-store.ts'
import { admission } from './people/admission.ts'
import { requestFor } from './placement-facts.ts'
import { membersOf, unknownWishes } from './wishes.ts'

/*
 * Why no node takes an instance. The root knows clusters as summaries, so it asks them for what their nodes say:
 *
 *     6 nodes: 4 too little memory free, 2 no gpu; edge: edge/n1: runtime docker is not offered here; no node zz has joined (…)
 *     ──── counted by the clusters ────────────   ──── refused when it was asked ──────────────────   ──── named, unknown ─────
 *     nearest that can: edge/n3, 34 ms from shop.acme.db instead of 20
 *     ──── only its distance is against it ──────────────────────────
 */

interface Counted {
  nearest?: Nearest
  cluster: string
  nodes: number
  reasons: Readonly<Record<string, number>>
}

/** `refusals`: what clusters said that were asked to take it, by cluster. */
export async function whyNowhere(
  spec: ServiceSpec,
  refusals: ReadonlyMap<string, string>,
  { store, clusters }: { store: RootStore; clusters: Clusters },
): Promise<string> {
  const admitted = admission(spec, store) ?? (() => true)
  const open = Array.from(clusters.all()).filter(({ name }) => admitted(name)) // of the others it is told nothing
  const counted = await Promise.all(open.map((cluster) => countedBy(cluster, spec, store)))
  const reasons: Record<string, number> = {}
  for (const one of counted)
    for (const [reason, nodes] of Object.entries(one.reasons)) reasons[reason] = (reasons[reason] ?? 0) + nodes
  const nodes = counted.reduce((sum, one) => sum + one.nodes, 0)
  // where every node is counted, the refusal of the cluster says the same once more
  const isOpen = ({ cluster }: Counted) => refusals.has(cluster)
  const rest = counted.filter((one) => isOpen(one) && one.nodes > sumOf(one.reasons))
  const none = counted.length === 0 ? 'no cluster is connected' : 'no node is connected'
  const isEmpty = Object.keys(reasons).length === 0
  return [
    ...(isEmpty && rest.length > 0 ? [] : [reasonsText(reasons, { nodes, none })]),
    ...rest.map(({ cluster }) => `${cluster}: ${refusals.get(cluster) ?? ''}`),
    ...nearestOf(counted),
    ...unknownWishes(spec.constraints, membersOf(store, admitted)),
  ]
    .join('; ')
    .slice(0, 2_000)
}

/** What the cluster counts; of one that cannot say it, what its summary says, for all of its nodes. */
async function countedBy(
  { name, link, summary }: LinkedCluster,
  spec: ServiceSpec,
  store: RootStore,
): Promise<Counted> {
  try {
    const { nodes, reasons, nearest } = await link.request('placement.explain', {
      spec: requestFor(spec, { store }).spec,
    })
    const counts = Object.fromEntries(reasons.map((each) => [each.reason, each.nodes]))
    return { cluster: name, nodes, reasons: counts, ...(nearest === undefined ? {} : { nearest }) }
  } catch {
    const candidate = clusterCandidate(summary, { condition: 'alive', perService: new Map() })
    const reason = refusal(requestFor(spec, { store }), candidate)
    return { cluster: name, nodes: summary.nodes, reasons: reason === undefined ? {} : { [reason]: summary.nodes } }
  }
}

/** Of all clusters, the node that is least too far. */
function nearestOf(counted: readonly Counted[]): string[] {
  const [best] = counted.flatMap(({ nearest }) => nearest ?? []).toSorted((a, b) => a.excess - b.excess)
  return best === undefined ? [] : [nearestText(best)]
}

function sumOf(reasons: Readonly<Record<string, number>>): number {
  return Object.values(reasons).reduce((sum, count) => sum + count, 0)
}
