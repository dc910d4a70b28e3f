import type { Clock } from '../../core/kit/clock.ts'
import { POLICIES } from '../../core/model/choice.ts'
import { instanceId, type InstanceId, type ServiceId } from '../../core/model/ids.ts'
import { eventsOf } from './events/event-changes.ts'
import type { EventSink } from './events/event.ts'
import type { Step } from './plan.ts'
import type { InstanceChange, InstanceRecord, RootStore } from './root-store.ts'
import { changeStore } from './submission.ts'
import { ensureInstanceVips } from './vip-requests.ts'
import type { Vips } from './vips.ts'

export interface RecordParts {
  store: RootStore
  vips: Vips
  clock: Clock
  events: EventSink
}

/** Creates, retires and forgets the records of a service's instances, with their VIPs, in one transaction. */
export function applyRecordSteps(id: ServiceId, steps: readonly Step[], parts: RecordParts): void {
  const { store, vips } = parts
  const why = store.services.get(id) === undefined ? 'the service was deleted' : 'the service has fewer replicas now'
  changeStore(parts, () => {
    for (const step of steps) {
      if (step.kind === 'create') {
        createInstance(id, step.ordinal, parts)
        ensureInstanceVips(id, step.ordinal, vips)
      } else if (step.kind === 'retire') {
        const record = changeInstance(step.id, { wanted: false, state: 'stopping' }, parts, why)
        if (record !== undefined) for (const policy of POLICIES) vips.freeAutomatic(id, `${record.ordinal}.${policy}`)
      } else if (step.kind === 'forget') deleteInstance(step.id, parts)
    }
  })
}

/** Beyond its replicas, for a run of a job beside others (jobs/slots.ts). */
export function addFurther(service: ServiceId, ordinals: readonly number[], parts: RecordParts): void {
  const { store, vips } = parts
  if (ordinals.length === 0) return
  const replicas = store.services.get(service)?.spec.replicas ?? 0
  changeStore(parts, () => {
    for (const ordinal of ordinals) {
      createInstance(service, ordinal, parts)
      ensureInstanceVips(service, ordinal, vips)
      const record = store.instances.get(instanceId(service, ordinal))
      if (record !== undefined && ordinal >= replicas) store.instances.put(record.id, { ...record, isFurther: true })
    }
  })
}

/** Tells what the change means (`why`, for people). Returns the record as it is now; `undefined` when there is none. */
export function changeInstance(
  id: InstanceId,
  change: InstanceChange,
  { store, clock, events }: Pick<RecordParts, 'store' | 'clock' | 'events'>,
  why?: string,
): InstanceRecord | undefined {
  const record = store.instances.get(id)
  if (record === undefined) return undefined
  const changed = { ...record, ...change, changedAt: clock.wall() } as InstanceRecord
  store.instances.put(id, changed) // keys that are undefined now are not written
  for (const event of eventsOf(record, changed, { why })) events.record(event)
  return changed
}

/** Nothing of the instance is left. */
export function deleteInstance(id: InstanceId, { store, events }: Pick<RecordParts, 'store' | 'events'>): void {
  const record = store.instances.get(id)
  if (record === undefined) return
  store.instances.delete(id)
  store.runs.delete(id)
  events.record({ instance: id, node: record.node?.id, cluster: record.cluster, what: 'deleted', by: 'reconciler' })
}

function createInstance(service: ServiceId, ordinal: number, { store, clock }: RecordParts): void {
  const id = instanceId(service, ordinal)
  store.instances.put(id, {
    id,
    service,
    ordinal,
    wanted: true,
    generation: 0,
    state: 'requested',
    restarts: 0,
    ...(store.services.get(service)?.spec.schedule === undefined ? {} : { isIdle: true as const }),
    changedAt: clock.wall(),
  })
}
