import { Separation } from '../orchestrator/worker/separation.ts'
import type { CheckReport } from '../client/reports.ts'
import type { AgentContext } from './context.ts'

/** Decides what separates the instances of this node, and says in the log what does not. @throws MeshError CONFIG_INVALID */
export function openSeparation({ config, dir, log }: AgentContext): Separation {
  const separation = Separation.open({ setting: config.instanceUsers, uids: config.instanceUids, dir })
  if (separation.reason !== undefined) {
    log.warn('instances run as the user of the agent: nothing keeps them from its files and from each other', {
      reason: separation.reason,
    })
  }
  return separation
}

/** Not a fault: it may be what is wanted, and without root it cannot be otherwise. */
export function separationCheck({
  users,
  setpriv,
  reason,
  cgroups,
  cgroupReason,
}: Separation): CheckReport['checks'][number] {
  const groups = cgroups === undefined ? `no control groups (${cgroupReason})` : 'control groups of their own'
  if (users === undefined) {
    const finding = `instances run as the user of the agent, so each can read its keys and call as any other: ${reason}; ${groups}`
    return { check: 'instances', ok: true, finding }
  }
  const { first, last } = users.range
  const setuid = setpriv === undefined ? '; setuid programs keep their rights: setpriv is not installed' : ''
  return { check: 'instances', ok: true, finding: `users of their own (uid ${first} to ${last}), ${groups}${setuid}` }
}
