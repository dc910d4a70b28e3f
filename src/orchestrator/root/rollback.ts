import type { ServiceId } from '../../core/model/ids.ts'
import type { EventSink } from './events/event.ts'
import { revisionsOf, rollbackTarget } from './revisions.ts'
import type { ServiceRecord } from './root-store.ts'
import { submit, type SubmitParts } from './submission.ts'
import { keysInTheWay } from './vip-requests.ts'

export interface RollbackParts extends SubmitParts {
  events: EventSink
  reconciler: { publish(service: ServiceId): void; touch(service: ServiceId): void }
}

export interface RolledBack {
  /** The service follows this one again, under a number of its own. */
  revision: number
  change: 'updated' | 'unchanged'
}

/**
 * Applies an earlier revision of the service again, with as many instances as it has now. Instances that still run it go on as they are.
 * @throws MeshError REVISION_UNKNOWN, SLA_CONFLICT
 */
export function rollBack(
  service: ServiceRecord,
  { to, isAutomatic = false }: { to?: number | undefined; isAutomatic?: boolean },
  parts: RollbackParts,
): RolledBack {
  const { store, vips, events, reconciler } = parts
  const target = rollbackTarget(service, revisionsOf(service.id, store), to)
  const spec = { ...target.spec, replicas: service.spec.replicas }
  const { app, appNamespace: namespace } = spec
  const { description = '', customer = '' } = store.apps.get(`${app}.${namespace}`) ?? {}
  const apps = [{ app, namespace, description, services: [spec] }]
  const { changes, moved } = submit(
    {
      apps,
      customer,
      prune: false,
      used: new Set(keysInTheWay(apps, vips)),
      reason: { rollbackTo: target.number, ...(isAutomatic ? { isAutomatic: true as const } : {}) },
    },
    parts,
  )
  const by = isAutomatic ? 'reconciler' : 'user'
  events.record({ service: service.id, what: 'rolled-back', by, why: `to revision ${target.number}` })
  for (const id of new Set<ServiceId>([service.id, ...moved])) reconciler.publish(id)
  reconciler.touch(service.id)
  return { revision: target.number, change: changes.some(({ kind }) => kind === 'updated') ? 'updated' : 'unchanged' }
}
