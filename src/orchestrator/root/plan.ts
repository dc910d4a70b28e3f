import type { InstanceId } from '../../core/model/ids.ts'
import type { InstanceRecord, ServiceRecord } from './root-store.ts'

/** What the root sees of the clusters when it plans. */
export interface ClusterConditions {
  /** Its link is up. */
  isUp(cluster: string): boolean
  /** Its link is down for longer than it may be. */
  isLost(cluster: string): boolean
  /** Another cluster would take the instance. */
  hasRoomElsewhere(record: InstanceRecord): boolean
}

export type Step =
  | { kind: 'create'; ordinal: number }
  /** No longer wanted: it is withdrawn, and forgotten when it has ended. */
  | { kind: 'retire'; id: InstanceId }
  | { kind: 'forget'; id: InstanceId }
  | { kind: 'withdraw'; id: InstanceId; cluster: string }
  | { kind: 'place'; id: InstanceId }
  /** Its cluster is told of the new generation. */
  | { kind: 'renew'; id: InstanceId; cluster: string }

/**
 * What must happen so that a service is as it is wanted: ordinals 0 … replicas-1, each placed, each of the newest
 * generation. Scaling up takes the lowest free numbers, scaling down the highest. A new generation goes one instance at
 * a time, the next when the one before runs, so that a service with several never stops answering.
 */
export function plan(
  service: ServiceRecord | undefined,
  instances: readonly InstanceRecord[],
  outlook: ClusterConditions,
): Step[] {
  const replicas = service?.spec.replicas ?? 0
  const taken = new Set(instances.map(({ ordinal }) => ordinal))
  const steps: Step[] = []
  for (let ordinal = 0; ordinal < replicas; ordinal++) {
    if (!taken.has(ordinal)) steps.push({ kind: 'create', ordinal })
  }
  let isRolling = instances.some((record) => record.wanted && isSettling(record, service))
  for (const record of instances) {
    if (record.wanted && record.ordinal >= replicas) steps.push({ kind: 'retire', id: record.id })
    if (!record.wanted || record.ordinal >= replicas) steps.push(...ending(record, outlook))
    else if (needsPlace(record, outlook)) steps.push({ kind: 'place', id: record.id })
    else if (isOld(record, service) && !isRolling && record.cluster !== undefined && outlook.isUp(record.cluster)) {
      steps.push({ kind: 'renew', id: record.id, cluster: record.cluster })
      isRolling = true
    }
  }
  return steps
}

/** Settled: nothing to do until something is reported or a cluster comes or goes. */
export function isSettled(
  service: ServiceRecord | undefined,
  instances: readonly InstanceRecord[],
  { isUp }: Pick<ClusterConditions, 'isUp'>,
): boolean {
  if (service === undefined) return instances.length === 0
  return (
    instances.length === service.spec.replicas &&
    instances.every(
      (record) => record.wanted && record.cluster !== undefined && isUp(record.cluster) && !isOld(record, service),
    )
  )
}

function ending(record: InstanceRecord, outlook: ClusterConditions): Step[] {
  const { id, cluster } = record
  if (cluster === undefined || outlook.isLost(cluster)) return [{ kind: 'forget', id }]
  return outlook.isUp(cluster) ? [{ kind: 'withdraw', id, cluster }] : []
}

function needsPlace(record: InstanceRecord, outlook: ClusterConditions): boolean {
  if (record.cluster === undefined) return true
  return outlook.isLost(record.cluster) && outlook.hasRoomElsewhere(record)
}

function isOld(record: InstanceRecord, service: ServiceRecord | undefined): boolean {
  return service !== undefined && record.generation < service.generation
}

/** Of the new generation, and not yet running (nor given up). */
function isSettling(record: InstanceRecord, service: ServiceRecord | undefined): boolean {
  return !isOld(record, service) && ['requested', 'placed', 'starting', 'failed'].includes(record.state)
}
