import type { ServiceSpec } from '../spec.ts'
import { clusterCandidate } from '../scheduling/candidate.ts'
import { reasonsText, schedule } from '../scheduling/schedule.ts'
import type { Clusters, LinkedCluster } from './clusters.ts'
import type { RootStore } from './root-store.ts'
import { membersOf, unknownWishes } from './wishes.ts'

/*
 * Why no node takes an instance. The root knows clusters as summaries, so it asks them for what their nodes say:
 *
 *     6 nodes: 4 too little memory free, 2 no gpu; edge: edge/n1: runtime docker is not offered here; no node zz has joined (…)
 *     ──── counted by the clusters ────────────   ──── refused when it was asked ──────────────────   ──── named, unknown ─────
 */

interface Counted {
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
  const counted = await Promise.all(Array.from(clusters.all(), (cluster) => countedBy(cluster, spec)))
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
    ...unknownWishes(spec.constraints, membersOf(store)),
  ]
    .join('; ')
    .slice(0, 2_000)
}

/** What the cluster counts; of one that cannot say it, what its summary says, for all of its nodes. */
async function countedBy({ name, link, summary }: LinkedCluster, spec: ServiceSpec): Promise<Counted> {
  try {
    const { nodes, reasons } = await link.request('placement.explain', { spec })
    return { cluster: name, nodes, reasons: Object.fromEntries(reasons.map((each) => [each.reason, each.nodes])) }
  } catch {
    const candidate = clusterCandidate(summary, { condition: 'alive', perService: new Map() })
    const decision = schedule({ spec }, [candidate])
    const [reason] = decision.kind === 'unplaceable' ? Object.keys(decision.reasons) : []
    return { cluster: name, nodes: summary.nodes, reasons: reason === undefined ? {} : { [reason]: summary.nodes } }
  }
}

function sumOf(reasons: Readonly<Record<string, number>>): number {
  return Object.values(reasons).reduce((sum, count) => sum + count, 0)
}
