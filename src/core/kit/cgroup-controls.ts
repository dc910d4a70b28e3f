import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

/*
 * What a control group holds its processes to, and what they use, by the controllers of cgroups(7):
 *
 *               version 2: files of the one group             version 1: a group in the hierarchy of each controller
 *     memory    memory.max, memory.swap.max                   memory.limit_in_bytes, memory.memsw.limit_in_bytes
 *               memory.current, memory.events                 memory.usage_in_bytes, memory.oom_control
 *     cpu       cpu.max, cpu.stat (µs)                        cpu.cfs_quota_us, cpu.cfs_period_us, cpu.stat (ns)
 *     cpuacct   part of cpu                                   cpuacct.usage (ns)
 *     pids      pids.max                                      pids.max
 *     pressure  cpu.pressure, memory.pressure, io.pressure    none
 *
 * Every group of version 2 counts pressure (PSI), whatever controllers it has, where the kernel does.
 * A machine may have some controllers in version 2 and the others in version 1.
 */

export const CONTROLLERS = ['memory', 'cpu', 'cpuacct', 'pids'] as const
export type Controller = (typeof CONTROLLERS)[number]

/** The folder of a group, or of the groups, in the hierarchy of each controller, and in version 2. */
export type Controls = Readonly<Partial<Record<Controller | 'pressure', string>>>

/** What processes can wait for. */
export const STALLS = ['cpu', 'memory', 'io'] as const
export type Stalls = Readonly<Record<(typeof STALLS)[number], number>>

/** What is absent is not limited. */
export interface Limits {
  /** Memory and swap together. */
  memoryBytes?: number
  /** Processors: 0.5 is half of one. */
  vcpus?: number
  pids?: number
}

/** Counters are those of the group, from its beginning. */
export interface GroupUsage {
  cpuSeconds: number
  /** Without file cache that is given up when memory is wanted. */
  memoryBytes: number
  /** How long its processes had to wait because of the limit of processors. */
  throttledSeconds: number
  /** How often the kernel ended one of its processes for want of memory. */
  oomKills: number
  /** Seconds in which one or more of its processes had to wait for each; absent where the kernel does not count them. */
  stalls?: Stalls
}

/** As usual: smaller costs more timers, larger makes a busy program stand still for longer. */
const PERIOD_US = 100_000
/** The kernel takes no less. */
const LEAST_QUOTA_US = 1_000
const NO_LIMIT = -1

/** Those of another document: what that does not limit is free again. Returns what could not be set. */
export function setLimits(controls: Controls, { memoryBytes, vcpus, pids }: Limits): Controller[] {
  const quota = vcpus === undefined ? undefined : Math.max(LEAST_QUOTA_US, Math.round(vcpus * PERIOD_US))
  const failed: Controller[] = []
  const { memory, cpu, pids: folder } = controls
  if (memory === undefined ? memoryBytes !== undefined : !setMemory(memory, memoryBytes)) failed.push('memory')
  if (cpu === undefined ? quota !== undefined : !setQuota(cpu, quota)) failed.push('cpu')
  const most = pids === undefined ? 'max' : String(pids)
  if (folder === undefined ? pids !== undefined : !write(folder, 'pids.max', most)) failed.push('pids')
  return failed
}

/** `undefined` where neither memory nor processors are counted, or the group is gone. */
export function usageOf({ memory, cpu, cpuacct, pressure }: Controls): GroupUsage | undefined {
  const cpuSeconds = secondsOf(cpu, cpuacct)
  const memoryBytes = memory === undefined ? undefined : memoryOf(memory)
  if (cpuSeconds === undefined && memoryBytes === undefined) return undefined
  const stalls = pressure === undefined ? undefined : stallsOf(pressure)
  return {
    cpuSeconds: cpuSeconds ?? 0,
    memoryBytes: memoryBytes ?? 0,
    throttledSeconds: cpu === undefined ? 0 : throttledOf(cpu),
    oomKills: memory === undefined ? 0 : oomKillsOf(memory),
    ...(stalls === undefined ? {} : { stalls }),
  }
}

/** `some avg10=0.00 avg60=0.00 avg300=0.00 total=12345`, in microseconds. */
function stallsOf(folder: string): Stalls | undefined {
  const found = STALLS.flatMap((name): [string, number][] => {
    const [, total] = /^some .*total=(\d+)$/m.exec(read(folder, `${name}.pressure`)) ?? []
    return total === undefined ? [] : [[name, Number(total) / 1e6]]
  })
  return found.length < STALLS.length ? undefined : (Object.fromEntries(found) as unknown as Stalls)
}

/** Version 1 wants memory alone never above memory with swap: whichever grows is set last. */
function setMemory(folder: string, bytes: number | undefined): boolean {
  if (isVersion2(folder)) {
    write(folder, 'memory.swap.max', bytes === undefined ? 'max' : '0') // a kernel without swap has no such file
    return write(folder, 'memory.max', String(bytes ?? 'max'))
  }
  const limit = String(bytes ?? NO_LIMIT)
  const both = existsSync(join(folder, 'memory.memsw.limit_in_bytes'))
  const setBoth = () => !both || write(folder, 'memory.memsw.limit_in_bytes', limit)
  const set = () => write(folder, 'memory.limit_in_bytes', limit)
  return (set() && setBoth()) || (setBoth() && set())
}

function setQuota(folder: string, quota: number | undefined): boolean {
  if (isVersion2(folder)) return write(folder, 'cpu.max', `${quota ?? 'max'} ${PERIOD_US}`)
  return (
    write(folder, 'cpu.cfs_period_us', String(PERIOD_US)) &&
    write(folder, 'cpu.cfs_quota_us', String(quota ?? NO_LIMIT))
  )
}

function secondsOf(cpu: string | undefined, cpuacct: string | undefined): number | undefined {
  const microseconds = cpu === undefined ? undefined : valueIn(cpu, 'cpu.stat', 'usage_usec')
  if (microseconds !== undefined) return microseconds / 1e6
  const nanoseconds = cpuacct === undefined ? undefined : numberIn(cpuacct, 'cpuacct.usage')
  return nanoseconds === undefined ? undefined : nanoseconds / 1e9
}

function throttledOf(cpu: string): number {
  const microseconds = valueIn(cpu, 'cpu.stat', 'throttled_usec')
  if (microseconds !== undefined) return microseconds / 1e6
  return (valueIn(cpu, 'cpu.stat', 'throttled_time') ?? 0) / 1e9
}

function memoryOf(folder: string): number | undefined {
  const used = numberIn(folder, isVersion2(folder) ? 'memory.current' : 'memory.usage_in_bytes')
  if (used === undefined) return undefined
  const cache = valueIn(folder, 'memory.stat', isVersion2(folder) ? 'inactive_file' : 'total_inactive_file') ?? 0
  return Math.max(0, used - cache)
}

function oomKillsOf(folder: string): number {
  return valueIn(folder, isVersion2(folder) ? 'memory.events' : 'memory.oom_control', 'oom_kill') ?? 0
}

/** Only groups of version 2 say which controllers they have. */
export function isVersion2(folder: string): boolean {
  return existsSync(join(folder, 'cgroup.controllers'))
}

/** Of a line `name value`. */
function valueIn(folder: string, file: string, name: string): number | undefined {
  const [, value] = new RegExp(`^${name} (\\d+)$`, 'm').exec(read(folder, file)) ?? []
  return value === undefined ? undefined : Number(value)
}

function numberIn(folder: string, file: string): number | undefined {
  const text = read(folder, file).trim()
  return text === '' ? undefined : Number(text)
}

function read(folder: string, file: string): string {
  try {
    return readFileSync(join(folder, file), 'latin1')
  } catch {
    return ''
  }
}

function write(folder: string, file: string, text: string): boolean {
  try {
    writeFileSync(join(folder, file), text, { flag: 'r+' })
    return true
  } catch {
    return false
  }
}
