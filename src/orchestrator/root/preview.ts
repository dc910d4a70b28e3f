import type { NodeId, ServiceId } from '../../core/model/ids.ts'
import { instanceId } from '../../core/model/ids.ts'
import { demandOf, reserve } from '../scheduling/capacity.ts'
import { withMore, type Placed } from '../scheduling/placement-request.ts'
import { schedule } from '../scheduling/schedule.ts'
import { clusterCandidate } from '../scheduling/summary.ts'
import type { ServiceSpec } from '../spec.ts'
import type { ApiContext } from './api-context.ts'
import { changedKeys, type ChangedKeys, type ServiceChange } from './difference.ts'
import { requestFor } from './placement-facts.ts'
import { whyGap } from './rollout.ts'
import { idOf } from './submission.ts'
import { whyNowhere } from './unplaceable.ts'
import { belongs } from './jobs/slots.ts'

/** What a document would change about one service, and what would come of it. */
export interface PreviewedService {
  id: ServiceId
  change: ServiceChange['kind']
  /** Keys of the document whose value is another. */
  fields: string[]
  /** What they were, and what they would be. */
  differences: ChangedKeys[]
  /** What becomes of the instances there are. */
  instances: { added: number; replaced: number; changedInPlace: number; removed: number }
  /** Why it will not answer while it is updated. */
  gap?: string
  /** Where the first of those that are added would go as things are now, or why nowhere. */
  places: { instance: string; place?: string; reason?: string }[]
}

/** Places are looked up for so many new instances of a service: each is one more decision of its cluster. */
const MOST_PLACES = 32

/** Nothing is changed. */
export async function preview(changes: readonly ServiceChange[], context: ApiContext): Promise<PreviewedService[]> {
  const previewed: PreviewedService[] = []
  for (const change of changes) previewed.push(await previewOne(change, context))
  return previewed
}

async function previewOne(change: ServiceChange, context: ApiContext): Promise<PreviewedService> {
  const { store } = context
  const id = idOf(change)
  const before = store.services.get(id)
  const there = store.instancesOf(id).filter(({ wanted }) => wanted)
  const spec = 'spec' in change ? change.spec : change.kind === 'unchanged' ? before?.spec : undefined
  const replicas = spec?.replicas ?? 0
  const staying = there.filter((record) => spec !== undefined && belongs(record, spec)).length
  const effect = change.kind === 'updated' ? change.effect : 'none'
  const gap = whyGap(change, before, there)
  const differences = change.kind === 'updated' && before !== undefined ? changedKeys(before.spec, change.spec) : []
  const taken = new Set(there.map(({ ordinal }) => ordinal))
  const added = Array.from({ length: replicas }, (_, ordinal) => ordinal).filter((ordinal) => !taken.has(ordinal))
  return {
    id,
    change: change.kind,
    fields: [...new Set(differences.flatMap(({ keys }) => keys))],
    differences,
    instances: {
      added: added.length,
      replaced: effect === 'restart' ? staying : 0,
      changedInPlace: effect === 'place' || effect === 'live' ? staying : 0,
      removed: there.length - staying,
    },
    ...(gap === undefined ? {} : { gap }),
    places: spec === undefined ? [] : await placesOf(spec, added.slice(0, MOST_PLACES), context),
  }
}

/** As the root would choose clusters, and each cluster its nodes; one of an earlier version does not say which. */
async function placesOf(spec: ServiceSpec, ordinals: readonly number[], context: ApiContext) {
  const { clusters, store, rules } = context
  const summaries = new Map([...clusters.all()].map(({ name, summary }) => [name, summary]))
  const perCluster = Map.groupBy(
    store.instancesOf(spec.id).flatMap(({ cluster }) => cluster ?? []),
    (cluster) => cluster,
  )
  const counts = new Map([...perCluster].map(([cluster, all]) => [cluster, all.length]))
  const more: Placed[] = []
  const request = withMore(requestFor(spec, { store }), () => more)
  const chosen = ordinals.map((ordinal) => {
    const candidates = [...summaries].map(([name, summary]) =>
      clusterCandidate(summary, { condition: 'alive', perService: new Map([[spec.id, counts.get(name) ?? 0]]) }),
    )
    const decision = schedule(request, candidates, rules)
    const instance = instanceId(spec.id, ordinal)
    if (decision.kind === 'unplaceable') return { instance }
    const { id } = decision.candidate
    const summary = summaries.get(id)
    if (summary !== undefined)
      summaries.set(id, { ...summary, free: reserve(summary.free, demandOf(spec)), instances: summary.instances + 1 })
    counts.set(id, (counts.get(id) ?? 0) + 1)
    more.push({ cluster: id })
    return { instance, cluster: id }
  })
  const places = new Map<string, { nodes: NodeId[]; reason?: string | undefined } | undefined>()
  for (const [cluster, all] of Map.groupBy(chosen, ({ cluster }) => cluster)) {
    if (cluster === undefined) continue
    const asked = clusters
      .linked(cluster)
      ?.link.request('placement.preview', { spec: request.spec, instances: all.length })
    places.set(cluster, await asked?.catch(() => undefined)) // gone meanwhile, or of a version without this request
  }
  const isAnyNowhere = chosen.some(({ cluster }) => cluster === undefined)
  const nowhere = isAnyNowhere ? await whyNowhere(spec, new Map(), context) : ''
  return chosen.map(({ instance, cluster }) => {
    if (cluster === undefined) return { instance, reason: nowhere }
    const known = places.get(cluster)
    if (known === undefined) return { instance, place: cluster }
    const node = known.nodes.shift()
    return node === undefined ? { instance, reason: known.reason ?? 'nothing fits' } : { instance, place: node }
  })
}
