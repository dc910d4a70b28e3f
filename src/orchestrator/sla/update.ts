import type { UpdateSpec } from '../spec.ts'
import { Fields } from './fields.ts'
import type { Findings } from './findings.ts'

/** `update` of a service; nothing where only defaults apply. */
export function readUpdate(service: Fields, findings: Findings): { update?: UpdateSpec } {
  if (!service.has('update')) return {}
  const fields = Fields.read(service.value('update'), ['update'], service.at('update'), findings)
  if (fields === undefined) return {}
  const maxSurge = fields.number('max_surge')
  const maxUnavailable = fields.number('max_unavailable')
  const progressSeconds = fields.number('progress_deadline_seconds')
  const isForbidden = maxUnavailable === 0
  if (isForbidden && maxSurge === 0)
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
    ...(maxSurge === undefined ? {} : { maxSurge }),
    ...(maxUnavailable === undefined ? {} : { maxUnavailable }),
    ...(progressSeconds === undefined ? {} : { progressSeconds }),
    ...(fields.flag('auto_rollback') ? { autoRollback: true as const } : {}),
  }
  return Object.keys(update).length === 0 ? {} : { update }
}
