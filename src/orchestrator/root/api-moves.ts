import Type from 'typebox'
import { isMeshError, MeshError } from '../../core/errors.ts'
import { clusterOf, type NodeId } from '../../core/model/ids.ts'
import { type App, reader } from '../link/link-server.ts'
import { MAX_REASON } from '../link/messages/protocol.ts'
import { type DrainStatus } from '../link/messages/cluster-root.ts'
import { SOMEBODY_ELSES } from './people/view.ts'
import { reasonOf } from '../link/reason.ts'
import { NodeIdText } from '../link/schemas.ts'
import { whatStays, whyImmobile } from '../scheduling/mobility.ts'
import type { ServiceSpec } from '../spec.ts'
import { linkedNode, type NodePath } from './api-clusters.ts'
import type { ApiContext, Id } from './api-context.ts'
import { servingOf } from './former-place.ts'
import { hasEnded } from './rollout.ts'
import { jsonRows } from './json-rows.ts'
import type { InstanceRecord, ServiceRecord } from './root-store.ts'

const MIGRATED = { by: 'user', why: 'it was migrated' } as const
const closed = { additionalProperties: false }
const readMigrate = reader(Type.Object({ to: Type.Optional(NodeIdText) }, closed))
const readDrain = reader(
  Type.Object(
    { force: Type.Optional(Type.Boolean()), reason: Type.Optional(Type.String({ maxLength: MAX_REASON })) },
    closed,
  ),
)

/**
 * Moving and restarting what runs, without a moment in which nothing answers; running jobs again. The cluster does it, or the root
 * where it goes to another one; the CLI watches.
 */
export function moveRoutes(app: App, context: ApiContext): void {
  const { store } = context
  app.post<Id>('/instances/:id/migrate', ({ params, body }) => migrate(params.id, readMigrate(body ?? {}), context))
  app.post<Id>('/instances/:id/restart', ({ params }) => restart(params.id, context))
  app.post<Id>('/services/:id/run', ({ params }) => runJob(params.id, context))
  app.get('/runs', (_request, reply) => {
    const jobs = store.services.list().filter(({ spec }) => spec.oneShot)
    const instances = jobs.flatMap(({ id }) => store.instancesOf(id))
    const runs = instances.flatMap(({ id }) => (store.runs.get(id) ?? []).map((run) => ({ id, run })))
    return jsonRows(reply, runs, ({ id, run: { node, ...run } }) => ({ id, ...run, node }))
  })
  app.post<NodePath>('/nodes/:cluster/:node/drain', ({ params, body }) => drain(params, readDrain(body ?? {}), context))
  app.get<NodePath>('/nodes/:cluster/:node/drain', ({ params }) => drained(params, context))
}

/** @throws MeshError INSTANCE_UNKNOWN, UNPLACEABLE, LINK_CLOSED */
export async function migrate(instance: string, { to }: { to?: NodeId }, context: ApiContext) {
  await context.clusters.linkedSoon(movable(instance, to, context).cluster) // of one whose cluster is away nobody could end the run there
  const { record, service, cluster } = movable(instance, to, context) // as it is by now
  const { node, epoch, gap } =
    to !== undefined && clusterOf(to) !== cluster
      ? await toOtherCluster(record, to, context)
      : await within(cluster, record, to, context)
  const left = whatStays(service.spec)
  return {
    instance: record.id,
    from: record.node?.id,
    node,
    epoch,
    ...(gap === undefined ? {} : { gap }),
    ...(left === undefined ? {} : { keeps: `it leaves ${left} on ${record.node?.id ?? 'its node'}` }),
  }
}

/** @throws MeshError INSTANCE_UNKNOWN, UNPLACEABLE, USAGE, LINK_CLOSED */
export async function restart(instance: string, context: ApiContext) {
  const { record, service, cluster } = placed(instance, context)
  checkIsOurs(service.spec)
  if (service.spec.oneShot && !hasEnded(record, service))
    throw new MeshError('UNPLACEABLE', { job: record.id, reason: 'its run has not ended' })
  const { link } = await context.clusters.linkedSoon(cluster)
  const { node, epoch, gap } = await link.request('instance.replace', { instance: record.id })
  context.events.record({ what: 'restarted', by: 'user', instance: record.id, node, why: gap })
  return { instance: record.id, node, epoch, ...(gap === undefined ? {} : { gap }) }
}

/** @throws MeshError SERVICE_UNKNOWN, USAGE */
export function runJob(name: string, { store, reconciler }: ApiContext) {
  const service = store.services.get(name.toLowerCase())
  if (service === undefined) throw new MeshError('SERVICE_UNKNOWN', { service: name.slice(0, 300) })
  const { id, spec } = service
  if (!spec.oneShot) throw new MeshError('USAGE', { reason: `${id} is no job (one_shot): it runs all the time` })
  reconciler.jobs.runNow(service)
  reconciler.touch(id)
  return { id, instances: spec.replicas }
}

/** @throws MeshError CLUSTER_UNKNOWN, NODE_UNKNOWN, LINK_CLOSED */
export async function drain(
  node: NodePath['Params'],
  { force = false, reason }: { force?: boolean; reason?: string },
  context: ApiContext,
) {
  const { id, link } = await linkedNode(node, context)
  const why = reason === undefined ? {} : { reason }
  const status = await link.request('node.drain', { node: id, isForced: force, ...why })
  context.events.record({ what: 'draining', by: 'user', node: id, why: reason })
  return seenOf(status, context)
}

/** What is left there. @throws MeshError CLUSTER_UNKNOWN, NODE_UNKNOWN, LINK_CLOSED */
export async function drained(node: NodePath['Params'], context: ApiContext) {
  const { id, link } = await linkedNode(node, context)
  return seenOf(await link.request('node.drained', { node: id }), context)
}

/** Instances of others are counted, and not named. */
function seenOf(status: DrainStatus, { view }: ApiContext): DrainStatus {
  const left = status.left.map(({ why, ...row }) =>
    view.sees(row.instance) ? { ...row, ...(why === undefined ? {} : { why }) } : { ...row, instance: SOMEBODY_ELSES },
  )
  return { ...status, left }
}

/** An instance that some cluster has, as it serves. @throws MeshError INSTANCE_UNKNOWN */
function placed(
  id: string,
  { store }: ApiContext,
): { record: InstanceRecord; service: ServiceRecord; cluster: string } {
  const stored = store.instances.get(id.toLowerCase())
  const record = stored && servingOf(stored)
  const service = record && store.services.get(record.service)
  if (record === undefined || service === undefined)
    throw new MeshError('INSTANCE_UNKNOWN', { instance: id.slice(0, 400) })
  if (record.cluster === undefined)
    throw new MeshError('UNPLACEABLE', { instance: record.id, reason: 'it has not been placed on a node yet' })
  return { record, service, cluster: record.cluster }
}

/** One that may move there. @throws MeshError INSTANCE_UNKNOWN, UNPLACEABLE */
function movable(id: string, to: NodeId | undefined, context: ApiContext): ReturnType<typeof placed> {
  const found = placed(id, context)
  const { record, service } = found
  const reason = to !== undefined && record.node?.id === to ? `it is on ${to} already` : whyImmobile(service.spec)
  if (reason !== undefined) throw new MeshError('UNPLACEABLE', { instance: record.id, reason })
  return found
}

interface MovesTo {
  node: NodeId | undefined
  /** Of the run there; the cluster counts. */
  epoch: number
  /** Why it is stopped first. */
  gap?: string | undefined
}

/** To a node of its own cluster; where none is named and none has room, to another cluster. @throws MeshError UNPLACEABLE with the reasons */
async function within(
  cluster: string,
  record: InstanceRecord,
  to: NodeId | undefined,
  context: ApiContext,
): Promise<MovesTo> {
  const where = { ...(to === undefined ? { elsewhere: true } : { to }), cause: MIGRATED }
  const { link } = context.clusters.require(cluster)
  try {
    return await link.request('instance.replace', { instance: record.id, ...where })
  } catch (error) {
    if (!isMeshError(error, 'UNPLACEABLE') || to !== undefined) throw error
    try {
      return await toOtherCluster(record, undefined, context)
    } catch (other) {
      if (!isMeshError(other, 'UNPLACEABLE')) throw other
      const reason = `${cluster}: ${reasonOf(error)}; other clusters: ${reasonOf(other)}`
      throw new MeshError('UNPLACEABLE', { instance: record.id, reason })
    }
  }
}

/** @throws MeshError UNPLACEABLE, CLUSTER_UNKNOWN, NODE_UNKNOWN, LINK_CLOSED */
async function toOtherCluster({ id }: InstanceRecord, to: NodeId | undefined, context: ApiContext): Promise<MovesTo> {
  if (to !== undefined) await linkedNode({ cluster: clusterOf(to), node: to.slice(to.indexOf('/') + 1) }, context)
  const { node, gap } = await context.reconciler.moves.begin(id, { to, cause: MIGRATED })
  return { node, gap, epoch: 0 } // each cluster counts its own
}

function checkIsOurs({ runtime, code }: ServiceSpec): void {
  if (runtime !== 'external') return
  throw new MeshError('USAGE', { reason: `it is external, at ${code}: whoever runs it there restarts it` })
}
