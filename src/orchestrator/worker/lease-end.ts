import { setTimeout as sleep } from 'node:timers/promises'
import { Cgroup } from '../../core/kit/cgroup.ts'
import { leasesText, readLeases, uptimeSeconds, writeLeases, type Lease } from './leases.ts'
import { bootId, endGroup, isAlive } from './process-group.ts'
import { TIMINGS } from './timings.ts'

/* A program of its own, started by the guard (lease-guard.ts): ends what is past its lease, all of it at the same time. */

const [dir = ''] = process.argv.slice(2)
const isOver = ({ until }: Lease) => uptimeSeconds() >= until
const over = readLeases(dir).filter(isOver)
await Promise.all(over.map(end))
// an agent that lives may have written others meanwhile, and what it starts again is another run
const ended = new Set(over.map((lease) => leasesText([lease])))
writeLeases(
  dir,
  readLeases(dir).filter((lease) => !ended.has(leasesText([lease]))),
)

/** Pids and start times mean nothing after a start of the machine. */
async function end({ trace }: Lease): Promise<void> {
  const { run, boot, pid, startTime, uid, cgroup } = trace
  if (typeof run !== 'string' || boot !== bootId()) return
  const isOurs = typeof pid === 'number' && typeof startTime === 'number' && isAlive(pid, startTime)
  await endGroup({
    leader: isOurs ? pid : undefined,
    mark: run,
    uid: typeof uid === 'number' ? uid : undefined,
    cgroup: typeof cgroup === 'string' ? new Cgroup(cgroup) : undefined,
    graceMs: TIMINGS.graceMs,
    sleep,
  })
}
