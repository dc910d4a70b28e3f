import type { ServiceSpec } from '../../spec.ts'
import { hasEnded, isOld } from '../rollout.ts'
import type { InstanceRecord, ServiceRecord } from '../root-store.ts'

/*
 * Which instances run a job: each run takes `replicas` of them. With `concurrency: allow` a run that is due while others have not ended
 * takes those that are free, and further ones, numbered on from `replicas`:
 *
 *     run 1 ─ 0 ──────────────────────────────▶
 *     run 2 ─────── 1 ──────▶                       1 is free again
 *     run 3 ─────────────────────── 1 ──────▶
 */

/** Runs of one job at a time. Smaller skips sooner; larger lets a job that never ends fill the nodes. */
export const MOST_AT_ONCE = 10

/** Numbers of instances that do not exist yet, and those that do. */
export interface Slots {
  free: readonly InstanceRecord[]
  added: readonly number[]
}

/** For one more run; `undefined` while there are none. */
export function slotsFor(service: ServiceRecord, instances: readonly InstanceRecord[]): Slots | undefined {
  const { spec } = service
  const own = instances.filter((record) => record.wanted && belongs(record, spec))
  const open = own.filter((record) => isFree(record, service)).toSorted((a, b) => a.ordinal - b.ordinal)
  if (!isAllowed(spec)) return open.length === own.length ? { free: open, added: [] } : undefined
  const free = open.slice(0, spec.replicas)
  const taken = new Set(instances.map(({ ordinal }) => ordinal))
  const most = spec.replicas * MOST_AT_ONCE
  const added: number[] = []
  for (let ordinal = 0; ordinal < most && free.length + added.length < spec.replicas; ordinal++)
    if (!taken.has(ordinal)) added.push(ordinal)
  return free.length + added.length < spec.replicas ? undefined : { free, added }
}

/** Runs may overlap. */
export function isAllowed({ schedule }: Pick<ServiceSpec, 'schedule'>): boolean {
  return schedule?.concurrency === 'allow'
}

/** By its number, or as a further one of a job whose runs may overlap. */
export function belongs({ ordinal, isFurther }: InstanceRecord, spec: ServiceSpec): boolean {
  return ordinal < spec.replicas || (isFurther === true && isAllowed(spec))
}

/** It has run what it was to run, or waits for its first run. */
function isFree(record: InstanceRecord, service: ServiceRecord): boolean {
  return record.isIdle === true || (!isOld(record, service) && hasEnded(record, service))
}
