import Type from 'typebox'
import { isMeshError, MeshError } from '../../core/errors.ts'
import type { InterestKey } from '../../core/model/ids.ts'
import { type App, reader } from '../link/link-server.ts'
import type { Fault } from '../sla/findings.ts'
import type { Effect } from '../sla/changes.ts'
import { inSlices } from '../../core/kit/slices.ts'
import { parseSlaInSlices } from '../sla/parse.ts'
import type { AppSpec, ServiceSpec } from '../spec.ts'
import type { ApiContext, Id } from './api-context.ts'
import type { ServiceChange } from './difference.ts'
import { checkQuotas } from './people/bounds.ts'
import { AT_ONCE, LargeSubmissions } from './large-submission.ts'
import type { Reconciler } from './reconciler.ts'
import type { AppRecord, RootStore, ServiceRecord } from './root-store.ts'
import { revisionsOf } from './revisions.ts'
import { preview } from './preview.ts'
import { rollBack } from './rollback.ts'
import { whyGap } from './rollout.ts'
import { appRow, instanceRow, leftBehind, serviceRow } from './rows.ts'
import { changeStore, compare, idOf, remove, submit } from './submission.ts'
import { jsonRows } from './json-rows.ts'
import { keysInTheWay } from './vip-requests.ts'
import { membersOf, unknownWishes } from './wishes.ts'

const closed = { additionalProperties: false }
const flag = Type.Optional(Type.Enum(['true', 'false']))
const readApply = reader(Type.Object({ prune: flag, dryRun: flag }, closed))
const readRollback = reader(Type.Object({ to: Type.Optional(Type.Integer({ minimum: 1, maximum: 1e9 })) }, closed))
const readScale = reader(Type.Object({ replicas: Type.Integer({ minimum: 0, maximum: 1_000 }) }, closed))

/** As `hedgerow apply` reads it. */
export const MAX_DOCUMENT_BYTES = 32 * 1024 * 1024

/** Applying documents; showing, scaling and deleting what they created. */
export function appRoutes(app: App, context: ApiContext): void {
  const { store } = context

  app.post('/apps', { bodyLimit: MAX_DOCUMENT_BYTES }, async (request, reply) => {
    const { prune, dryRun } = readApply(request.query)
    try {
      return await applyDocument(request.body, { prune: prune === 'true', dryRun: dryRun === 'true' }, context)
    } catch (error) {
      if (!isMeshError(error, 'SLA_INVALID')) throw error
      const { faults, warnings } = error.details
      return reply.code(422).send({ error: error.code, message: error.message, faults, warnings })
    }
  })

  app.get('/apps', () => store.apps.list().map((record) => appRow(record, store)))
  app.get('/services', (_request, reply) =>
    jsonRows(reply, store.services.list(), (service) => serviceRow(service, context)),
  )

  app.get<Id>('/services/:id', ({ params }) => {
    const service = existingService(store, params.id)
    const instances = store.instancesOf(service.id).map((record) => instanceRow(record, leftBehind(context), context))
    return { ...serviceRow(service, context), spec: service.spec, instances }
  })

  app.get<Id>('/services/:id/revisions', ({ params }) =>
    revisionsOf(existingService(store, params.id).id, store).map(({ service: _service, ...revision }) => revision),
  )

  app.post<Id>('/services/:id/rollback', ({ params, body }) => {
    const { to } = readRollback(body)
    const service = existingService(store, params.id)
    return { id: service.id, ...rollBack(service, { to }, context) }
  })

  app.post<Id>('/services/:id/scale', ({ params, body }) => {
    const { replicas } = readScale(body)
    return scaleService(existingService(store, params.id), replicas, context)
  })

  app.delete<Id>('/services/:id', ({ params }) => deleteService(existingService(store, params.id), context))
  app.delete<Id>('/apps/:id', ({ params }) => deleteApp(params.id, context))
}

export function scaleService(service: ServiceRecord, replicas: number, { store, events, reconciler }: ApiContext) {
  const { id, spec } = service
  checkQuotas(new Map([[id, { ...spec, replicas }]]), store.whole)
  store.services.put(id, { ...service, spec: { ...spec, replicas } })
  events.record({ service: id, what: 'scaled', by: 'user', why: `from ${spec.replicas} to ${replicas} replicas` })
  reconciler.touch(id)
  return { id, replicas }
}

export function deleteService({ id }: ServiceRecord, context: ApiContext) {
  removeAll([id], context)
  return { deleted: [id] }
}

/** @throws MeshError APP_UNKNOWN */
export async function deleteApp(id: string, context: ApiContext) {
  const { store } = context
  const record = existingApp(store, id)
  const services = store.servicesOf(record).map(({ id }) => id)
  if (services.length <= AT_ONCE) removeAll(services, context, () => store.apps.delete(id.toLowerCase()))
  else await inSlices(await context.large.remove(record), (service) => tellRemoved(service, context))
  return { deleted: services }
}

/** Applies a document, or says what it would change. @throws MeshError SLA_INVALID with every fault, SLA_CONFLICT */
export async function applyDocument(
  document: unknown,
  { prune, dryRun }: { prune: boolean; dryRun: boolean },
  context: ApiContext,
) {
  const { rules } = context
  const parsed = await parseSlaInSlices(document, { strategies: Object.keys(rules.strategies) })
  if (parsed.kind === 'refused')
    throw new MeshError('SLA_INVALID', { faults: parsed.faults, warnings: parsed.warnings })
  return applyApps(parsed, { prune, dryRun }, context)
}

/** The same for what has been read. @throws MeshError SLA_CONFLICT, FORBIDDEN */
export async function applyApps(
  { apps, customer, warnings }: { apps: AppSpec[]; customer: string; warnings: readonly Fault[] },
  { prune, dryRun }: { prune: boolean; dryRun: boolean },
  context: ApiContext,
) {
  const { store, vips, reconciler } = context
  context.view.checkApps(apps)
  const used = await keysInUse(keysInTheWay(apps, vips), context)
  const told = (service: string) => (context.view.sees(service) ? service : 'a service of another organisation')
  const submission = { apps, customer, prune, used, told }
  const answer = (more: readonly Fault[]) => ({
    apps: apps.map(({ app, namespace }) => `${app}.${namespace}`),
    warnings: [
      ...warnings,
      ...more,
      ...apps.flatMap(({ services }) => services.flatMap((spec) => wishesIn(spec, store))),
    ],
  })
  if (dryRun) {
    const { changes, warnings: more } = compare(submission, context)
    return { ...answer(more), dryRun: true as const, services: await preview(changes, context) }
  }
  const before = new Map(apps.flatMap((app) => store.servicesOf(app)).map((record) => [record.id, record]))
  const isLarge = LargeSubmissions.isLarge(submission)
  if (!isLarge) await context.large.idle() // one that came while the clusters were asked
  const {
    changes,
    moved,
    warnings: more,
  } = isLarge ? await context.large.apply(submission) : submit(submission, context)
  await inSlices(changes, (change) => {
    recordChange(change, context)
    reconcile(change, reconciler)
  })
  for (const service of moved) reconciler.publish(service)
  const services = await inSlices(changes, (change) => {
    const gap = whyGap(change, before.get(idOf(change)), store.instancesOf(idOf(change)))
    return { id: idOf(change), change: change.kind, ...(gap === undefined ? {} : { gap }) }
  })
  return { ...answer(more), services }
}

/** A node or cluster that is named and has not joined is a slip more often than not. */
function wishesIn({ id, constraints }: ServiceSpec, store: RootStore): Fault[] {
  if (constraints.length === 0) return []
  const remedy = 'Correct the name, unless it is still to join.'
  return unknownWishes(constraints, membersOf(store)).map((problem) => ({
    path: `${id}: constraints`,
    problem,
    remedy,
  }))
}

function replicasOf({ replicas }: ServiceSpec): string {
  return `${replicas} ${replicas === 1 ? 'replica' : 'replicas'}`
}

const EFFECTS: Readonly<Record<Effect, string>> = {
  none: 'changed: nothing to do for its instances',
  live: 'changed: its instances take it over',
  place: 'changed: its instances take it over, or move',
  restart: 'changed: its instances are replaced',
}

function recordChange(change: ServiceChange, { events }: ApiContext): void {
  if (change.kind === 'unchanged') return
  const service = idOf(change)
  if (change.kind === 'removed')
    return events.record({ service, what: 'deleted', by: 'user', why: 'the document no longer names it' })
  const why = change.kind === 'created' ? `new: ${replicasOf(change.spec)}` : EFFECTS[change.effect]
  events.record({ service, what: 'applied', by: 'user', why })
}

function reconcile(change: ServiceChange, reconciler: Reconciler): void {
  if (change.kind === 'unchanged') return
  reconciler.publish(idOf(change))
  reconciler.touch(idOf(change))
}

/** `also` runs in the same transaction. */
function removeAll(services: readonly string[], context: ApiContext, also: () => void = () => undefined): void {
  changeStore(context, () => {
    for (const id of services) remove(id, context)
    also()
  })
  for (const id of services) tellRemoved(id, context)
}

function tellRemoved(id: string, { events, reconciler }: ApiContext): void {
  events.record({ service: id, what: 'deleted', by: 'user' })
  reconcile({ kind: 'removed', id }, reconciler)
}

/** Which of these services some node follows. A cluster that is away or does not answer may have such nodes. */
async function keysInUse(keys: readonly InterestKey[], { store, clusters }: ApiContext): Promise<Set<InterestKey>> {
  if (keys.length === 0) return new Set()
  const isAway = (name: string) => clusters.linked(name) === undefined && !clusters.isLost(name)
  if (store.clusters.keys().some(isAway)) return new Set(keys)
  const answers = await Promise.all(
    Array.from(clusters.all(), ({ link }) =>
      link.request('interest.used', { keys: [...keys] }).then(
        ({ used }) => used,
        () => keys, // gone meanwhile, or of a version without this request
      ),
    ),
  )
  return new Set(answers.flat())
}

/** @throws MeshError SERVICE_UNKNOWN */
export function existingService(store: RootStore, id: string): ServiceRecord {
  const service = store.services.get(id.toLowerCase())
  if (service === undefined) throw new MeshError('SERVICE_UNKNOWN', { service: id.slice(0, 300) })
  return service
}

function existingApp(store: RootStore, id: string): AppRecord {
  const app = store.apps.get(id.toLowerCase())
  if (app === undefined) throw new MeshError('APP_UNKNOWN', { app: id.slice(0, 300) })
  return app
}
