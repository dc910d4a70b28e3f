import { readFileSync } from 'node:fs'
import { STALLS } from '../../core/kit/cgroup-controls.ts'
import type { Clock } from '../../core/kit/clock.ts'
import type { Metrics } from '../../core/metrics.ts'
import type { InstanceId, ServiceId } from '../../core/model/ids.ts'
import type { ServiceSpec } from '../spec.ts'
import type { Running, Usage } from './runtime.ts'

/** Ticks in a second, the same on every Linux (USER_HZ). */
const TICKS = 100

/**
 * Without a control group: the sum over the processes that are known, and over the children that they have waited for.
 *
 *     /proc/<pid>/stat      1234 (any text) S … utime stime cutime cstime (14th to 17th)      proc_pid_stat(5)
 *     /proc/<pid>/status    RssAnon:    1234 kB
 */
export function usageOfProcesses(pids: readonly number[]): Usage | undefined {
  const found = pids.flatMap((pid) => usageOfProcess(pid))
  if (found.length === 0) return undefined
  const sum = (key: 'cpuSeconds' | 'memoryBytes') => found.reduce((total, each) => total + each[key], 0)
  return { cpuSeconds: sum('cpuSeconds'), memoryBytes: sum('memoryBytes'), throttledSeconds: 0, oomKills: 0 }
}

function usageOfProcess(pid: number): { cpuSeconds: number; memoryBytes: number }[] {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    const ticks = fields.slice(11, 15).reduce((sum, field) => sum + Number(field), 0)
    const [, kilobytes = '0'] = /^RssAnon:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1')) ?? []
    return [{ cpuSeconds: ticks / TICKS, memoryBytes: Number(kilobytes) * 1_024 }]
  } catch {
    return [] // it has ended
  }
}

/** Of one instance, as `get instances` shows it. */
export interface InstanceUsage {
  instance: InstanceId
  /** Processors that it uses: 0.5 is half of one. */
  cpu: number
  memoryMb: number
  /** The limits of its document; absent: none, or none that holds here. */
  memoryLimitMb?: number
  vcpuLimit?: number
  /** Which part of the time it had to wait because of its limit of processors. */
  throttled: number
  /** How often one of its processes was ended for want of memory, since it was started. */
  oomKills: number
}

/** Two measurements nearer to each other than this say little. */
const LEAST_SPAN_MS = 250
/** What was measured longer ago says nothing of now. */
const MOST_SPAN_MS = 120_000

interface Rates {
  cpu: number
  throttled: number
}

interface Sample {
  at: number
  usage: Usage
  rates?: Rates | undefined
}

/**
 * What runs use, from the counters of the kernel or the engine, which are read when somebody asks and when a run ends:
 *
 *     counters of each run ─▶ difference to the reading before ─┬─▶ totals of its service (metrics)
 *                                                               └─▶ processors in use, share of time throttled (get instances)
 */
export class UsageMeter {
  readonly #metrics: Metrics
  readonly #clock: Clock
  readonly #counted = new WeakMap<Running, Usage>()
  readonly #samples = new WeakMap<Running, Sample>()

  constructor(metrics: Metrics, clock: Clock) {
    this.#metrics = metrics
    this.#clock = clock
  }

  /** What a run used under an earlier agent was counted there. */
  async adopted(running: Running): Promise<void> {
    const usage = await running.usage?.()
    if (usage !== undefined) this.#counted.set(running, usage)
  }

  /** Adds what is new to the totals of its service. */
  count(service: ServiceId, running: Running, usage: Usage): void {
    const before = this.#counted.get(running)
    this.#counted.set(running, usage)
    const { usedCpu, throttled, oomKills, pressure } = this.#metrics
    const more = (key: 'cpuSeconds' | 'throttledSeconds' | 'oomKills') => Math.max(0, usage[key] - (before?.[key] ?? 0))
    usedCpu.labels(service).inc(more('cpuSeconds'))
    throttled.labels(service).inc(more('throttledSeconds'))
    oomKills.labels(service).inc(more('oomKills'))
    for (const resource of usage.stalls === undefined ? [] : STALLS) {
      const [now = 0, then = 0] = [usage.stalls?.[resource], before?.stalls?.[resource]]
      pressure.labels(service, resource).inc(Math.max(0, now - then))
    }
  }

  /** For a scrape: all that runs, by service. */
  async scrape(runs: Iterable<MeteredRun>): Promise<void> {
    const read = await this.#read(runs)
    const { usedMemory } = this.#metrics
    usedMemory.reset()
    for (const { spec, running, usage } of read) {
      this.count(spec.id, running, usage)
      usedMemory.labels(spec.id).inc(usage.memoryBytes)
    }
  }

  /** No instance of it is here any more. */
  forget(service: ServiceId): void {
    const { usedCpu, usedMemory, throttled, oomKills, pressure } = this.#metrics
    for (const metric of [usedCpu, usedMemory, throttled, oomKills]) metric.remove(service)
    for (const resource of STALLS) pressure.remove(service, resource)
  }

  /** What each uses now; takes a moment where nobody has asked lately. */
  async measure(runs: readonly MeteredRun[], signal?: AbortSignal): Promise<InstanceUsage[]> {
    const first = await this.#read(runs)
    const isNew = first.filter(({ running, usage }) => this.#ratesOf(running, usage) === undefined)
    if (isNew.length > 0) await this.#clock.sleep(LEAST_SPAN_MS, signal)
    const again = new Map((await this.#read(isNew)).map((each) => [each.running, each]))
    return first.map((each) => {
      const { instance, spec, running, usage } = again.get(each.running) ?? each
      const { cpu, throttled } = this.#ratesOf(running, usage) ?? { cpu: 0, throttled: 0 }
      return {
        instance,
        cpu,
        memoryMb: usage.memoryBytes / 2 ** 20,
        ...(running.shortcoming === undefined ? heldLimits(spec) : {}),
        throttled,
        oomKills: usage.oomKills,
      }
    })
  }

  async #read<R extends MeteredRun>(runs: Iterable<R>): Promise<(R & { usage: Usage })[]> {
    const read = await Promise.all(
      Array.from(runs, async (run) => ({ ...run, usage: await run.running.usage?.().catch(() => undefined) })),
    )
    return read.filter((run): run is typeof run & { usage: Usage } => run.usage !== undefined)
  }

  /** `undefined` the first time. */
  #ratesOf(running: Running, usage: Usage): Rates | undefined {
    const now = this.#clock.now()
    const before = this.#samples.get(running)
    const ms = now - (before?.at ?? -Infinity)
    if (before !== undefined && ms < LEAST_SPAN_MS) return before.rates
    const rate = (key: 'cpuSeconds' | 'throttledSeconds') =>
      Math.max(0, usage[key] - (before?.usage[key] ?? 0)) / (ms / 1_000)
    const rates =
      before === undefined || ms > MOST_SPAN_MS
        ? undefined
        : { cpu: rate('cpuSeconds'), throttled: Math.min(1, rate('throttledSeconds')) }
    this.#samples.set(running, { at: now, usage, rates })
    return rates
  }
}

function heldLimits({ memoryMb, vcpus }: ServiceSpec): Pick<InstanceUsage, 'memoryLimitMb' | 'vcpuLimit'> {
  return { ...(memoryMb === 0 ? {} : { memoryLimitMb: memoryMb }), ...(vcpus === 0 ? {} : { vcpuLimit: vcpus }) }
}

export interface MeteredRun {
  instance: InstanceId
  spec: ServiceSpec
  running: Running
}
