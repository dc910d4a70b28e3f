import { explain } from '../../core/errors.ts'
import { orAborted } from '../../core/kit/abort.ts'
import { Backoff } from '../../core/kit/backoff.ts'
import { canBecome, type InstanceState } from '../../core/model/instance.ts'
import { isNewerRun, type Assignment, type InstanceReport } from '../spec.ts'
import { followRun } from './follow-run.ts'
import { afterTry, Deadline, jobBackoff } from './job.ts'
import { launchOf, launchRun } from './launch-run.ts'
import type { Saved } from './records.ts'
import { endpointKey, type Ended, type Endpoints, type Running } from './runtime.ts'
import { Standing } from './standing.ts'
import { callerOf, type AskedEndpoint, type Caller, type InstanceSupervisorParts } from './supervisor-parts.ts'
import type { MeteredRun } from './usage.ts'

/** How often a service that hangs is started again here, before its cluster moves it to another node. */
const HUNG_RESTARTS = 3
const DRAIN_CHECK_MS = 50
/** A shorter wait is over before anybody reads of it, and costs two messages. */
const TOLD_FROM_MS = 1_000
/** What is being stopped while the agent ends: most end by themselves within it, and their engine removes them. Larger holds up the end of the agent. */
const LAST_MOMENT_MS = 2_000

/**
 * One run of an instance on this node, from its assignment to its end. States follow NEXT; what the worker adds:
 *
 *     launch ─▶ starting ─▶ running ─▶ (ended) ─▶ starting, after a backoff, for ever
 *                                        └─ a job (job.ts): code 0 ─▶ stopped; else its retries, within its deadline ─▶ failed
 *     cannot be launched ─▶ failed, and the cluster decides          stop() ─▶ stopping (drains) ─▶ stopped
 */
export class InstanceSupervisor {
  readonly #standing: Standing
  /** Aborted when the document has changed. */
  #changed = new AbortController()
  readonly #parts: InstanceSupervisorParts
  /** The ports whose program wants to be told who calls. */
  readonly #introduced: ReadonlyMap<string, 'v2'>
  readonly #backoff: Backoff
  /** Aborted when the instance is to stop, or is let go. */
  readonly #leave = new AbortController()
  /** Aborted when the agent ends: what an earlier one left and cannot be reached now is the next one's to end. */
  readonly #agentEnds = new AbortController()
  /** Aborted when it is let go: from then on its end is not waited for. */
  readonly #letGo = new AbortController()
  #isBeingStopped = false
  #drainUntil = Infinity
  #lingerUntil = -Infinity
  /** Of a job that has been started. */
  #deadline: Deadline | undefined
  /** How often in a row it hung. */
  #hangs = 0
  /** Why it ended last, until it is ready again. */
  #lastEnd: string | undefined
  #running: Running | undefined
  readonly #adoption = Promise.withResolvers<void>()
  /** Resolves when nothing more will happen: stopped, failed or let go. */
  readonly ended: Promise<void>

  private constructor(assignment: Assignment, parts: InstanceSupervisorParts, saved: Saved | undefined) {
    this.#standing = new Standing(assignment, parts, saved)
    this.#parts = parts
    this.#introduced = new Map(
      assignment.spec.ports.flatMap((port) =>
        port.proxyProtocol === undefined ? [] : [[endpointKey(port), port.proxyProtocol] as const],
      ),
    )
    this.#backoff = new Backoff(jobBackoff(assignment.spec, parts.timings.backoff))
    if (saved?.beganAt !== undefined) this.#deadline = new Deadline(parts.clock, saved.beganAt)
    this.ended = this.#live(saved).catch((error: unknown) => {
      parts.log.error('supervision of an instance failed', { instance: assignment.instance, error })
      if (canBecome(this.state, 'failed')) this.#standing.become('failed', explain(error))
    })
    void this.ended.then(() => this.#deadline?.[Symbol.dispose]())
  }

  /** `saved`: what an earlier agent knew of it. */
  static begin(assignment: Assignment, parts: InstanceSupervisorParts, saved?: Saved): InstanceSupervisor {
    return new InstanceSupervisor(assignment, parts, saved)
  }

  /** Resolves when what an earlier agent left of it is adopted, or known to be gone. */
  get adopted(): Promise<void> {
    return this.#adoption.promise
  }

  get assignment(): Assignment {
    return this.#standing.assignment
  }

  get state(): InstanceState {
    return this.#standing.state
  }

  report(): InstanceReport {
    return this.#standing.report()
  }

  saved(): Saved {
    return this.#standing.saved()
  }

  /** A newer document in which nothing needs a restart. */
  takeOver(assignment: Assignment): void {
    const isNewer = (assignment.revision ?? 0) > (this.assignment.revision ?? 0)
    if (!isNewer && !isNewerRun(assignment, this.assignment)) return
    if (!this.#standing.isOver) this.#deadline?.set(assignment.spec)
    this.#running?.adapt?.(assignment.spec)
    this.#standing.takeOver(assignment)
    const before = this.#changed
    this.#changed = new AbortController()
    before.abort()
  }

  endpoint(port: number, protocol: 'tcp' | 'udp'): AskedEndpoint | undefined {
    const key = endpointKey({ port, protocol })
    const endpoint = this.state === 'running' ? this.endpoints[key] : undefined
    const proxyProtocol = endpoint && this.#introduced.get(key)
    return endpoint === undefined || proxyProtocol === undefined ? endpoint : { ...endpoint, proxyProtocol }
  }

  /** What its calls are known by: the user of its sockets or its address, from before its start to its end; or else its processes. */
  processes(): Caller | undefined {
    return callerOf(this.#standing.trace, this.#running)
  }

  /** What can be measured of it. */
  get metered(): MeteredRun | undefined {
    const { instance, spec } = this.assignment
    return this.#running === undefined ? undefined : { instance, spec, running: this.#running }
  }

  /** Where it answers, or did while it ran. */
  get endpoints(): Endpoints {
    return this.#standing.endpoints
  }

  /**
   * Stops it after its drain time; calling again can only shorten that. For `lingerMs` it stays even without open flows: new ones may
   * still be on their way to it.
   */
  stop(drainSeconds: number, lingerMs = 0): void {
    const { clock } = this.#parts
    const standing = this.#standing
    if (lingerMs > 0) this.#lingerUntil = clock.now() + lingerMs
    this.#drainUntil = Math.min(this.#drainUntil, clock.now() + drainSeconds * 1000)
    if (this.#leave.signal.aborted) return
    this.#leave.abort()
    const wasRunning = this.state === 'running'
    if (this.state === 'failed') {
      standing.become('stopping', standing.detail)
      standing.become('stopped', standing.detail)
    } else if (this.state !== 'stopped') standing.become('stopping', undefined)
    if (!wasRunning) this.#drainUntil = clock.now()
  }

  /** Stops it at once, because the agent ends. */
  stopWithAgent(): void {
    this.#agentEnds.abort()
    this.stop(0)
  }

  /** The agent ends at once. */
  kill(): void {
    this.#running?.kill()
  }

  /** The agent ends and the instance stays, for the next one to adopt. One that is being stopped has a moment more to end. */
  letGo(): void {
    if (!this.#isBeingStopped) this.#running?.letGo() // first: it may have something to write down
    this.#standing.letGo()
    this.#letGo.abort()
    this.#agentEnds.abort()
    this.#leave.abort()
  }

  async #live(saved: Saved | undefined): Promise<void> {
    const { signal } = this.#leave
    const standing = this.#standing
    if (saved !== undefined && isSettled(saved)) {
      standing.resume(saved.state)
      this.#adoption.resolve()
      return standing.sendReport()
    }
    this.#deadline?.set(this.assignment.spec)
    let running = await this.#adopted(saved).finally(() => this.#adoption.resolve())
    if (saved !== undefined && running === undefined) {
      if (this.assignment.spec.oneShot && saved.trace !== undefined) {
        return standing.become('failed', 'it ended while the agent was down, so its result is not known')
      }
      await orAborted(this.#parts.mayStart, signal)
    }
    while (!signal.aborted) {
      running ??= await this.#launched()
      if (running === undefined) return
      const ended = await this.#followed(running)
      if (ended === undefined || signal.aborted) break
      running = undefined
      if (!this.#mayRunAgain(ended)) return
      await this.#waitToRunAgain(this.#backoff.nextMs())
      if (this.#deadline?.signal.aborted === true && !signal.aborted)
        return standing.become('failed', this.#deadline.detail)
    }
    if (running !== undefined) await this.#end(running)
    else if (!standing.isLetGo) standing.become('stopped', undefined)
  }

  /** What waits for long says so: it ended again and again. */
  async #waitToRunAgain(ms: number): Promise<void> {
    const { clock } = this.#parts
    const { signal } = this.#leave
    const isTold = ms >= TOLD_FROM_MS
    if (isTold) {
      this.#standing.waitsUntil(clock.now() + ms)
      this.#standing.sendReport()
    }
    await clock.sleep(ms, this.#deadline === undefined ? signal : AbortSignal.any([signal, this.#deadline.signal]))
    this.#standing.waitsUntil(undefined)
    if (isTold && !signal.aborted) this.#standing.sendReport()
  }

  async #adopted(saved: Saved | undefined): Promise<Running | undefined> {
    if (saved?.trace === undefined) return undefined
    const running = await this.#parts.runtime.adopt(
      launchOf(this.#standing, this.#parts, this.#agentEnds.signal),
      saved.trace,
    )
    if (this.#leave.signal.aborted) return running // it was withdrawn meanwhile, and ends now
    if (running !== undefined && saved.state === 'running') {
      // it was ready, and counts as ready until a check says otherwise: callers notice nothing
      this.#runs(running)
      this.#standing.resume('running')
      this.#standing.sendReport()
    } else this.#standing.become('starting', 'adopted after a restart of the agent')
    if (running === undefined) this.#standing.saveRun({ trace: undefined })
    else {
      this.#parts.log.info('instance adopted', { instance: this.assignment.instance, pid: running.pid })
      await this.#parts.meter.adopted(running)
    }
    return running
  }

  #launched(): Promise<Running | undefined> {
    const standing = this.#standing
    standing.become('starting', standing.detail)
    const { spec } = this.assignment
    if (spec.oneShot && this.#deadline === undefined) {
      this.#deadline = new Deadline(this.#parts.clock)
      this.#deadline.set(spec)
      standing.beganAt = this.#deadline.beganAt
    }
    return launchRun(standing, this.#parts, this.#leave.signal)
  }

  #runs(running: Running | undefined): void {
    this.#running = running
    this.#standing.pid = running?.pid
  }

  /** Watches until it ends by itself or hangs; `undefined` when it is to stop. */
  async #followed(running: Running): Promise<Ended | undefined> {
    const { clock, timings, log, meter, runtime } = this.#parts
    const { instance } = this.assignment
    const standing = this.#standing
    this.#runs(running)
    standing.saveRun({ trace: standing.trace, endpoints: running.endpoints })
    void running.ended.then(({ usage }) => usage && meter.count(this.assignment.spec.id, running, usage))
    const end = await followRun(
      {
        running,
        now: () => ({ spec: this.assignment.spec, changed: this.#changed.signal }),
        deadline: this.#deadline,
        mayHang: runtime.name !== 'external',
        onVerdict: (isReady, reason) => {
          if (!isReady && this.state === 'running') log.warn('instance does not answer', { instance, reason })
          if (isReady) this.#lastEnd = undefined
          standing.become(isReady ? 'running' : 'starting', reason && withLastEnd(reason, this.#lastEnd))
        },
        clock,
        timings,
        letGo: this.#letGo.signal,
      },
      this.#leave.signal,
    )
    if (end === undefined) return undefined
    this.#runs(undefined)
    if (end.ranWell) {
      this.#hangs = 0
      this.#backoff.reset()
    }
    if (end.ended.isHung === true) this.#hangs += 1
    return end.ended
  }

  /** A service always, unless it keeps hanging; a job until it succeeded or has failed too often. */
  #mayRunAgain(ended: Ended): boolean {
    const { detail, isHung } = ended
    const { log, output, onRestart } = this.#parts
    const { instance, spec } = this.assignment
    const standing = this.#standing
    output.note(detail)
    if (spec.oneShot) {
      const then = afterTry(spec, ended, standing.restarts)
      standing.forgetRun()
      if (then === 'succeeded') standing.becomeDone(detail)
      if (then === 'failed') standing.become('failed', detail)
      if (then !== 'again') return false
    } else standing.saveRun({ trace: undefined })
    if (isHung === true && this.#hangs > HUNG_RESTARTS) {
      standing.become('failed', `${detail}, also after ${HUNG_RESTARTS} restarts`)
      return false
    }
    onRestart()
    this.#lastEnd = detail
    standing.restart(detail)
    log.warn('instance ended and is started again', { instance, reason: detail, restarts: standing.restarts })
    return true
  }

  /** Open flows may finish; it gets no new ones, because it is `stopping`. */
  async #end(running: Running): Promise<void> {
    const standing = this.#standing
    if (standing.isLetGo) return running.letGo()
    const { clock, openFlows, timings, output } = this.#parts
    let hasEnded = false
    void running.ended.then(() => (hasEnded = true))
    const isIdle = () => clock.now() >= this.#lingerUntil && openFlows?.(this.endpoints) === 0
    const isDrained = () => standing.isLetGo || hasEnded || clock.now() >= this.#drainUntil || isIdle()
    while (!isDrained()) await clock.sleep(DRAIN_CHECK_MS)
    if (standing.isLetGo) return running.letGo()
    this.#isBeingStopped = true
    const stopped = running.stop(timings.graceMs)
    await orAborted(stopped, this.#letGo.signal)
    if (standing.isLetGo && !hasEnded) {
      await Promise.race([stopped, clock.sleep(LAST_MOMENT_MS)])
      if (!hasEnded) return running.letGo() // the next agent stops it
    }
    output.note('stopped')
    this.#runs(undefined)
    standing.saveRun({ trace: undefined })
    standing.become('stopped', undefined)
  }
}

/** `connect ECONNREFUSED 127.0.0.1:30953; before that: exited with code 1`: what ends each time says more than that it has not begun yet. */
function withLastEnd(reason: string, lastEnd: string | undefined): string {
  return lastEnd === undefined ? reason : `${reason}; before that: ${lastEnd}`
}

/** A job that has ended is not run again because the agent was restarted. */
function isSettled({ state, assignment }: Saved): boolean {
  return assignment.spec.oneShot && (state === 'stopped' || state === 'failed')
}
