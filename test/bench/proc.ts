import { readFileSync } from 'node:fs'
import { cpus } from 'node:os'

/** proc(5): CPU time is counted in ticks of 10 ms. */
export const TICKS_A_SECOND = 100

/** Seconds of CPU that the process has used, all threads, user and system. */
export function cpuSeconds(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return (Number(fields[11]) + Number(fields[12])) / TICKS_A_SECOND
}

/** Resident memory in MiB. */
export function rssMib(pid: number): number {
  const kib = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]
  return Number(kib) / 1_024
}

/** The share of all processors that was busy, from now until the returned function is called. */
export function busySince(): () => number {
  const before = processorTimes()
  return () => {
    const { busy, all } = processorTimes()
    return all === before.all ? 0 : (busy - before.busy) / (all - before.all)
  }
}

function processorTimes(): { busy: number; all: number } {
  const sum = { busy: 0, all: 0 }
  for (const { times } of cpus()) {
    const busy = times.user + times.nice + times.sys + times.irq
    sum.busy += busy
    sum.all += busy + times.idle
  }
  return sum
}

/** The most resident memory that the process has had, in MiB. */
export function peakRssMib(pid: number): number {
  const kib = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]
  return Number(kib) / 1_024
}
