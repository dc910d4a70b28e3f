import { readdirSync, readFileSync } from 'node:fs'
import { loadavg } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { TICKS_A_SECOND } from './proc.ts'
import type { Conditions } from './table.ts'

/**
 * Whether the machine is idle but for the benchmark: figures that were measured beside something else are told, never judged.
 *
 *     load average     only before the benchmark has begun: afterwards it is mostly the benchmark's own
 *     other processes  what all processors did in a second, without this process and those that it has started
 *     stolen           what a virtual machine's host gave to others in that second
 */
export interface Mood {
  /** The load average of the last minute. */
  readonly load: number
  /** Processors, as a mean over the look. */
  readonly others: number
  readonly stolen: number
}

const MAX_LOAD = 0.5
const MAX_OTHERS = 0.1
const LOOK_MS = 1_000
/** What ends within seconds, as a timer of systemd does, is waited for. */
const LOOKS = 3

/** Why figures would not count now; nothing when they do. */
export function whyBusy({ load, others, stolen }: Mood, isFirst: boolean): string | undefined {
  if (isFirst && load >= MAX_LOAD) return `the load average was ${load.toFixed(2)} before it began`
  if (others >= MAX_OTHERS) return `other processes use ${others.toFixed(2)} of a processor`
  if (stolen >= MAX_OTHERS) return `the host of this machine takes ${stolen.toFixed(2)} of a processor`
  return undefined
}

export function moodText({ load, others, stolen }: Mood): string {
  const host = stolen < 0.005 ? '' : `, ${stolen.toFixed(2)} stolen`
  return `load average ${load.toFixed(2)}, other processes ${others.toFixed(2)} of a processor${host}`
}

/** Looks before each scenario, and keeps what it saw for its rows. */
export class Watch implements Conditions {
  readonly busy = new Set<string>()
  readonly loads = new Map<string, number>()
  readonly #mayBeBusy: boolean
  #isFirst = true
  /** For as long as the benchmark runs: it began on a busy machine. */
  #busyFromTheStart: string | undefined

  private constructor(mayBeBusy: boolean) {
    this.#mayBeBusy = mayBeBusy
  }

  /** Before anything else is done: building makes a load of its own. With `mayBeBusy` all figures are judged. */
  static async start(mayBeBusy: boolean): Promise<{ watch: Watch; said: string }> {
    const watch = new Watch(mayBeBusy)
    return { watch, said: await watch.before([]) }
  }

  /** Before the figures for these measures; what to tell people. */
  async before(measures: readonly string[]): Promise<string> {
    const mood = await moodNow()
    const why = this.#busyFromTheStart ?? whyBusy(mood, this.#isFirst)
    if (this.#isFirst) this.#busyFromTheStart = why
    this.#isFirst = false
    for (const measure of measures) {
      this.loads.set(measure, Math.max(this.loads.get(measure) ?? 0, mood.load))
      if (why !== undefined && !this.#mayBeBusy) this.busy.add(measure)
    }
    const verdict = why === undefined ? '' : this.#mayBeBusy ? ` (busy: ${why})` : `: busy, not judged: ${why}`
    return `${moodText(mood)}${verdict}`
  }
}

/** Looks until the machine is idle, a few times at most. */
export async function moodNow(): Promise<Mood> {
  for (let left = LOOKS; ; left--) {
    const mood = await moodOverASecond()
    if (left <= 1 || whyBusy(mood, false) === undefined) return mood
  }
}

async function moodOverASecond(): Promise<Mood> {
  const before = { machine: machineTicks(readFileSync('/proc/stat', 'utf8')), own: ownTicks(), at: performance.now() }
  await sleep(LOOK_MS)
  const machine = machineTicks(readFileSync('/proc/stat', 'utf8'))
  const ticks = ((performance.now() - before.at) / 1_000) * TICKS_A_SECOND
  const busy = machine.busy - before.machine.busy
  const own = ownTicks()
  const ours = [...own].reduce((sum, [pid, used]) => sum + used - (before.own.get(pid) ?? 0), 0)
  return {
    load: loadavg()[0] ?? 0,
    others: Math.max(0, busy - ours) / ticks,
    stolen: (machine.stolen - before.machine.stolen) / ticks,
  }
}

/** proc(5): user, nice, system, idle, iowait, irq, softirq, steal; guests are in user. */
export function machineTicks(stat: string): { busy: number; stolen: number } {
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0, stolen = 0] = (/^cpu +(.*)$/m.exec(stat)?.[1] ?? '')
    .split(' ')
    .map(Number)
  return { busy: user + nice + system + irq + softirq, stolen }
}

/** What this process and its descendants have used, by process. */
function ownTicks(): Map<number, number> {
  const all = new Map<number, { parent: number; used: number }>()
  for (const pid of readdirSync('/proc').map(Number).filter(Boolean)) {
    const fields = statOf(pid)
    if (fields !== undefined) all.set(pid, { parent: Number(fields[1]), used: Number(fields[11]) + Number(fields[12]) })
  }
  return new Map([...all].filter(([pid]) => isOurs(pid, all)).map(([pid, { used }]) => [pid, used]))
}

function isOurs(pid: number, all: ReadonlyMap<number, { parent: number }>): boolean {
  for (let at: number | undefined = pid; at !== undefined; at = all.get(at)?.parent) if (at === process.pid) return true
  return false
}

/** The fields behind the name; nothing for a process that has ended. */
function statOf(pid: number): string[] | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  } catch {
    return undefined
  }
}
