import { effectOf } from '../sla/changes.ts'
import { isNewerRun, isSameRun, type Assignment, type InstanceReport, type Replacement, type RunKey } from '../spec.ts'
import type { InstanceLog } from './instance-log.ts'
import type { InstanceSupervisor } from './instance-supervisor.ts'
import type { Saved } from './records.ts'
import type { Endpoint, Endpoints } from './runtime.ts'
import type { RunEvents, RunTag, SlotParts } from './slot-parts.ts'
import type { AskedEndpoint } from './supervisor-parts.ts'

/** One run of the instance. */
interface Run {
  tag: RunTag
  role: 'serving' | 'successor' | 'leaving'
  supervisor: InstanceSupervisor
}

/**
 * A run that was replaced goes on taking flows for this long: dials that have just been sent there, and the rows of the kernel. Smaller
 * refuses some of them; larger delays each replacement.
 */
const LINGER_MS = 500
/** Runs that drain at the same time: before one more begins to, the oldest ends. */
const MOST_LEAVING = 4

/**
 * One instance number on this node, and its runs:
 *
 *     serving ◀── ready, or the serving one has failed ── successor       stop-first: serving ─▶ stopped ─▶ `next` serves
 *        └── replaced ─▶ leaving: lingers, drains, stopped                withdraw: all of them leave
 */
export class Slot {
  readonly output: InstanceLog
  readonly #parts: SlotParts
  #serving: Run
  #successor: Run | undefined
  readonly #leaving = new Set<Run>()
  /** The serving run ends, and with it the instance here, or `#next` begins. */
  #isEnding = false
  #hasEnded = false
  #next: Assignment | undefined
  #lastTag = 0

  constructor(assignment: Assignment, parts: SlotParts, saved?: Saved) {
    this.#parts = parts
    this.output = parts.output
    this.#serving = this.#begin(assignment, 'serving', saved)
  }

  get serving(): InstanceSupervisor {
    return this.#serving.supervisor
  }

  /** Those that take room on the node. */
  assignments(): Assignment[] {
    const runs = this.#runs().filter(({ role, supervisor }) => role !== 'leaving' && supervisor.state !== 'stopped')
    return runs.map(({ supervisor }) => supervisor.assignment)
  }

  supervisors(): InstanceSupervisor[] {
    return this.#runs().map(({ supervisor }) => supervisor)
  }

  /** Whether what is assigned would be the second of two runs for a while. */
  startsBeside(assignment: Assignment, how: Replacement): boolean {
    if (how !== 'beside' || this.#isEnding || this.serving.state === 'failed') return false
    return isNewerRun(assignment, this.serving.assignment) && !this.#continues(assignment)
  }

  /** This run, or a newer one, is here and stays. */
  has(assignment: Assignment): boolean {
    return !this.#isEnding && !isNewerRun(assignment, this.#newest())
  }

  report(): InstanceReport {
    const report = this.serving.report()
    const next = this.#successor?.supervisor.report()
    if (next === undefined) return report
    const { generation, epoch, state, detail, restarts } = next
    const successor = {
      generation,
      state,
      restarts,
      ...(epoch === undefined ? {} : { epoch }),
      ...(detail === undefined ? {} : { detail }),
    }
    return { ...report, successor }
  }

  endpoint(port: number, protocol: 'tcp' | 'udp'): AskedEndpoint | undefined {
    return this.serving.endpoint(port, protocol)
  }

  /** No new flow may begin there, open ones go on. */
  isDraining(at?: Endpoint): boolean {
    if (this.serving.state === 'stopping') return true
    return at !== undefined && [...this.#leaving].some(({ supervisor }) => isAt(supervisor.endpoints, at))
  }

  /** What was assigned while the last run ended, and begins when that is done. */
  get next(): Assignment | undefined {
    return this.#next
  }

  /** A run that an earlier agent left beside the one that serves; `drainSeconds` is for one that was replaced. */
  restore(saved: Saved, tag: RunTag, drainSeconds: number | undefined): void {
    const isNewer = isNewerRun(saved.assignment, this.serving.assignment)
    const isSuccessor = isNewer && saved.state !== 'stopping' && this.#successor === undefined && !this.#isEnding
    const run = this.#begin(saved.assignment, isSuccessor ? 'successor' : 'leaving', saved, tag)
    if (isSuccessor) this.#successor = run
    else this.#leave(run, drainSeconds ?? saved.assignment.spec.drainSeconds)
  }

  /** Takes what is assigned: anew, in place of an earlier run, or over while it runs. What is older than what is there is not taken. */
  assign(assignment: Assignment, how: Replacement): void {
    if (this.#isEnding) {
      if (!isNewerRun(this.#next ?? this.serving.assignment, assignment)) this.#next = assignment
      return
    }
    if (isNewerRun(this.#newest(), assignment)) return
    const successor = this.#successor
    if (successor !== undefined && isSameRun(assignment, successor.supervisor.assignment)) {
      if (successor.supervisor.state === 'failed') this.#succeedBy(assignment)
      else successor.supervisor.takeOver(assignment)
      return this.#parts.report(this.report())
    }
    const isOver = this.serving.assignment.spec.oneShot && isSameRun(assignment, this.serving.assignment)
    if (this.serving.state === 'failed' && !isOver) {
      this.#cancelSuccessor()
      this.#serving = this.#begin(assignment, 'serving')
      return
    }
    if (this.#continues(assignment)) {
      this.#cancelSuccessor()
      this.serving.takeOver(assignment)
      return this.#parts.report(this.report())
    }
    if (how === 'beside') return this.#succeedBy(assignment)
    this.#cancelSuccessor()
    this.#next = assignment
    this.#end(this.serving.assignment.spec.drainSeconds)
  }

  /** Ends the successor, if it is this run. */
  cancel(run: RunKey): void {
    const successor = this.#successor
    if (successor === undefined || !isSameRun(run, successor.supervisor.assignment)) return
    this.#cancelSuccessor()
    this.#parts.report(this.report())
  }

  /** Ends every run; what drains has `drainSeconds` left at most. */
  withdraw(drainSeconds?: number): void {
    this.#next = undefined
    this.#cancelSuccessor()
    for (const run of this.#leaving) run.supervisor.stop(drainSeconds ?? run.supervisor.assignment.spec.drainSeconds)
    this.#end(drainSeconds ?? this.serving.assignment.spec.drainSeconds)
  }

  /** The agent ends: the next one finds what serves, and (`isKept`) all that runs. */
  async close({ isKept, wait }: { isKept: boolean; wait: (ended: Promise<void>) => Promise<void> }): Promise<void> {
    await Promise.all(
      this.#runs().map(async (run) => {
        const { supervisor, role } = run
        const { trace: _, ...saved } = supervisor.saved()
        const isSettled = saved.state === 'stopped' || saved.state === 'failed'
        if (isKept) supervisor.letGo()
        else if (!isSettled) supervisor.stopWithAgent()
        await wait(supervisor.ended)
        if (isKept || isSettled) return
        // one that was being stopped is stopped by the next agent too
        if (role === 'successor') this.#parts.drop(run.tag)
        else if (role === 'serving' && !this.#isEnding)
          this.#parts.save(
            { ...saved, state: 'placed', restarts: saved.assignment.spec.oneShot ? saved.restarts : 0 },
            '',
          )
      }),
    )
    await this.output[Symbol.asyncDispose]()
  }

  /** The serving run may go on with it: it has the same content, whatever was tried meanwhile. */
  #continues(assignment: Assignment): boolean {
    const { epoch = 0, spec, generation } = this.serving.assignment
    if (isSameRun(assignment, this.serving.assignment)) return true
    if (spec.oneShot) return false // each generation is a run of its own
    if (generation === assignment.generation || epoch !== (assignment.epoch ?? 0)) return false
    return effectOf(spec, assignment.spec) !== 'restart'
  }

  #newest(): Assignment {
    return this.#next ?? this.#successor?.supervisor.assignment ?? this.serving.assignment
  }

  #runs(): Run[] {
    return [this.#serving, ...(this.#successor === undefined ? [] : [this.#successor]), ...this.#leaving]
  }

  #begin(assignment: Assignment, role: Run['role'], saved?: Saved, tag: RunTag = ''): Run {
    const run = { role, tag: role === 'serving' ? '' : tag === '' ? this.#freshTag() : tag } as Run
    const events: RunEvents = {
      report: (report) => this.#reported(run, report),
      save: (saved) => this.#parts.save(saved, run.tag),
      drains: (endpoints) => (run.role === 'leaving' ? Object.values(endpoints) : undefined),
    }
    run.supervisor = this.#parts.begin(assignment, events, saved)
    return run
  }

  /** Unlike every tag in use, and short: it becomes part of a file name. */
  #freshTag(): RunTag {
    this.#lastTag += 1
    return `${this.#parts.clock.wall().toString(36)}${this.#lastTag.toString(36)}`
  }

  #succeedBy(assignment: Assignment): void {
    this.#cancelSuccessor()
    this.#successor = this.#begin(assignment, 'successor')
    this.#parts.report(this.report())
  }

  #cancelSuccessor(): void {
    const run = this.#successor
    this.#successor = undefined
    if (run !== undefined) this.#leave(run, 0)
  }

  #reported(run: Run, report: InstanceReport): void {
    switch (run.role) {
      case 'leaving':
        return
      case 'successor':
        if (run !== this.#successor) return // it has not begun yet
        if (report.state === 'running') return this.#promote(run)
        return this.#parts.report(this.report())
      case 'serving':
        if (run !== this.#serving) return this.#parts.report(report)
        if (report.state === 'failed' && this.#successor !== undefined) return this.#promote(this.#successor)
        return this.#parts.report(this.report())
      default:
        run.role satisfies never
    }
  }

  /** From this moment new flows go to the successor. After a crash in between, one of the two records of a run is found to be double. */
  #promote(successor: Run): void {
    const { log, instance, save, drop, report } = this.#parts
    const before = this.#serving
    before.tag = this.#freshTag()
    save(before.supervisor.saved(), before.tag)
    const { tag } = successor
    successor.role = 'serving'
    successor.tag = ''
    save(successor.supervisor.saved(), '')
    drop(tag)
    this.#serving = successor
    this.#successor = undefined
    log.info('instance replaced', { instance, state: successor.supervisor.state })
    this.#leave(before, Math.max(before.supervisor.assignment.spec.drainSeconds, LINGER_MS / 1_000), LINGER_MS)
    report(this.report())
  }

  #leave(run: Run, drainSeconds: number, lingerMs = 0): void {
    run.role = 'leaving'
    this.#leaving.add(run)
    const [oldest] = this.#leaving
    if (this.#leaving.size > MOST_LEAVING && oldest !== run) oldest?.supervisor.stop(0)
    run.supervisor.stop(drainSeconds, lingerMs)
    void run.supervisor.ended.then(() => {
      if (run.supervisor.state === 'stopped') this.#parts.drop(run.tag)
      if (this.#parts.isClosed()) return
      this.#leaving.delete(run)
      this.#settle()
    })
  }

  #end(drainSeconds: number): void {
    this.serving.stop(drainSeconds)
    if (this.#isEnding) return
    this.#isEnding = true
    const { serving } = this
    void serving.ended.then(() => {
      if (this.#parts.isClosed()) {
        if (serving.state === 'stopped') this.#parts.drop('')
        return
      }
      this.#hasEnded = true
      this.#settle()
    })
  }

  /** Once the serving run has ended, and with nothing to follow the others too: the next one begins, or nothing is left. */
  #settle(): void {
    if (!this.#hasEnded) return
    const next = this.#next
    if (next === undefined) {
      if (this.#leaving.size === 0) this.#parts.ended()
      return
    }
    this.#next = undefined
    this.#isEnding = false
    this.#hasEnded = false
    this.#serving = this.#begin(next, 'serving')
  }
}

function isAt(endpoints: Endpoints, { host, port }: Endpoint): boolean {
  return Object.values(endpoints).some((endpoint) => endpoint.host === host && endpoint.port === port)
}
