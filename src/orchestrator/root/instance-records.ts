import type { Clock } from '../../core/kit/clock.ts'
import { POLICIES } from '../../core/model/choice.ts'
import { instanceId, type InstanceId, type ServiceId } from '../../core/model/ids.ts'
import type { Step } from './plan.ts'
import type { InstanceRecord, RootStore } from './root-store.ts'
import { changeStore } from './submission.ts'
import { ensureInstanceVips } from './vip-requests.ts'
import type { Vips } from './vips.ts'

export interface RecordParts {
  store: RootStore
  vips: Vips
  clock: Clock
}

/** A key that is `undefined` is removed from the record. */
export type InstanceChange = { [K in keyof InstanceRecord]?: InstanceRecord[K] | undefined }

/** Creates, retires and forgets the records of a service's instances, with their VIPs, in one transaction. */
export function applyRecordSteps(id: ServiceId, steps: readonly Step[], parts: RecordParts): void {
  const { store, vips } = parts
  changeStore(parts, () => {
    for (const step of steps) {
      if (step.kind === 'create') {
        createInstance(id, step.ordinal, parts)
        ensureInstanceVips(id, step.ordinal, vips)
      } else if (step.kind === 'retire') {
        const record = changeInstance(step.id, { wanted: false, state: 'stopping' }, parts)
        if (record !== undefined) for (const policy of POLICIES) vips.freeAutomatic(id, `${record.ordinal}.${policy}`)
      } else if (step.kind === 'forget') store.instances.delete(step.id)
    }
  })
}

/** Returns the record as it is now; `undefined` when there is none. */
export function changeInstance(
  id: InstanceId,
  change: InstanceChange,
  { store, clock }: Pick<RecordParts, 'store' | 'clock'>,
): InstanceRecord | undefined {
  const record = store.instances.get(id)
  if (record === undefined) return undefined
  const changed = { ...record, ...change, changedAt: clock.wall() } as InstanceRecord
  store.instances.put(id, changed) // keys that are undefined now are not written
  return changed
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
    changedAt: clock.wall(),
  })
}
