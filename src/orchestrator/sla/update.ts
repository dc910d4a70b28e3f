import type { UpdateSpec } from '../spec.ts'
import { Fields, isObject } from './fields.ts'
import type { Findings } from './findings.ts'

function hasHostPort(service: Fields): boolean {
  return service.list('ports').some((port) => isObject(port) && 'host_port' in port)
}

/** `update` of a service; nothing where only defaults apply. */
export function readUpdate(service: Fields, findings: Findings): { update?: UpdateSpec } {
  if (!service.has('update')) return {}
  const fields = Fields.read(service.value('update'), ['update'], service.at('update'), findings)
  if (fields === undefined) return {}
  const surge = fields.share('max_surge')
  const unavailable = fields.share('max_unavailable')
  const progressSeconds = fields.number('progress_deadline_seconds')
  const isZero = (share: typeof surge) => share !== undefined && 'count' in share && share.count === 0
  const isForbidden = isZero(unavailable)
  if (isForbidden && isZero(surge))
    findings.fault(
      fields.path,
      'max_surge and max_unavailable are both 0: nothing could ever be updated',
      'set one of them to 1 or more',
    )
  const once = service.flag('fixed_port') ? 'fixed_port' : hasHostPort(service) ? 'host_port' : undefined
  if (isForbidden && !isZero(surge) && once !== undefined)
    findings.fault(
      fields.at('max_unavailable'),
      `is 0, and with ${once} two instances cannot run on one node: nothing could ever be updated`,
      `set max_unavailable to 1 or more, or leave out ${once}`,
    )
  const update: UpdateSpec = {
    ...(surge === undefined ? {} : 'count' in surge ? { maxSurge: surge.count } : { maxSurgePercent: surge.percent }),
    ...(unavailable === undefined
      ? {}
      : 'count' in unavailable
        ? { maxUnavailable: unavailable.count }
        : { maxUnavailablePercent: unavailable.percent }),
    ...(progressSeconds === undefined ? {} : { progressSeconds }),
    ...(fields.flag('auto_rollback') ? { autoRollback: true as const } : {}),
  }
  return Object.keys(update).length === 0 ? {} : { update }
}

/** One that never runs twice is stopped before its next run starts, also in updates. */
export function readLease(
  service: Fields,
  { update }: { update?: UpdateSpec },
  { runtime, findings }: { runtime: string; findings: Findings },
): { update?: UpdateSpec; leaseSeconds?: number } {
  const leaseSeconds = service.number('lease_seconds')
  if (leaseSeconds === undefined) return update === undefined ? {} : { update }
  const at = service.at('lease_seconds')
  if (runtime !== 'process' && runtime !== 'docker')
    findings.fault(
      at,
      `needs the runtime process or docker: what is ${runtime} is not ended by its node`,
      'leave it out',
    )
  const { maxSurge = 0, maxUnavailable } = update ?? {}
  if (maxSurge > 0)
    findings.fault(
      at,
      'and max_surge contradict each other: a second run would start beside the first',
      'leave one out',
    )
  if (maxUnavailable === 0)
    findings.fault(at, 'and max_unavailable 0 contradict each other: nothing could ever be updated', 'leave one out')
  return { leaseSeconds, update: { ...update, maxSurge: 0 } }
}
