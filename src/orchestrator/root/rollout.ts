import { keyOfPorts, portsOfNode, volumesOfNode } from '../scheduling/candidate.ts'
import { HOPELESS_RESTARTS, progressMsOf } from '../scheduling/progress.ts'
import type { ServiceSpec } from '../spec.ts'
import type { ServiceChange } from './difference.ts'
import type { InstanceRecord, ServiceRecord } from './root-store.ts'

/*
 * An update replaces the instances of a service by those of its newest generation, a few at a time:
 *
 *     old ─▶ old with a successor beside it ─▶ updated          stop-first:  old ─▶ starting ─▶ updated
 *
 * The next one begins when the one before is ready, so a version that does not start is stopped at its first instance.
 */

export interface RolloutLimits {
  /** How many successors there may be at a time. */
  surge: number
  /** How many instances may be down at a time. */
  unavailable: number
  /** Where no second one fits beside an instance, it is stopped first. */
  mayGap: boolean
  progressMs: number
}

/** Percentages as in Kubernetes: the surge is rounded up, what may be away down; if nothing is left of both, one may be away. */
export function limitsOf({ update = {}, replicas }: ServiceSpec): RolloutLimits {
  const { maxSurgePercent, maxUnavailablePercent } = update
  const surge = maxSurgePercent === undefined ? (update.maxSurge ?? 1) : Math.ceil((replicas * maxSurgePercent) / 100)
  const unavailable =
    maxUnavailablePercent === undefined
      ? (update.maxUnavailable ?? 0)
      : Math.floor((replicas * maxUnavailablePercent) / 100)
  return {
    surge,
    unavailable: surge === 0 ? Math.max(unavailable, 1) : unavailable,
    mayGap: update.maxUnavailable !== 0,
    progressMs: progressMsOf({ update }),
  }
}

/** Which instances are updated next, and how each takes the place of its former run. */
export interface NextUpdate {
  record: InstanceRecord
  how: 'beside' | 'beside-if-possible' | 'stop-first'
}

/** `mayUpdate`: its cluster is there to be told. */
export function nextUpdates(
  service: ServiceRecord,
  instances: readonly InstanceRecord[],
  mayUpdate: (record: InstanceRecord) => boolean,
): NextUpdate[] {
  if (service.spec.oneShot) return nextRuns(service, instances, mayUpdate)
  const { surge, unavailable, mayGap } = limitsOf(service.spec)
  const wanted = instances.filter((record) => record.wanted && record.ordinal < service.spec.replicas)
  const settling = wanted.filter((record) => isSettling(record, service)).length
  const down = wanted.filter(({ state }) => state !== 'running').length
  let besides = surge - settling
  let stops = unavailable - Math.max(down, settling)
  let isFirst = settling === 0
  const next: NextUpdate[] = []
  for (const record of wanted.filter((each) => isOld(each, service) && mayUpdate(each))) {
    const isDown = record.state !== 'running'
    const mayStop = mayGap && isFirst && (down === 0 || (isDown && down === 1))
    if (besides > 0) {
      next.push({ record, how: mayStop ? 'beside-if-possible' : 'beside' })
      besides -= 1
    } else if (stops > 0 || (isDown && isFirst)) {
      next.push({ record, how: 'stop-first' })
      stops -= 1
    } else continue
    isFirst = false
  }
  return next
}

/** A job serves nobody and does not run twice at the same time: all of its instances run again at once, what runs is stopped first. */
function nextRuns(
  service: ServiceRecord,
  instances: readonly InstanceRecord[],
  mayRun: (record: InstanceRecord) => boolean,
): NextUpdate[] {
  return instances.flatMap((record) =>
    record.wanted && isOld(record, service) && mayRun(record) ? [{ record, how: 'stop-first' as const }] : [],
  )
}

/** Why a service will not answer while it is updated; `undefined` when it will, or does not run. */
export function whyGap(
  change: ServiceChange,
  before: ServiceRecord | undefined,
  instances: readonly InstanceRecord[],
): string | undefined {
  if (change.kind !== 'updated' || change.effect !== 'restart' || before === undefined) return undefined
  const { spec } = change
  if (spec.oneShot || !instances.some(({ wanted, state }) => wanted && state === 'running')) return undefined
  const each = spec.replicas > 1 ? 'each instance is' : 'it is'
  if (limitsOf(spec).surge === 0) return `max_surge is 0, so ${each} stopped before its successor starts`
  const kept = volumesOfNode(before.spec)
  const volume = volumesOfNode(spec).find((name) => kept.includes(name))
  if (volume !== undefined)
    return `two instances cannot have the volume ${volume} of one node, so ${each} stopped before its successor starts`
  const listens = portsOfNode(before.spec)
  const shared = portsOfNode(spec).find((port) => listens.includes(port))
  if (shared === undefined) return undefined
  return `two instances cannot listen on port ${shared} of one node (${keyOfPorts(spec)}), so ${each} stopped before its successor starts`
}

/** Of an earlier generation, and not told of the newest yet. A job with a schedule takes a newer document with its next run. */
export function isOld(record: InstanceRecord, service: ServiceRecord | undefined): boolean {
  if (service === undefined || record.isIdle === true) return false
  return record.generation < dueGeneration(record, service)
}

/** What it is to run. Where runs of a job may overlap, each instance has its own. */
export function dueGeneration({ asked }: InstanceRecord, { spec, run, generation }: ServiceRecord): number {
  const { schedule } = spec
  if (schedule === undefined) return generation
  return (schedule.concurrency === 'allow' ? asked : run)?.generation ?? 0
}

/** What its cluster is told: the newest document, as the run that it was given. */
export function assignedGeneration(record: InstanceRecord, service: ServiceRecord): number {
  return service.spec.schedule?.concurrency === 'allow' ? dueGeneration(record, service) : service.generation
}

/** A job that is over, well or not: it is not placed again. */
export function hasEnded({ state }: Pick<InstanceRecord, 'state'>, service: ServiceRecord | undefined): boolean {
  return service?.spec.oneShot === true && (state === 'stopped' || state === 'failed')
}

/** Told of the newest generation, whose run does not serve yet. A failed one also holds up what follows. */
export function isSettling(record: InstanceRecord, service: ServiceRecord | undefined): boolean {
  if (isOld(record, service)) return false
  return record.successor !== undefined || ['requested', 'placed', 'starting', 'failed'].includes(record.state)
}

/** How far the update of a service is; `undefined` when there is none under way. */
export interface Rollout {
  updated: number
  of: number
  /** What holds it up. */
  stuck?: string
  /** It does not get on by itself: it crashes again and again, or cannot be started. */
  isHopeless: boolean
}

/** A job has runs, and no update. */
export function rolloutOf(service: ServiceRecord, instances: readonly InstanceRecord[]): Rollout | undefined {
  if (service.spec.oneShot) return undefined
  const wanted = instances.filter((record) => record.wanted && record.ordinal < service.spec.replicas)
  const isUpdated = (record: InstanceRecord) => !isOld(record, service) && !isSettling(record, service)
  const pending = wanted.filter((record) => !isUpdated(record))
  // what starts for the first time, or waits for that, is no update
  const isReplaced = (record: InstanceRecord) => isOld(record, service) && record.generation > 0
  if (!pending.some((each) => isReplaced(each) || each.successor !== undefined || each.gap !== undefined))
    return undefined
  const troubles = pending.flatMap((record) => troubleOf(record, service) ?? [])
  const [first] = troubles.toSorted((a, b) => Number(b.isHopeless) - Number(a.isHopeless))
  return {
    updated: wanted.length - pending.length,
    of: wanted.length,
    ...(first === undefined ? {} : { stuck: first.reason }),
    isHopeless: first?.isHopeless === true,
  }
}

function troubleOf(
  record: InstanceRecord,
  service: ServiceRecord,
): { reason: string; isHopeless: boolean } | undefined {
  const { successor, waits } = record
  if (isOld(record, service)) return waits === undefined ? undefined : { reason: waits, isHopeless: false }
  const { state, restarts, detail } = successor ?? (record.gap === undefined ? record : { ...record, restarts: 0 })
  const isIll = state === 'failed' || (detail !== undefined && detail !== record.gap)
  if (!isIll && restarts === 0) return undefined
  const isHopeless = state === 'failed' || (successor !== undefined && restarts >= HOPELESS_RESTARTS)
  return { reason: detail ?? `it was started again ${restarts} times`, isHopeless }
}

/** `updated 0/1, stuck: exited with code 1` */
export function rolloutText({ updated, of, stuck }: Rollout, isFailed: boolean): string {
  const trouble = stuck === undefined ? (isFailed ? ', stuck: no progress' : '') : `, stuck: ${stuck}`
  return `updated ${updated}/${of}${trouble}`
}
