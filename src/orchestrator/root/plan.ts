import type { InstanceId } from '../../core/model/ids.ts'
import { runsAtFormer } from './former-place.ts'
import { belongs } from './jobs/slots.ts'
import { hasEnded, isOld, nextUpdates, type NextUpdate } from './rollout.ts'
import type { InstanceRecord, ServiceRecord } from './root-store.ts'

/** What the plan depends on beside records. */
export interface ClusterConditions {
  /** Its link is up. */
  isUp(cluster: string): boolean
  /** Its link has been down for longer than `clusterLostSeconds`. */
  isLost(cluster: string): boolean
  /** Another cluster would take the instance. */
  hasRoomElsewhere(record: InstanceRecord): boolean
  /** Why the first instances of the service do not start yet. */
  whyWaiting(service: ServiceRecord, instances: readonly InstanceRecord[]): string | undefined
  /** Its cluster has not refused to update it a moment ago. */
  mayUpdate(record: InstanceRecord): boolean
}

export type Step =
  | { kind: 'create'; ordinal: number }
  /** No longer wanted: it is withdrawn, and forgotten when it has stopped. */
  | { kind: 'retire'; id: InstanceId }
  | { kind: 'forget'; id: InstanceId }
  | { kind: 'withdraw'; id: InstanceId; cluster: string }
  | { kind: 'place'; id: InstanceId }
  /** It is placed when what its service starts after is ready. */
  | { kind: 'wait'; id: InstanceId; why: string }
  /** Its cluster is sent the new generation. */
  | { kind: 'update'; id: InstanceId; cluster: string; how: NextUpdate['how'] }
  /** Its cluster is sent what a running instance can take over, without a restart. */
  | { kind: 'renew'; id: InstanceId; cluster: string }
  /** Its node does not meet the document any more: it goes elsewhere, if it can. */
  | { kind: 'move'; id: InstanceId; cluster: string }

/**
 * The steps towards what is wanted of a service: instances 0 … replicas-1, each placed, each of the newest generation. Scaling
 * up takes the lowest free numbers, scaling down removes the highest. A new generation is rolled out a few instances at a time
 * (rollout.ts), so that a service never stops answering.
 */
export function plan(
  service: ServiceRecord | undefined,
  instances: readonly InstanceRecord[],
  conditions: ClusterConditions,
): Step[] {
  const replicas = service?.spec.replicas ?? 0
  const taken = new Set(instances.map(({ ordinal }) => ordinal))
  const steps: Step[] = []
  for (let ordinal = 0; ordinal < replicas; ordinal++) {
    if (!taken.has(ordinal)) steps.push({ kind: 'create', ordinal })
  }
  const mayUpdate = (record: InstanceRecord) =>
    record.cluster !== undefined &&
    conditions.isUp(record.cluster) &&
    !needsPlace(record, service, conditions) &&
    conditions.mayUpdate(record)
  const updates = service === undefined ? [] : nextUpdates(service, instances, mayUpdate)
  const why = service === undefined ? undefined : conditions.whyWaiting(service, instances)
  const updateOf = new Map(updates.map(({ record, how }) => [record.id, how]))
  for (const record of instances) {
    const how = updateOf.get(record.id)
    const isOurs = service !== undefined && belongs(record, service.spec)
    if (record.wanted && !isOurs) steps.push({ kind: 'retire', id: record.id })
    if (!record.wanted || !isOurs) steps.push(...ending(record, conditions))
    else if (needsPlace(record, service, conditions))
      steps.push(why === undefined ? { kind: 'place', id: record.id } : { kind: 'wait', id: record.id, why })
    else if (how !== undefined && record.cluster !== undefined)
      steps.push({ kind: 'update', id: record.id, cluster: record.cluster, how })
    else if (isBehind(record, service) && record.cluster !== undefined && conditions.isUp(record.cluster))
      steps.push({ kind: record.unsuited === undefined ? 'renew' : 'move', id: record.id, cluster: record.cluster })
  }
  return steps
}

/** True when there is nothing to do until a report arrives, or a cluster comes or goes. */
export function isSettled(
  service: ServiceRecord | undefined,
  instances: readonly InstanceRecord[],
  { isUp }: Pick<ClusterConditions, 'isUp'>,
): boolean {
  if (service === undefined) return instances.length === 0
  return (
    instances.filter(({ ordinal }) => ordinal < service.spec.replicas).length === service.spec.replicas &&
    instances.every(
      (record) =>
        record.wanted &&
        belongs(record, service.spec) &&
        (record.cluster !== undefined || isIdle(record, service)) &&
        record.noOtherNode === undefined &&
        (record.cluster === undefined || isUp(record.cluster)) &&
        !isOld(record, service) &&
        !isBehind(record, service) &&
        record.successor === undefined &&
        record.former === undefined &&
        record.movesTo === undefined &&
        record.gap === undefined,
    )
  )
}

function ending(record: InstanceRecord, conditions: ClusterConditions): Step[] {
  const { id, cluster } = record
  if (cluster === undefined || conditions.isLost(cluster)) return [{ kind: 'forget', id }]
  return conditions.isUp(cluster) ? [{ kind: 'withdraw', id, cluster }] : []
}

/** It waits for its schedule. */
function isIdle(record: InstanceRecord, service: ServiceRecord | undefined): boolean {
  return record.isIdle === true && service?.spec.schedule !== undefined
}

function needsPlace(
  record: InstanceRecord,
  service: ServiceRecord | undefined,
  conditions: ClusterConditions,
): boolean {
  if (isIdle(record, service) || (hasEnded(record, service) && !isOld(record, service))) return false
  if (record.cluster === undefined) return true
  if (runsAtFormer(record)) return false // it serves there, whatever becomes of where it goes (moves.ts)
  // with a lease: its cluster may live on, cut off from here, and grant it
  const isLost = conditions.isLost(record.cluster) && service?.spec.leaseSeconds === undefined
  const mayMove = record.noOtherNode === true || isLost
  return mayMove && conditions.hasRoomElsewhere(record)
}

/** Of the newest generation, but not as the document is now. */
function isBehind(record: InstanceRecord, service: ServiceRecord | undefined): boolean {
  if (service === undefined || isOld(record, service)) return false
  if (service.spec.schedule !== undefined) return false // its next run takes it
  return (record.revision ?? 0) < (service.revision ?? 0)
}
