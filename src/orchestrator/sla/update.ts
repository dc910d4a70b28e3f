import type { UpdateSpec } from '../spec.ts'
import { Fields } from './fields.ts'
import type { Findings } from './findings.ts'

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
  else if (isForbidden && service.flag('fixed_port'))
    findings.fault(
      fields.at('max_unavailable'),
      'is 0, and with fixed_port two instances cannot run on one node: nothing could ever be updated',
      'set max_unavailable to 1 or more, or leave out fixed_port',
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
