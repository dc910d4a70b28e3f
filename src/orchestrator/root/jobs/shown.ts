import { hasEnded } from '../rollout.ts'
import type { InstanceRecord, ServiceRecord } from '../root-store.ts'

/** What people read of jobs. */

export type Outcome = 'idle' | 'succeeded' | 'failed'

/** How the last run of an instance ended; `idle`: it waits for its first. `undefined` of what runs, and of what is no job. */
export function outcomeOf(record: InstanceRecord, service: ServiceRecord | undefined): Outcome | undefined {
  if (service?.spec.oneShot !== true) return undefined
  if (record.isIdle === true) return 'idle'
  if (!hasEnded(record, service)) return undefined
  return record.state === 'failed' ? 'failed' : 'succeeded'
}

/** `after 4 tries: exited with code 1` */
export function triesText({ restarts, detail = '' }: Pick<InstanceRecord, 'restarts' | 'detail'>): string {
  const tries = restarts === 0 ? 'after 1 try' : `after ${restarts + 1} tries`
  return detail === '' ? tries : `${tries}: ${detail}`
}

/** `succeeded`, `2 of 3 succeeded`, `has not run yet`; what has failed is said of each instance. */
export function jobText(service: ServiceRecord, instances: readonly InstanceRecord[]): string | undefined {
  const wanted = instances.filter((record) => record.wanted)
  if (!service.spec.oneShot || wanted.length === 0) return undefined
  const outcomes = wanted.map((record) => outcomeOf(record, service))
  const count = (outcome: Outcome) => outcomes.filter((each) => each === outcome).length
  if (count('idle') === wanted.length) return 'has not run yet'
  if (count('succeeded') === wanted.length) return 'succeeded'
  return wanted.length === 1 ? undefined : `${count('succeeded')} of ${wanted.length} succeeded`
}
