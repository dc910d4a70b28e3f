import { isDeepStrictEqual } from 'node:util'
import { MeshError } from '../../core/errors.ts'
import type { Clock } from '../../core/kit/clock.ts'
import type { InterestKey, ServiceId } from '../../core/model/ids.ts'
import type { Fault } from '../sla/findings.ts'
import type { AppSpec, ServiceSpec } from '../spec.ts'
import { difference, type ServiceChange } from './difference.ts'
import { contentOf, forgetRevisions, recordRevision, type RevisionReason } from './revisions.ts'
import type { RootStore, ServiceRecord } from './root-store.ts'
import { checkQuotas, unknownToThem } from './people/bounds.ts'
import { missingSecrets } from './secrets.ts'
import { startCycles } from './start-cycles.ts'
import { assignVips, checkRequests, type VipRequest } from './vip-requests.ts'
import type { Vips } from './vips.ts'

export interface Submission {
  apps: readonly AppSpec[]
  customer: string
  /** Also remove the services of these apps that the document does not name. */
  prune: boolean
  /** Interest keys in use on some node: their addresses do not change. */
  used?: ReadonlySet<InterestKey>
  /** Of a rollback. */
  reason?: RevisionReason
  /** What services of others are called in what is told of conflicts. */
  told?: (service: ServiceId) => string
}

export interface SubmitParts {
  store: RootStore
  vips: Vips
  clock: Clock
}

export interface Submitted {
  changes: ServiceChange[]
  /** Services whose automatic addresses changed. */
  moved: ServiceId[]
  warnings: Fault[]
}

/**
 * Makes a document that has passed its own checks what is wanted, in one transaction or not at all. Applying the same document
 * again changes nothing.
 * @throws MeshError SLA_CONFLICT with all conflicts at once
 */
export function submit(submission: Submission, parts: SubmitParts): Submitted {
  const { store } = parts
  const { apps, customer, reason } = submission
  const { changes, requests, warnings } = compare(submission, parts)
  return changeStore(parts, () => {
    for (const { app, namespace, description, customer: own = customer } of apps)
      store.apps.put(`${app}.${namespace}`, { app, namespace, description, customer: own })
    const services = apps.flatMap(({ services }) => services.map(({ id }) => id))
    return { changes, moved: applyChanges(changes, { requests, services, reason }, parts), warnings }
  })
}

/** Within a transaction. Returns the services whose automatic addresses changed. */
export function applyChanges(
  changes: readonly ServiceChange[],
  {
    requests,
    services,
    reason,
  }: { requests: readonly VipRequest[]; services: readonly ServiceId[]; reason?: RevisionReason | undefined },
  parts: SubmitParts,
): ServiceId[] {
  for (const change of changes) write(change, parts, reason)
  return assignVips(requests, services, parts)
}

/** What a document would change. @throws MeshError SLA_CONFLICT with all conflicts at once */
export function compare(
  { apps, prune, used = new Set(), told, reason }: Omit<Submission, 'customer'>,
  { store, vips }: Pick<SubmitParts, 'store' | 'vips'>,
) {
  const changes = apps.flatMap((app) => difference(store.servicesOf(app), app.services, { prune }))
  const { requests, conflicts, warnings } = checkRequests(apps, vips, { freed: new Set(changes.map(idOf)), used, told })
  conflicts.push(...startCycles(apps, { store, prune }), ...missingSecrets(apps, store))
  conflicts.push(...unknownToThem(apps, store.whole))
  if (conflicts.length > 0) throw new MeshError('SLA_CONFLICT', { conflicts })
  if (reason?.isAutomatic !== true) checkQuotas(changedSpecs(changes), store.whole) // what has failed goes back in any case
  return { changes, requests, warnings }
}

/** Runs `change` in one transaction; when it fails, nothing of it remains. */
export function changeStore<T>({ store, vips }: Pick<SubmitParts, 'store' | 'vips'>, change: () => T): T {
  try {
    return store.database.transaction(change)
  } catch (error) {
    vips.reload()
    throw error
  }
}

/** Removes the service from what is wanted; the reconciler withdraws its instances. */
export function remove(id: ServiceId, { store, vips }: SubmitParts): void {
  store.services.delete(id)
  forgetRevisions(id, store)
  vips.free(id)
}

function changedSpecs(changes: readonly ServiceChange[]): Map<ServiceId, ServiceSpec | undefined> {
  const changed = changes.filter(({ kind }) => kind !== 'unchanged')
  return new Map(changed.map((change) => [idOf(change), 'spec' in change ? change.spec : undefined]))
}

export function idOf(change: ServiceChange): ServiceId {
  return 'spec' in change ? change.spec.id : change.id
}

/** A schedule that is new counts from now on. */
function scheduledOf(
  { schedule }: ServiceSpec,
  before: ServiceRecord | undefined,
  now: number,
): Pick<ServiceRecord, 'scheduled'> {
  if (schedule === undefined) return {}
  const known = before?.spec.schedule?.cron === schedule.cron ? before.scheduled : undefined
  return { scheduled: known ?? { after: now } }
}

function write(change: ServiceChange, parts: SubmitParts, reason: RevisionReason | undefined): void {
  const { store, clock } = parts
  switch (change.kind) {
    case 'unchanged':
      return
    case 'removed':
      return remove(change.id, parts)
    case 'created':
    case 'updated': {
      const { spec } = change
      const before = store.services.get(spec.id)
      const effect = change.kind === 'created' || before === undefined ? 'restart' : change.effect
      const record: ServiceRecord = {
        id: spec.id,
        spec,
        generation: effect === 'restart' ? store.next('generation', 0) : (before?.generation ?? 0),
        revision: effect === 'none' ? (before?.revision ?? 0) : store.next('revision', 0),
        version: store.next('version', clock.wall()),
        ...(before?.run === undefined ? {} : { run: before.run }),
        ...scheduledOf(spec, before, clock.wall()),
      }
      store.services.put(spec.id, record)
      const isOnlyScaled = before !== undefined && isDeepStrictEqual(contentOf(before.spec), contentOf(spec))
      if (!isOnlyScaled) recordRevision(record, { before, at: clock.wall(), reason }, store)
      return
    }
    default:
      change satisfies never
  }
}
