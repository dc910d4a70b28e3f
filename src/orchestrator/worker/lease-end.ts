import { setTimeout as sleep } from 'node:timers/promises'
import { Cgroup } from '../../core/kit/cgroup.ts'
import { endContainer } from './docker/end-container.ts'
import { leasesText, readLeases, uptimeSeconds, writeLeases, type Lease } from './leases.ts'
import { bootId, endGroup, isAlive } from './process-group.ts'
import { TIMINGS } from './timings.ts'

/* A program of its own, started by the guard (lease-guard.ts): ends what is past its lease, all of it at the same time. */

const [dir = ''] = process.argv.slice(2)
const isOver = ({ until }: Lease) => uptimeSeconds() >= until
const over = readLeases(dir).filter(isOver)
const results = await Promise.all(over.map(async (lease) => ((await end(lease)) ? [lease] : [])))
// an agent that lives may have written others meanwhile, and what it starts again is another run; what could not be ended is tried again
const ended = new Set(results.flat().map((lease) => leasesText([lease])))
writeLeases(
  dir,
  readLeases(dir).filter((lease) => !ended.has(leasesText([lease]))),
)

/** False when it may still run. Pids and start times mean nothing after a start of the machine, which ended everything. */
async function end({ trace, boot }: Lease): Promise<boolean> {
  const { run, pid, startTime, uid, cgroup, container } = trace
  if (typeof run !== 'string' || boot !== bootId()) return true
  if (typeof container === 'string') return endContainer(trace)
  const isOurs = typeof pid === 'number' && typeof startTime === 'number' && isAlive(pid, startTime)
  await endGroup({
    leader: isOurs ? pid : undefined,
    mark: run,
    uid: typeof uid === 'number' ? uid : undefined,
    cgroup: typeof cgroup === 'string' ? new Cgroup(cgroup) : undefined,
    graceMs: TIMINGS.graceMs,
    sleep,
  })
  return true
}
