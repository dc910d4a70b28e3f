import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { explain, MeshError } from '../../core/errors.ts'
import { onAbort } from '../../core/kit/abort.ts'
import type { Log } from '../../core/kit/log.ts'
import { bootId } from './process-group.ts'
import type { Saved } from './records.ts'
import type { Trace } from './runtime.ts'

/*
 * An instance with `lease_seconds` runs on for so long after its node last heard from its cluster, and then ends, whatever has become of
 * the agent: killed, stopped (SIGSTOP), or cut off. So its cluster knows when it surely no longer runs there.
 *
 *     agent: asks the cluster ─ answered ─▶ leases on disk: until when, and what of each ◀─ looks every second ─ guard (lease-guard.ts)
 *            starts nothing without a lease                                                 and ends what is past that
 *
 * Times are seconds since the machine was started (/proc/uptime): they go on in suspend, no clock that is set changes them, and they are
 * the same for agent and guard. They end with the machine, and so do leases. A lease counts from when the question was sent, which is
 * before the cluster took it.
 */

/** One program that may run until then. */
export interface Lease {
  /** Seconds of uptime. */
  until: number
  /** `lease_seconds` of its document. */
  seconds: number
  /** Of the start of the machine in which it counts. */
  boot: string
  trace: Trace
}

/** In the folder of instance records. */
export const LEASES_FILE = 'leases'

/** The first word of each line is for the guard, a shell; the rest for who ends the program. */
export function leasesText(leases: Iterable<Lease>): string {
  return Array.from(leases, (lease) => `${lease.until} ${JSON.stringify(lease)}\n`).join('')
}

/** A line that is damaged is left out. */
export function parseLeases(text: string): Lease[] {
  return text.split('\n').flatMap((line) => {
    try {
      const { until, seconds, boot, trace } = JSON.parse(line.slice(line.indexOf(' ') + 1)) as Partial<Lease>
      if (!Number.isInteger(until) || !Number.isFinite(seconds) || typeof trace !== 'object' || trace === null)
        return []
      // those of an earlier version have it with their process only
      return [{ until: until as number, seconds: seconds as number, boot: boot ?? String(trace['boot']), trace }]
    } catch {
      return []
    }
  })
}

export function readLeases(dir: string): Lease[] {
  try {
    return parseLeases(readFileSync(join(dir, LEASES_FILE), 'utf8'))
  } catch {
    return []
  }
}

/** Replaced as a whole; without any it is removed, and the guard ends. */
export function writeLeases(dir: string, leases: readonly Lease[]): void {
  const file = join(dir, LEASES_FILE)
  if (leases.length === 0) return rmSync(file, { force: true })
  writeFileSync(`${file}.new`, leasesText(leases), { mode: 0o600 })
  renameSync(`${file}.new`, file)
}

/** Seconds since the machine was started. @throws where there is no /proc */
export function uptimeSeconds(): number {
  return Number.parseFloat(readFileSync('/proc/uptime', 'latin1'))
}

export interface LeasesOptions {
  /** The folder of instance records. */
  dir: string
  log: Log
  /** From the first program on. */
  onHeld?: () => void
  uptime?: () => number
  boot?: string
}

/** The leases of this node’s agent. */
export class Leases {
  readonly #options: LeasesOptions
  readonly #uptime: () => number
  readonly #boot: string
  readonly #held = new Map<string, { seconds: number; trace: Trace }>()
  readonly #waiting = new Set<{ seconds: number; resolve: () => void }>()
  /** When the last question that was answered was sent; an earlier agent’s answers count. */
  #heardAt: number
  #isWritten = true
  /** Runs whose lease is on disk, so that the guard knows of them. */
  #guarded = new Set<string>()

  constructor(options: LeasesOptions) {
    this.#options = options
    this.#uptime = options.uptime ?? uptimeSeconds
    this.#boot = options.boot ?? bootId()
    const left = readLeases(options.dir).filter(({ boot }) => boot === this.#boot)
    for (const { seconds, trace } of left) this.#held.set(leftKey(trace), { seconds, trace })
    this.#guarded = new Set(left.map(({ trace }) => nameOf(trace)))
    this.#heardAt = Math.max(Number.NEGATIVE_INFINITY, ...left.map(({ until, seconds }) => until - seconds))
  }

  /** To be given to `renewed` when the question that is sent now has been answered. */
  now(): number {
    return this.#uptime()
  }

  /** The cluster has answered what was sent then. */
  renewed(sentAt: number): void {
    if (sentAt <= this.#heardAt) return
    this.#heardAt = sentAt
    this.#write()
    for (const { seconds, resolve } of this.#waiting) if (this.#isValid(seconds)) resolve()
  }

  /** Resolves once something with such a lease may be started, or the signal aborts; `undefined`: it may be now. */
  valid(seconds: number, signal: AbortSignal): Promise<void> | undefined {
    if (this.#isValid(seconds)) return undefined
    const { promise, resolve } = Promise.withResolvers<void>()
    const waits = { seconds, resolve }
    this.#waiting.add(waits)
    const listener = onAbort(signal, () => resolve())
    return promise.finally(() => {
      this.#waiting.delete(waits)
      listener[Symbol.dispose]()
    })
  }

  /** The shortest of those that are there or wait; `undefined` when there are none. */
  get shortest(): number | undefined {
    const all = [...this.#held.values(), ...this.#waiting].map(({ seconds }) => seconds)
    return all.length === 0 ? undefined : Math.min(...all)
  }

  /**
   * What is known of a run now: with a trace it is there, or about to be.
   * @throws MeshError RUNTIME_FAILED for one that is about to be, and of which the guard would not know
   */
  note(run: string, { assignment, trace }: Saved): void {
    const seconds = assignment.spec.leaseSeconds
    if (seconds === undefined) return
    if (trace === undefined) {
      if (!this.#held.delete(run)) return
    } else {
      this.#held.delete(leftKey(trace))
      this.#held.set(run, { seconds, trace })
    }
    const fault = this.#write()
    if (trace === undefined) return
    if (fault !== undefined && !this.#guarded.has(nameOf(trace)))
      throw new MeshError('RUNTIME_FAILED', { reason: `its lease cannot be written: ${explain(fault)}` })
    this.#options.onHeld?.()
  }

  /** What an earlier agent left is adopted, or gone. */
  restored(): void {
    const left = [...this.#held.keys()].filter((key) => key.startsWith(LEFT))
    if (left.length === 0) return
    for (const key of left) this.#held.delete(key)
    this.#write()
  }

  #isValid(seconds: number): boolean {
    return this.#uptime() < this.#heardAt + seconds
  }

  /** A disk that takes nothing leaves the former leases, which end sooner: never too late. Returns what it said. */
  #write(): unknown {
    const leases = Array.from(this.#held.values(), ({ seconds, trace }) => ({
      until: Math.floor(Math.max(0, this.#heardAt + seconds)),
      seconds,
      boot: this.#boot,
      trace,
    }))
    try {
      writeLeases(this.#options.dir, leases)
      this.#isWritten = true
      this.#guarded = new Set(leases.map(({ trace }) => nameOf(trace)))
      return undefined
    } catch (error) {
      if (this.#isWritten) this.#options.log.warn('leases of instances cannot be written', { error })
      this.#isWritten = false
      return error
    }
  }
}

const LEFT = 'left '

function leftKey(trace: Trace): string {
  return `${LEFT}${nameOf(trace)}`
}

function nameOf({ run }: Trace): string {
  return String(run)
}
