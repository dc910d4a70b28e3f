import { isMeshError } from '../../core/errors.ts'
import type { ServiceId } from '../../core/model/ids.ts'
import type { InstanceState } from '../../core/model/instance.ts'
import type { ResponseBody } from '../link/messages/protocol.ts'
import type { rootToCluster } from '../link/messages/cluster-root.ts'
import { reasonOf } from '../link/reason.ts'
import type { Candidate } from '../scheduling/candidate.ts'
import { whatIf, type Explanation } from '../scheduling/explain.ts'
import type { Rules } from '../scheduling/schedule.ts'
import { clusterCandidate } from '../scheduling/summary.ts'
import type { ServiceSpec } from '../spec.ts'
import { requestFor } from './placement-facts.ts'
import type { Clusters, LinkedCluster } from './clusters.ts'
import type { Reconciler } from './reconciler.ts'
import type { InstanceRecord, RootStore, ServiceRecord } from './root-store.ts'
import type { View } from './people/view.ts'
import { whyWaiting } from './start-order.ts'

export interface ExplainParts {
  store: RootStore
  clusters: Clusters
  rules: Rules
  reconciler: Pick<Reconciler, 'placing'>
  view: Pick<View, 'seesCluster'>
}

/** A tier's part: what was decided (`at`, milliseconds since 1970), or what would be decided now. */
type TierExplanation = Explanation & { at?: number }

export interface PlacementExplanation {
  service: ServiceId
  instance?: string
  state?: InstanceState
  node?: string
  detail?: string
  /** Which cluster. */
  root: TierExplanation
  /** Which node: of the cluster that has the instance, else of every cluster that is linked. */
  clusters: ClusterExplanation[]
}

export type ClusterExplanation = { cluster: string } & ({ nodes: TierExplanation } | { unknown: string })

export interface ExplainOptions {
  /** What would be decided now, also where the decision is kept. */
  anew: boolean
  /** Candidates of each tier; the others are counted. */
  most: number
}

/** More clusters are not asked for one explanation: each may have many nodes to tell of. */
const MOST_CLUSTERS = 32

/** Why the instance is where it is, or where one of the service would go, with every candidate at both tiers. */
export async function explainPlacement(
  service: ServiceRecord,
  record: InstanceRecord | undefined,
  { anew, most }: ExplainOptions,
  parts: ExplainParts,
): Promise<PlacementExplanation> {
  const { clusters, reconciler, store, rules } = parts
  const request = requestFor(service.spec, { store, ...(record === undefined ? {} : { except: record.id }) })
  const kept = record === undefined || anew ? undefined : reconciler.placing.decisions.get(record.id)
  const isIts = kept !== undefined && kept.chosen === record?.cluster
  const root = isIts
    ? { ...kept, judged: kept.judged.filter(({ id }) => parts.view.seesCluster(id)).slice(0, most) }
    : whatIf(request, candidatesFor(service.id, record, parts), { most, rules })
  const its = record?.cluster === undefined || anew ? undefined : clusters.linked(record.cluster)
  const asked = its === undefined ? [...clusters.all()].slice(0, MOST_CLUSTERS) : [its]
  const open = asked.filter(({ name }) => parts.view.seesCluster(name))
  const told = await Promise.all(open.map((cluster) => askCluster(cluster, request.spec, record, { anew, most })))
  const detail = record === undefined ? whyWaiting(service, store.instancesOf(service.id), store.whole) : record.detail
  return {
    service: service.id,
    ...(record === undefined ? {} : { instance: record.id, state: record.state }),
    ...(record?.node === undefined ? {} : { node: record.node.id }),
    ...(detail === undefined ? {} : { detail }),
    root,
    clusters: told,
  }
}

/** Every cluster that is linked, as if the instance were not there. */
function candidatesFor(service: ServiceId, record: InstanceRecord | undefined, parts: ExplainParts): Candidate[] {
  const perCluster = new Map<string, number>()
  for (const { cluster, wanted, id } of parts.store.instancesOf(service))
    if (cluster !== undefined && wanted && id !== record?.id)
      perCluster.set(cluster, (perCluster.get(cluster) ?? 0) + 1)
  return Array.from(parts.clusters.all(), ({ name, summary }) =>
    clusterCandidate(summary, { condition: 'alive', perService: new Map([[service, perCluster.get(name) ?? 0]]) }),
  )
}

async function askCluster(
  { name, link, version }: LinkedCluster,
  spec: ServiceSpec,
  record: InstanceRecord | undefined,
  options: ExplainOptions,
): Promise<ClusterExplanation> {
  try {
    const instance = record === undefined ? {} : { instance: record.id }
    return {
      cluster: name,
      nodes: ofCluster(name, await link.request('placement.judge', { spec, ...instance, ...options })),
    }
  } catch (error) {
    const isOld = isMeshError(error, 'MESSAGE_INVALID') && /unknown request/.test(String(error.details['problem']))
    return {
      cluster: name,
      unknown: isOld ? `it runs version ${version}, which cannot explain its decisions` : reasonOf(error),
    }
  }
}

/** A cluster speaks of its own nodes only. */
function ofCluster(name: string, told: ResponseBody<typeof rootToCluster, 'placement.judge'>): TierExplanation {
  return { ...told, judged: told.judged.filter(({ id }) => id.startsWith(`${name}/`)) }
}
