import Type from 'typebox'
import { MeshError } from '../../core/errors.ts'
import { clusterOf } from '../../core/model/ids.ts'
import { type App, reader } from '../link/link-server.ts'
import { MAX_REASON } from '../link/messages.ts'
import { NodeIdText } from '../link/schemas.ts'
import type { ServiceSpec } from '../spec.ts'
import { linkedNode, type NodePath } from './api-clusters.ts'
import type { ApiContext, Id } from './api-context.ts'
import type { InstanceRecord, ServiceRecord } from './root-store.ts'

const closed = { additionalProperties: false }
const readMigrate = reader(Type.Object({ to: Type.Optional(NodeIdText) }, closed))
const readDrain = reader(
  Type.Object(
    { force: Type.Optional(Type.Boolean()), reason: Type.Optional(Type.String({ maxLength: MAX_REASON })) },
    closed,
  ),
)

/** Moving and restarting what runs, without a moment in which nothing answers. The cluster does it; the CLI watches. */
export function moveRoutes(app: App, context: ApiContext): void {
  const { clusters } = context

  app.post<Id>('/instances/:id/migrate', async ({ params, body }) => {
    const { to } = readMigrate(body ?? {})
    const { record, service, cluster } = placed(params.id, context)
    checkTarget(record, cluster, to)
    const where = to === undefined ? { elsewhere: true } : { to }
    const { link } = clusters.require(cluster)
    const { node, epoch } = await link.request('instance.replace', { instance: record.id, ...where })
    const keeps = whatStays(service.spec)
    return { instance: record.id, from: record.node?.id, node, epoch, ...(keeps === undefined ? {} : { keeps }) }
  })

  app.post<Id>('/instances/:id/restart', async ({ params }) => {
    const { record, service, cluster } = placed(params.id, context)
    checkIsOurs(service.spec)
    const { node, epoch, gap } = await clusters
      .require(cluster)
      .link.request('instance.replace', { instance: record.id })
    context.events.record({ what: 'restarted', by: 'user', instance: record.id, node, why: gap })
    return { instance: record.id, node, epoch, ...(gap === undefined ? {} : { gap }) }
  })

  app.post<NodePath>('/nodes/:cluster/:node/drain', async ({ params, body }) => {
    const { force = false, reason } = readDrain(body ?? {})
    const { id, link } = linkedNode(params, context)
    const why = reason === undefined ? {} : { reason }
    const status = await link.request('node.drain', { node: id, isForced: force, ...why })
    context.events.record({ what: 'draining', by: 'user', node: id, why: reason })
    return status
  })
  app.get<NodePath>('/nodes/:cluster/:node/drain', ({ params }) => {
    const { id, link } = linkedNode(params, context)
    return link.request('node.drained', { node: id })
  })
}

/** An instance that some cluster has. @throws MeshError INSTANCE_UNKNOWN */
function placed(
  id: string,
  { store }: ApiContext,
): { record: InstanceRecord; service: ServiceRecord; cluster: string } {
  const record = store.instances.get(id.toLowerCase())
  const service = record && store.services.get(record.service)
  if (record === undefined || service === undefined)
    throw new MeshError('INSTANCE_UNKNOWN', { instance: id.slice(0, 400) })
  if (record.cluster === undefined)
    throw new MeshError('UNPLACEABLE', { instance: record.id, reason: 'it has not been placed on a node yet' })
  return { record, service, cluster: record.cluster }
}

/** @throws MeshError UNPLACEABLE, NODE_UNKNOWN */
function checkTarget({ id, node }: InstanceRecord, cluster: string, to: string | undefined): void {
  if (to === undefined) return
  if (node?.id === to) throw new MeshError('UNPLACEABLE', { instance: id, reason: `it is on ${to} already` })
  if (clusterOf(to) === cluster) return
  const reason = `${to} is in another cluster, and instances move within theirs (${cluster}); a clusters constraint in the document places it there`
  throw new MeshError('UNPLACEABLE', { instance: id, reason })
}

function checkIsOurs({ runtime, code }: ServiceSpec): void {
  if (runtime !== 'external') return
  throw new MeshError('USAGE', { reason: `it is external, at ${code}: whoever runs it there restarts it` })
}

/** What a program has beside its flows stays where it was. */
function whatStays({ storageMb, runtime }: ServiceSpec): string | undefined {
  return runtime === 'external' || storageMb === 0
    ? undefined
    : `what it stored on its node (storage: ${storageMb} MB) stays there`
}
