import { basename } from 'node:path'
import { emptyGroups, removeAbandoned } from '../core/kit/abandoned-cgroups.ts'
import { background } from '../core/kit/background.ts'
import type { CgroupTree } from '../core/kit/cgroup.ts'
import { Separation } from '../orchestrator/worker/separation.ts'
import type { CheckReport } from '../client/reports.ts'
import type { AgentContext } from './context.ts'

/** Between the two looks at groups of agents that are gone. Smaller: a run that is being started could lose its group. */
const LOOK_MS = 60_000

/** Decides what separates the instances of this node, and says in the log what does not. @throws MeshError CONFIG_INVALID */
export function openSeparation({ config, dir, log, life, clock }: AgentContext): Separation {
  const separation = Separation.open({ setting: config.instanceUsers, uids: config.instanceUids, dir })
  if (separation.reason !== undefined) {
    log.warn('instances run as the user of the agent: nothing keeps them from its files and from each other', {
      reason: separation.reason,
    })
  }
  if (separation.mountReason !== undefined)
    log.warn('instances share /tmp with the machine', { reason: separation.mountReason })
  const { cgroups } = separation
  if (cgroups === undefined) return separation
  const own = basename(cgroups.path)
  const { signal } = life
  const swept = background.run('control groups of agents that are gone', async () => {
    const before = emptyGroups(own)
    if (before.length > 0) await clock.sleep(LOOK_MS, signal)
    if (!signal.aborted) removeAbandoned(before, emptyGroups(own))
  })
  life.defer(() => swept)
  return separation
}

/** `memory and pids are limited; vcpus not: the kernel does not offer it` */
function limitsText(faults: CgroupTree['faults']): string {
  const keys = { memory: 'memory', cpu: 'vcpus', pids: 'pids' } as const
  const all = Object.keys(keys) as (keyof typeof keys)[]
  const missing = all.filter((controller) => faults[controller] !== undefined)
  if (missing.length === 0) return 'by which memory, vcpus and pids are limited'
  const why = missing.map((controller) => `${keys[controller]} is not limited: ${faults[controller]}`)
  return `but ${why.join('; ')}`
}

/** Not a fault: it may be what is wanted, and without root it cannot be otherwise. */
export function separationCheck(
  { users, setpriv, mountTools, mountReason, reason, cgroups, cgroupReason }: Separation,
  openReason: string | undefined,
): CheckReport['checks'][number] {
  const groups =
    cgroups === undefined
      ? `no control groups, so memory, vcpus and pids of programs are not limited (${cgroupReason})`
      : `control groups of their own, ${limitsText(cgroups.faults)}`
  if (users === undefined) {
    const finding = `instances run as the user of the agent, so each can read its keys and call as any other: ${reason}; ${groups}`
    return { check: 'instances', ok: true, finding }
  }
  const { first, last } = users.range
  const setuid = setpriv === undefined ? '; setuid programs keep their rights: setpriv is not installed' : ''
  const tmp = mountTools === undefined ? `, the /tmp of the machine (${mountReason})` : ', /tmp of their own'
  return {
    check: 'instances',
    ok: true,
    finding: `users of their own (uid ${first} to ${last})${tmp}, ${groups}${setuid}${openReason === undefined ? '' : `; egress none is not offered: ${openReason}`}`,
  }
}
