import Type from 'typebox'
import { ERRORS, MeshError } from '../../core/errors.ts'
import { type App, reader } from '../link/link-server.ts'
import { parseSla } from '../sla/parse.ts'
import type { ApiContext, Id } from './api.ts'
import type { ServiceChange } from './difference.ts'
import type { Reconciler } from './reconciler.ts'
import type { AppRecord, RootStore, ServiceRecord } from './root-store.ts'
import { appRows, instanceRow, serviceRow } from './rows.ts'
import { remove, submit } from './submission.ts'

const closed = { additionalProperties: false }
const readApply = reader(Type.Object({ prune: Type.Optional(Type.Enum(['true', 'false'])) }, closed))
const readScale = reader(Type.Object({ replicas: Type.Integer({ minimum: 0, maximum: 1_000 }) }, closed))

/** Applying documents; showing, scaling and deleting what they created. */
export function appRoutes(app: App, context: ApiContext): void {
  const { store, vips, reconciler } = context

  app.post('/apps', (request, reply) => {
    const { prune } = readApply(request.query)
    const parsed = parseSla(request.body)
    if (parsed.kind === 'refused') {
      const { faults, warnings } = parsed
      return reply.code(422).send({ error: 'SLA_INVALID', message: ERRORS.SLA_INVALID[0], faults, warnings })
    }
    const { apps, customer, warnings } = parsed
    const changes = submit({ apps, customer, prune: prune === 'true' }, context)
    for (const change of changes) reconcile(change, reconciler)
    return reply.send({
      apps: apps.map(({ app, namespace }) => `${app}.${namespace}`),
      services: changes.map((change) => ({ id: idOf(change), change: change.kind })),
      warnings,
    })
  })

  app.get('/apps', () => appRows(store))
  app.get('/services', () => store.services.list().map((service) => serviceRow(service, store, vips)))

  app.get<Id>('/services/:id', ({ params }) => {
    const service = existingService(store, params.id)
    const instances = store.instancesOf(service.id).map(instanceRow)
    return { ...serviceRow(service, store, vips), spec: service.spec, instances }
  })

  app.post<Id>('/services/:id/scale', ({ params, body }) => {
    const { replicas } = readScale(body)
    const service = existingService(store, params.id)
    store.services.put(service.id, { ...service, spec: { ...service.spec, replicas } })
    reconciler.touch(service.id)
    return { id: service.id, replicas }
  })

  app.delete<Id>('/services/:id', ({ params }) => {
    const { id } = existingService(store, params.id)
    removeAll([id], context)
    return { deleted: [id] }
  })

  app.delete<Id>('/apps/:id', ({ params }) => {
    const record = existingApp(store, params.id)
    const services = store.servicesOf(record).map(({ id }) => id)
    removeAll(services, context, () => store.apps.delete(params.id.toLowerCase()))
    return { deleted: services }
  })
}

function reconcile(change: ServiceChange, reconciler: Reconciler): void {
  if (change.kind === 'unchanged') return
  reconciler.publish(idOf(change))
  reconciler.touch(idOf(change))
}

function idOf(change: ServiceChange): string {
  return 'spec' in change ? change.spec.id : change.id
}

/** `also` runs in the same transaction. */
function removeAll(services: readonly string[], context: ApiContext, also: () => void = () => undefined): void {
  const { store, vips, reconciler } = context
  try {
    store.database.transaction(() => {
      for (const id of services) remove(id, context)
      also()
    })
  } catch (error) {
    vips.reload()
    throw error
  }
  for (const id of services) reconcile({ kind: 'removed', id }, reconciler)
}

function existingService(store: RootStore, id: string): ServiceRecord {
  const service = store.services.get(id.toLowerCase())
  if (service === undefined) throw new MeshError('SERVICE_UNKNOWN', { service: id.slice(0, 300) })
  return service
}

function existingApp(store: RootStore, id: string): AppRecord {
  const app = store.apps.get(id.toLowerCase())
  if (app === undefined) throw new MeshError('APP_UNKNOWN', { app: id.slice(0, 300) })
  return app
}
