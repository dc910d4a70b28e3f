import { MeshError } from '../../core/errors.ts'
import { printPrincipal } from '../../core/identity/principal.ts'
import type { App } from '../link/link-server.ts'
import type { NodePath } from './api-clusters.ts'
import type { ApiContext } from './api-context.ts'
import type { EnrolmentRecord, RevocationRegister } from './revocation-register.ts'

type Revoked = Parameters<RevocationRegister['revoke']>[0]

/**
 * Removing nodes, relays and clusters: their certificates are revoked, whether their cluster answers or not, and their names are
 * free at once for others that join with a token.
 */
export function removalRoutes(app: App, context: ApiContext): void {
  app.delete<NodePath>('/nodes/:cluster/:node', ({ params }) => removeNode(params, context))
  app.delete<{ Params: { cluster: string; relay: string } }>('/relays/:cluster/:relay', ({ params }) =>
    removeRelay(params, context),
  )
  app.delete<{ Params: { cluster: string } }>('/clusters/:cluster', ({ params }) =>
    removeCluster(params.cluster, context),
  )
}

/** @throws MeshError CLUSTER_UNKNOWN, NODE_UNKNOWN */
export function removeNode({ cluster, node }: NodePath['Params'], context: ApiContext) {
  const { store, mesh, events } = context
  if (store.clusters.get(cluster) === undefined) throw new MeshError('CLUSTER_UNKNOWN', { cluster })
  const id = `${cluster}/${node}`
  const record = store.enrolments.get(`node ${id}`)
  if (record === undefined) throw new MeshError('NODE_UNKNOWN', { node: id })
  events.record({ node: id, what: 'deleted', by: 'user', why: 'its certificates are revoked' })
  return removeEnrolled(record, printPrincipal({ role: 'node', mesh, cluster, node }), context)
}

/** @throws MeshError RELAY_UNKNOWN */
export function removeRelay({ cluster, relay }: { cluster: string; relay: string }, context: ApiContext) {
  const { store, mesh } = context
  const id = `${cluster}/${relay}`
  const record = store.enrolments.get(`relay ${id}`)
  if (record === undefined) throw new MeshError('RELAY_UNKNOWN', { relay: id })
  return removeEnrolled(record, printPrincipal({ role: 'relay', mesh, cluster, relay }), context)
}

/** @throws MeshError CLUSTER_UNKNOWN */
export function removeCluster(cluster: string, context: ApiContext) {
  revokeCluster(cluster, context)
  context.events.record({ cluster, what: 'deleted', by: 'user', why: 'its certificates are revoked' })
  context.clusters.expel(cluster)
  return { deleted: [cluster] }
}

function removeEnrolled({ role, id, enrolment }: EnrolmentRecord, principal: string, context: ApiContext) {
  revoke([{ kind: 'enrolment', id: enrolment, principal }], context, () => {
    context.store.enrolments.delete(`${role} ${id}`)
  })
  return { deleted: [id] }
}

/** Everything the cluster has signed goes with it: its nodes join another cluster, and its instances are placed elsewhere. */
function revokeCluster(cluster: string, context: ApiContext): void {
  const { store, mesh } = context
  const record = store.clusters.get(cluster)
  if (record === undefined) throw new MeshError('CLUSTER_UNKNOWN', { cluster })
  const principal = printPrincipal({ role: 'cluster', mesh, cluster })
  const issuers = record.issuers.map(({ keyId }) => ({ kind: 'issuer', id: keyId, principal }) as const)
  revoke([{ kind: 'enrolment', id: record.enrolment, principal }, ...issuers], context, () => {
    store.clusters.delete(cluster)
    store.nodes.delete(cluster)
    for (const role of ['node', 'relay']) {
      for (const key of store.enrolments.keys(`${role} ${cluster}/`)) store.enrolments.delete(key)
    }
  })
}

function revoke(revoked: Revoked, { store, revocations, clusters }: ApiContext, forget: () => void): void {
  store.database.transaction(() => {
    revocations.revoke(revoked)
    forget()
  })
  clusters.notifyRevocations(revocations.text)
}
