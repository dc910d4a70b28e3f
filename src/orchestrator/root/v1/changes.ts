import Type from 'typebox'
import { MeshError } from '../../../core/errors.ts'
import { splitInstanceId } from '../../../core/model/ids.ts'
import { MAX_REASON } from '../../link/messages/protocol.ts'
import { NodeIdText } from '../../link/schemas.ts'
import {
  applyDocument,
  deleteApp,
  deleteService,
  existingService,
  MAX_DOCUMENT_BYTES,
  scaleService,
} from '../api-apps.ts'
import { cordon, uncordon } from '../api-clusters.ts'
import { sendLogs } from '../api-instances.ts'
import { drain, drained, migrate, restart, runJob } from '../api-moves.ts'
import { removeCluster, removeNode, removeRelay } from '../api-removal.ts'
import { explainPlacement } from '../explain.ts'
import { revisionsOf } from '../revisions.ts'
import { rollBack } from '../rollback.ts'
import { definedOf } from './defined.ts'
import { checkMatch, etagOf, ifMatch } from './etag.ts'
import { operation } from './operation.ts'
import { Applied, DrainStatus, Explanation, Moved, Revision } from './schemas.ts'

const one = (description: string) => Type.String({ minLength: 1, maxLength: 400, description })
const service = Type.Object({ name: one('`app.namespace.service.namespace`') })
const instance = Type.Object({ name: one('The service and the number of the instance.') })
const node = Type.Object({ cluster: one('Its cluster.'), node: one('Its name within the cluster.') })
const closed = { additionalProperties: false }
const Count = Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER })
const Deleted = Type.Object({ deleted: Type.Array(Type.String()) })
const Changed = Type.Object({ changed: Type.Boolean({ description: 'False: it was so already.' }) })
const reason = Type.Optional(Type.String({ maxLength: MAX_REASON, description: 'Why; other operators are shown it.' }))
const applyOperation = operation({
  id: 'apply',
  needs: 'change given',
  method: 'post',
  path: '/apps',
  summary: 'Applies an SLA document, or says what it would change',
  bodyLimit: MAX_DOCUMENT_BYTES,
  about: (_given, answer) => (answer as { apps: string[] }).apps.join(' '),
  query: Type.Object({
    dryRun: Type.Optional(Type.Boolean({ description: 'Changes nothing.' })),
    prune: Type.Optional(Type.Boolean({ description: 'Services of its apps that it does not name are deleted.' })),
  }),
  body: Type.Unknown({ description: 'An SLA document: docs/sla.md.' }),
  answer: Applied,
  refusals: [409, 413, 415, 422, 507],
  run: ({ query, body }, context) =>
    applyDocument(body, { dryRun: query.dryRun === true, prune: query.prune === true }, context),
})

const deleteAppOperation = operation({
  id: 'deleteApp',
  needs: 'change app',
  method: 'delete',
  path: '/apps/{name}',
  summary: 'Deletes an app and its services',
  params: Type.Object({ name: one('`app.namespace`') }),
  answer: Deleted,
  refusals: [404, 507],
  run: ({ params }, context) => deleteApp(params.name, context),
})

const scale = operation({
  id: 'scaleService',
  needs: 'change service',
  method: 'patch',
  path: '/services/{name}',
  summary: 'Changes how many instances are wanted',
  params: service,
  headers: ifMatch,
  body: Type.Object({ replicas: Type.Integer({ minimum: 0, maximum: 1_000 }) }, closed),
  answer: Type.Object({ id: Type.String(), replicas: Count }),
  refusals: [404, 412, 415, 507],
  run: ({ params, body, request, reply }, context) => {
    const found = existingService(context.store, params.name)
    checkMatch(request.headers['if-match'], found)
    const answer = scaleService(found, body.replicas, context)
    void reply.header('etag', etagOf(existingService(context.store, params.name)))
    return answer
  },
})

const deleteServiceOperation = operation({
  id: 'deleteService',
  needs: 'change service',
  method: 'delete',
  path: '/services/{name}',
  summary: 'Deletes a service and its instances',
  params: service,
  headers: ifMatch,
  answer: Deleted,
  refusals: [404, 412, 507],
  run: ({ params, request }, context) => {
    const found = existingService(context.store, params.name)
    checkMatch(request.headers['if-match'], found)
    return deleteService(found, context)
  },
})

const listRevisions = operation({
  id: 'listRevisions',
  needs: 'see service',
  path: '/services/{name}/revisions',
  summary: 'What was applied of a service, the last ten',
  params: service,
  answer: Type.Object({
    items: Type.Array(Revision),
  }),
  refusals: [404],
  run: ({ params }, { store }) => {
    const revisions = revisionsOf(existingService(store, params.name).id, store)
    return { items: revisions.map(({ service: _service, ...revision }) => revision) }
  },
})

const rollback = operation({
  id: 'rollBack',
  needs: 'change service',
  method: 'post',
  path: '/services/{name}/rollback',
  summary: 'Applies an earlier revision again',
  params: service,
  headers: ifMatch,
  body: Type.Object(
    { to: Type.Optional(Type.Integer({ minimum: 1, maximum: 1e9, description: 'The one before by default.' })) },
    closed,
  ),
  answer: Type.Object({ id: Type.String(), revision: Count, change: Type.Enum(['updated', 'unchanged']) }),
  refusals: [404, 409, 412, 415, 507],
  run: ({ params, body, request }, context) => {
    const found = existingService(context.store, params.name)
    checkMatch(request.headers['if-match'], found)
    return { id: found.id, ...rollBack(found, { to: body.to }, context) }
  },
})

const run = operation({
  id: 'runJob',
  needs: 'change service',
  method: 'post',
  path: '/services/{name}/run',
  summary: 'Runs a job now',
  params: service,
  answer: Type.Object({ id: Type.String(), instances: Count }),
  refusals: [404, 507],
  run: ({ params }, context) => runJob(params.name, context),
})

const anew = {
  anew: Type.Optional(Type.Boolean({ description: 'What would be decided now, also where the decision is kept.' })),
  most: Type.Optional(
    Type.Integer({ minimum: 1, maximum: 1_000, description: 'Candidates of each tier; 100 by default.' }),
  ),
}
const explainService = operation({
  id: 'explainService',
  needs: 'see service',
  path: '/services/{name}/explain',
  summary: 'Where a further instance would go, and why',
  params: service,
  query: Type.Object(anew),
  answer: Explanation,
  refusals: [404],
  run: ({ params, query: { anew = false, most = 100 } }, context) =>
    explainPlacement(existingService(context.store, params.name), undefined, { anew, most }, context),
})

const explainInstance = operation({
  id: 'explainInstance',
  needs: 'see instance',
  path: '/instances/{name}/explain',
  summary: 'Why an instance is where it is',
  params: instance,
  query: Type.Object(anew),
  answer: Explanation,
  refusals: [404],
  run: ({ params, query: { anew = false, most = 100 } }, context) => {
    const id = params.name.toLowerCase()
    const record = context.store.instances.get(id)
    const found = context.store.services.get(splitInstanceId(id)?.service ?? '')
    if (record === undefined || found === undefined)
      throw new MeshError('INSTANCE_UNKNOWN', { instance: params.name.slice(0, 400) })
    return explainPlacement(found, record, { anew, most }, context)
  },
})

const logs = operation({
  id: 'readLogs',
  isAudited: true,
  needs: 'see instance',
  path: '/instances/{name}/logs',
  summary: 'What an instance wrote, as lines',
  params: instance,
  query: Type.Object({
    tail: Type.Optional(Type.Integer({ minimum: 0, maximum: 99_999, description: 'Lines; 100 by default.' })),
    follow: Type.Optional(Type.Boolean({ description: 'And what it writes from now on.' })),
    since: Type.Optional(Type.Integer({ minimum: 0, maximum: 1e15, description: 'Milliseconds since 1970.' })),
  }),
  answer: Type.String(),
  contentType: 'text/plain',
  refusals: [404, 503, 504],
  run: ({ params, query: { tail = 100, follow = false, since }, reply }, context) =>
    sendLogs(params.name.toLowerCase(), { tail, follow, ...(since === undefined ? {} : { since }) }, reply, context),
})

const migrateOperation = operation({
  id: 'migrateInstance',
  needs: 'change instance',
  method: 'post',
  path: '/instances/{name}/migrate',
  summary: 'Moves an instance to another node',
  params: instance,
  body: Type.Object({ to: Type.Optional(NodeIdText) }, closed),
  answer: Moved,
  refusals: [404, 409, 415, 503, 504, 507],
  run: async ({ params, body }, context) => definedOf(await migrate(params.name, body, context)),
})

const restartOperation = operation({
  id: 'restartInstance',
  needs: 'change instance',
  method: 'post',
  path: '/instances/{name}/restart',
  summary: 'Replaces the run of an instance by another on the same node',
  params: instance,
  answer: Moved,
  refusals: [404, 409, 503, 504, 507],
  run: ({ params }, context) => restart(params.name, context),
})

const cordonOperation = operation({
  id: 'cordonNode',
  needs: 'operate node',
  method: 'post',
  path: '/nodes/{cluster}/{node}/cordon',
  summary: 'Nothing new is placed on the node',
  params: node,
  body: Type.Object({ reason }, closed),
  answer: Changed,
  refusals: [404, 415, 503, 504],
  run: ({ params, body }, context) => cordon(params, body, context),
})

const uncordonOperation = operation({
  id: 'uncordonNode',
  needs: 'operate node',
  method: 'post',
  path: '/nodes/{cluster}/{node}/uncordon',
  summary: 'The node takes instances again',
  params: node,
  answer: Changed,
  refusals: [404, 503, 504],
  run: ({ params }, context) => uncordon(params, context),
})

const drainOperation = operation({
  id: 'drainNode',
  needs: 'operate node',
  method: 'post',
  path: '/nodes/{cluster}/{node}/drain',
  summary: 'What runs on the node moves away',
  params: node,
  body: Type.Object({ force: Type.Optional(Type.Boolean()), reason }, closed),
  answer: DrainStatus,
  refusals: [404, 415, 503, 504],
  run: ({ params, body }, context) => drain(params, body, context),
})

const drainedOperation = operation({
  id: 'drainStatus',
  needs: 'see node',
  path: '/nodes/{cluster}/{node}/drain',
  summary: 'What is left on a node that drains',
  params: node,
  answer: DrainStatus,
  refusals: [404, 503, 504],
  run: ({ params }, context) => drained(params, context),
})

const removeNodeOperation = operation({
  id: 'deleteNode',
  needs: 'operate node',
  method: 'delete',
  path: '/nodes/{cluster}/{node}',
  summary: 'Revokes the certificates of a node',
  params: node,
  answer: Deleted,
  refusals: [404, 507],
  run: ({ params }, context) => removeNode(params, context),
})

const removeRelayOperation = operation({
  id: 'deleteRelay',
  needs: 'operate relay',
  method: 'delete',
  path: '/relays/{cluster}/{relay}',
  summary: 'Revokes the certificates of a relay',
  params: Type.Object({ cluster: one('Its cluster.'), relay: one('Its name within the cluster.') }),
  answer: Deleted,
  refusals: [404, 507],
  run: ({ params }, context) => removeRelay(params, context),
})

const removeClusterOperation = operation({
  id: 'deleteCluster',
  needs: 'operate cluster',
  method: 'delete',
  path: '/clusters/{name}',
  summary: 'Revokes the certificates of a cluster, and of all that it has signed',
  params: Type.Object({ name: one('Of the cluster.') }),
  answer: Deleted,
  refusals: [404, 507],
  run: ({ params }, context) => removeCluster(params.name, context),
})

export const CHANGES = [
  applyOperation,
  deleteAppOperation,
  scale,
  deleteServiceOperation,
  listRevisions,
  rollback,
  run,
  explainService,
  explainInstance,
  logs,
  migrateOperation,
  restartOperation,
  cordonOperation,
  uncordonOperation,
  drainOperation,
  drainedOperation,
  removeNodeOperation,
  removeRelayOperation,
  removeClusterOperation,
]
