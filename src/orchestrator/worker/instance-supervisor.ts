import { explain } from '../../core/errors.ts'
import { Backoff } from '../../core/kit/backoff.ts'
import type { Clock } from '../../core/kit/clock.ts'
import type { Log } from '../../core/kit/log.ts'
import { canBecome, type InstanceState } from '../../core/model/instance.ts'
import {
  isNewerRun,
  secretsOf,
  type Assignment,
  type InstanceReport,
  type SecretValue,
  type ServiceSpec,
} from '../spec.ts'
import type { InstanceLog } from './instance-log.ts'
import { afterTry, Deadline, jobBackoff } from './job.ts'
import type { KeptSecrets } from './kept-secrets.ts'
import { Liveness } from './liveness.ts'
import { watchReadiness } from './readiness.ts'
import type { Saved } from './records.ts'
import {
  endpointKey,
  type Ended,
  type Endpoint,
  type Endpoints,
  type Launch,
  type Running,
  type Runtime,
  type Trace,
} from './runtime.ts'
import type { Timings } from './timings.ts'
import type { MeteredRun, UsageMeter } from './usage.ts'

export interface InstanceSupervisorParts {
  runtime: Runtime
  output: InstanceLog
  clock: Clock
  timings: Timings
  log: Log
  environment: Readonly<Record<string, string>>
  /** Open flows to this run: draining ends at 0. Without it, draining takes its whole time. */
  openFlows?: (endpoints: Endpoints) => number
  report: (report: InstanceReport) => void
  save: (saved: Saved) => void
  onRestart: () => void
  meter: UsageMeter
  secrets: KeptSecrets
  /** An instance that must be started again after the agent was away waits for this: it may be wanted elsewhere by now. */
  mayStart: Promise<void>
  /** Resolves when the data side knows that it may begin to call. */
  admitted: () => Promise<void> | undefined
  /** Resolves when it has a lease, if it needs one. */
  leased: () => Promise<void> | undefined
}

/** What the calls of an instance are known by. */
export type Caller = { uid: number } | { address: string } | { pids: number[]; isWhole: boolean }

/** Where a service port is, and whether connections to it begin with a PROXY header. */
export interface AskedEndpoint extends Endpoint {
  proxyProtocol?: 'v2'
}

/** How often a service that hangs is started again here, before its cluster moves it to another node. */
const HUNG_RESTARTS = 3
const DRAIN_CHECK_MS = 50
/** A shorter wait is over before anybody reads of it, and costs two messages. */
const TOLD_FROM_MS = 1_000

/**
 * One instance on this node, from its assignment to its end. States follow NEXT; what the worker adds:
 *
 *     launch ─▶ starting ─▶ running ─▶ (ended) ─▶ starting, after a backoff, for ever
 *                                        └─ a job (job.ts): code 0 ─▶ stopped; else its retries, within its deadline ─▶ failed
 *     cannot be launched ─▶ failed, and the cluster decides          stop() ─▶ stopping (drains) ─▶ stopped
 */
export class InstanceSupervisor {
  #assignment: Assignment
  /** Aborted when the document has changed. */
  #changed = new AbortController()
  readonly #parts: InstanceSupervisorParts
  /** The ports whose program wants to be told who calls. */
  readonly #introduced: ReadonlyMap<string, 'v2'>
  readonly #backoff: Backoff
  /** Aborted when the instance is to stop, or is let go. */
  readonly #leave = new AbortController()
  readonly #left: Promise<undefined>
  /** Aborted when the agent ends: what an earlier one left and cannot be reached now is the next one's to end. */
  readonly #agentEnds = new AbortController()
  #isLetGo = false
  #drainUntil = Infinity
  #lingerUntil = -Infinity
  #state: InstanceState = 'placed'
  #detail: string | undefined
  #restarts = 0
  /** Of a job that has been started. */
  #deadline: Deadline | undefined
  /** How often in a row it hung. */
  #hangs = 0
  /** When it is started again, by the monotonic clock, while it waits for that. */
  #retryAt: number | undefined
  #endpoints: Endpoints = {}
  #trace: Trace | undefined
  #running: Running | undefined
  readonly #adoption = Promise.withResolvers<void>()
  /** Resolves when nothing more will happen: stopped, failed or let go. */
  readonly ended: Promise<void>

  private constructor(assignment: Assignment, parts: InstanceSupervisorParts, saved: Saved | undefined) {
    this.#assignment = assignment
    this.#parts = parts
    this.#introduced = new Map(
      assignment.spec.ports.flatMap((port) =>
        port.proxyProtocol === undefined ? [] : [[endpointKey(port), port.proxyProtocol] as const],
      ),
    )
    this.#backoff = new Backoff(jobBackoff(assignment.spec, parts.timings.backoff))
    if (saved !== undefined) {
      if (saved.beganAt !== undefined) this.#deadline = new Deadline(parts.clock, saved.beganAt)
      this.#restarts = saved.restarts
      this.#endpoints = saved.endpoints
    }
    this.#left = new Promise((resolve) => this.#leave.signal.addEventListener('abort', () => resolve(undefined)))
    this.ended = this.#live(saved).catch((error: unknown) => {
      parts.log.error('supervision of an instance failed', { instance: assignment.instance, error })
      if (canBecome(this.#state, 'failed')) this.#become('failed', explain(error))
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
    return this.#assignment
  }

  /** A newer document in which nothing needs a restart. */
  takeOver(assignment: Assignment): void {
    const isNewer = (assignment.revision ?? 0) > (this.#assignment.revision ?? 0)
    if (!isNewer && !isNewerRun(assignment, this.#assignment)) return
    this.#assignment = assignment
    if (!this.#isOver()) this.#deadline?.set(assignment.spec)
    this.#running?.adapt?.(assignment.spec)
    this.#save()
    const before = this.#changed
    this.#changed = new AbortController()
    before.abort()
  }

  get state(): InstanceState {
    return this.#state
  }

  report(): InstanceReport {
    const { instance, generation, revision, epoch = 0 } = this.assignment
    return {
      instance,
      generation,
      ...(revision === undefined ? {} : { revision }),
      epoch,
      state: this.#state,
      restarts: this.#restarts,
      ...(this.#retryAt === undefined ? {} : { retryInMs: this.#msUntil(this.#retryAt) }),
      ...(this.#detail === undefined ? {} : { detail: this.#detail.slice(0, 2_000) }),
      ...(this.#running?.pid === undefined ? {} : { pid: this.#running.pid }),
    }
  }

  saved(): Saved {
    const { assignment } = this
    const began = this.#deadline === undefined ? {} : { beganAt: this.#deadline.beganAt }
    const saved = { assignment, state: this.#state, restarts: this.#restarts, ...began, endpoints: this.#endpoints }
    return this.#trace === undefined ? saved : { ...saved, trace: this.#trace }
  }

  endpoint(port: number, protocol: 'tcp' | 'udp'): AskedEndpoint | undefined {
    const endpoint = this.#state === 'running' ? this.#endpoints[endpointKey({ port, protocol })] : undefined
    const proxyProtocol = endpoint && this.#introduced.get(endpointKey({ port, protocol }))
    return proxyProtocol === undefined ? endpoint : { ...(endpoint as Endpoint), proxyProtocol }
  }

  /** What its calls are known by: the user of its sockets or its address, from before its start to its end; or else its processes. */
  processes(): Caller | undefined {
    const { uid, address } = this.#trace ?? {}
    if (typeof uid === 'number') return { uid }
    if (typeof address === 'string') return { address }
    const pids = this.#running?.pids() ?? []
    return pids.length === 0 ? undefined : { pids, isWhole: this.#running?.isWhole === true }
  }

  /** What can be measured of it. */
  get metered(): MeteredRun | undefined {
    const { instance, spec } = this.#assignment
    return this.#running === undefined ? undefined : { instance, spec, running: this.#running }
  }

  /** Where it answers, or did while it ran. */
  get endpoints(): Endpoints {
    return this.#endpoints
  }

  /**
   * Stops it after its drain time; calling again can only shorten that. For `lingerMs` it stays even without open flows: new ones may
   * still be on their way to it.
   */
  stop(drainSeconds: number, lingerMs = 0): void {
    const { clock } = this.#parts
    if (lingerMs > 0) this.#lingerUntil = clock.now() + lingerMs
    this.#drainUntil = Math.min(this.#drainUntil, clock.now() + drainSeconds * 1000)
    if (this.#leave.signal.aborted) return
    this.#leave.abort()
    const wasRunning = this.#state === 'running'
    if (this.#state === 'failed') {
      this.#become('stopping', this.#detail)
      this.#become('stopped', this.#detail)
    } else if (this.#state !== 'stopped') this.#become('stopping', undefined)
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

  /** The agent ends and the instance stays, for the next one to adopt. */
  letGo(): void {
    this.#running?.letGo() // first: it may have something to write down
    this.#isLetGo = true
    this.#agentEnds.abort()
    this.#leave.abort()
  }

  async #live(saved: Saved | undefined): Promise<void> {
    const { signal } = this.#leave
    if (saved !== undefined && isSettled(saved)) {
      this.#state = saved.state
      this.#adoption.resolve()
      return this.#parts.report(this.report())
    }
    this.#deadline?.set(this.assignment.spec)
    let running = await this.#adopted(saved).finally(() => this.#adoption.resolve())
    if (saved !== undefined && running === undefined) {
      if (this.assignment.spec.oneShot && saved.trace !== undefined) {
        return this.#become('failed', 'it ended while the agent was down, so its result is not known')
      }
      await Promise.race([this.#parts.mayStart, this.#left])
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
        return this.#become('failed', this.#deadline.detail)
    }
    if (running !== undefined) await this.#end(running)
    else if (!this.#isLetGo) this.#become('stopped', undefined)
  }

  /** What waits for long says so: it ended again and again. */
  async #waitToRunAgain(ms: number): Promise<void> {
    const { clock, report } = this.#parts
    const isTold = ms >= TOLD_FROM_MS
    if (isTold) {
      this.#retryAt = clock.now() + ms
      report(this.report())
    }
    const { signal } = this.#leave
    await clock.sleep(ms, this.#deadline === undefined ? signal : AbortSignal.any([signal, this.#deadline.signal]))
    this.#retryAt = undefined
    if (isTold && !this.#leave.signal.aborted) report(this.report())
  }

  #msUntil(at: number): number {
    return Math.max(0, Math.round(at - this.#parts.clock.now()))
  }

  async #adopted(saved: Saved | undefined): Promise<Running | undefined> {
    if (saved?.trace === undefined) return undefined
    const running = await this.#parts.runtime.adopt({ ...this.#launch(), signal: this.#agentEnds.signal }, saved.trace)
    if (this.#leave.signal.aborted) return running // it was withdrawn meanwhile, and ends now
    if (running !== undefined && saved.state === 'running') {
      // it was ready, and counts as ready until a check says otherwise: callers notice nothing
      this.#running = running
      this.#state = 'running'
      this.#parts.report(this.report())
    } else this.#become('starting', 'adopted after a restart of the agent')
    if (running === undefined) this.#saveTrace(undefined)
    else {
      this.#parts.log.info('instance adopted', { instance: this.assignment.instance, pid: running.pid })
      await this.#parts.meter.adopted(running)
    }
    return running
  }

  async #launched(): Promise<Running | undefined> {
    this.#become('starting', this.#detail)
    const { spec } = this.assignment
    if (spec.oneShot && this.#deadline === undefined) {
      this.#deadline = new Deadline(this.#parts.clock)
      this.#deadline.set(spec)
    }
    try {
      const admitted = this.#parts.admitted()
      if (admitted !== undefined) {
        await Promise.race([admitted, this.#left])
        if (this.#leave.signal.aborted) {
          this.#become('stopped', undefined)
          return undefined
        }
      }
      const running = await this.#parts.runtime.launch(this.#launch())
      const { pid, shortcoming } = running
      this.#parts.output.note(pid === undefined ? 'started' : `started, process ${pid}`)
      if (shortcoming !== undefined) this.#parts.output.note(shortcoming)
      return running
    } catch (error) {
      this.#saveTrace(undefined)
      if (this.#leave.signal.aborted) this.#become('stopped', undefined)
      else {
        this.#parts.output.note(explain(error))
        this.#become('failed', explain(error))
      }
      return undefined
    }
  }

  #launch(): Launch {
    return {
      assignment: this.assignment,
      endpoints: this.#endpoints,
      environment: this.#parts.environment,
      output: () => this.#parts.output.output(),
      secrets: () => this.#secrets(),
      onTrace: (trace) => this.#saveTrace(trace),
      mayStart: async () => {
        await Promise.race([this.#parts.leased(), this.#left])
      },
      signal: this.#leave.signal,
    }
  }

  #secrets(): Promise<readonly SecretValue[]> {
    const { secrets, output } = this.#parts
    const { instance, spec } = this.assignment
    if (secretsOf(spec).length === 0) return Promise.resolve([])
    return secrets.of(instance, (sentence) => output.note(sentence), this.#leave.signal)
  }

  /** Watches until it ends by itself or hangs; `undefined` when it is to stop. */
  async #followed(running: Running): Promise<Ended | undefined> {
    const { clock, timings, log, meter } = this.#parts
    const { instance } = this.assignment
    const { signal } = this.#leave
    this.#running = running
    this.#endpoints = running.endpoints
    this.#saveTrace(this.#trace) // with the endpoints
    void running.ended.then(({ usage }) => usage && meter.count(this.assignment.spec.id, running, usage))
    const startedAt = clock.now()
    const watching = new AbortController()
    let goodUntil: number | undefined = startedAt // `undefined`: it is good
    using liveness = this.#watchLiveness(running)
    const onVerdict = (isReady: boolean, reason: string | undefined) => {
      if (signal.aborted) return
      goodUntil = isReady ? undefined : (goodUntil ?? clock.now())
      liveness?.answered(isReady)
      if (!isReady && this.#state === 'running') log.warn('instance does not answer', { instance, reason })
      this.#become(isReady ? 'running' : 'starting', reason)
    }
    const watch = watchReadiness(
      { now: () => this.#watched(), endpoints: running.endpoints, own: running.check, clock, onVerdict },
      AbortSignal.any([signal, watching.signal]),
    )
    const hung = liveness?.hangs.then((detail): Ended => ({ isHung: true, detail }))
    const overdue = this.#overdue(watching.signal)
    const ended = await Promise.race([running.ended, this.#left, ...[hung, overdue].filter((end) => end !== undefined)])
    watching.abort()
    await watch
    if (ended?.isHung === true || ended?.isOverdue === true) await running.stop(timings.graceMs)
    if (ended === undefined) return undefined
    this.#running = undefined
    if ((ended.isHung === true ? (goodUntil ?? clock.now()) : clock.now()) - startedAt >= timings.steadyMs) {
      this.#hangs = 0
      this.#backoff.reset()
    }
    if (ended.isHung === true) this.#hangs += 1
    return ended
  }

  /** When its deadline is over, unless the signal comes first; of a job. */
  #overdue(signal: AbortSignal): Promise<Ended> | undefined {
    const deadline = this.#deadline
    if (deadline === undefined) return undefined
    const ended = (): Ended => ({ isOverdue: true, detail: deadline.detail })
    if (deadline.signal.aborted) return Promise.resolve(ended())
    return new Promise((resolve) =>
      deadline.signal.addEventListener('abort', () => resolve(ended()), { once: true, signal }),
    )
  }

  /** What is checked, until `changed`. */
  #watched(): { spec: ServiceSpec; changed: AbortSignal } {
    return { spec: this.assignment.spec, changed: this.#changed.signal }
  }

  /** What runs outside the mesh is not ours to start again. */
  #watchLiveness({ endpoints }: Running): Liveness | undefined {
    const { clock, timings, runtime } = this.#parts
    if (runtime.name === 'external') return undefined
    return Liveness.begin({ now: () => this.#watched(), endpoints, clock, timings })
  }

  /** A service always, unless it keeps hanging; a job until it succeeded or has failed too often. */
  #mayRunAgain(ended: Ended): boolean {
    const { detail, isHung } = ended
    const { log, output, onRestart } = this.#parts
    const { instance, spec } = this.assignment
    output.note(detail)
    if (spec.oneShot) {
      const then = afterTry(spec, ended, this.#restarts)
      this.#trace = undefined // written together with what follows: a crash in between must not run it again
      if (then === 'succeeded') this.#becomeDone(detail)
      if (then === 'failed') this.#become('failed', detail)
      if (then !== 'again') return false
    } else this.#saveTrace(undefined)
    if (isHung === true && this.#hangs > HUNG_RESTARTS) {
      this.#become('failed', `${detail}, also after ${HUNG_RESTARTS} restarts`)
      return false
    }
    this.#restarts += 1
    if (spec.oneShot) this.#save()
    onRestart()
    log.warn('instance ended and is started again', { instance, reason: detail, restarts: this.#restarts })
    const isAgain = this.#state === 'starting' && this.#detail === detail // nothing but the number is new
    this.#become('starting', detail)
    if (isAgain) this.#parts.report(this.report())
    return true
  }

  /** A job may end before the first check. One record is written of both states: a crash in between must not run it again. */
  #becomeDone(detail: string): void {
    if (this.#state === 'starting') {
      this.#state = 'running'
      this.#parts.report(this.report())
    }
    this.#become('stopped', detail)
  }

  #isOver(): boolean {
    return this.#state === 'stopped' || this.#state === 'failed'
  }

  /** Open flows may finish; it gets no new ones, because it is `stopping`. */
  async #end(running: Running): Promise<void> {
    if (this.#isLetGo) return running.letGo()
    const { clock, openFlows, timings, output } = this.#parts
    let hasEnded = false
    void running.ended.then(() => (hasEnded = true))
    const isIdle = () => clock.now() >= this.#lingerUntil && openFlows?.(this.#endpoints) === 0
    const isDrained = () => this.#isLetGo || hasEnded || clock.now() >= this.#drainUntil || isIdle()
    while (!isDrained()) await clock.sleep(DRAIN_CHECK_MS)
    if (this.#isLetGo) return running.letGo()
    await running.stop(timings.graceMs)
    output.note('stopped')
    this.#running = undefined
    this.#saveTrace(undefined)
    this.#become('stopped', undefined)
  }

  #saveTrace(trace: Trace | undefined): void {
    this.#trace = trace
    this.#save()
  }

  #save(): void {
    if (this.#isLetGo) return // the record is the next agent's
    this.#parts.save(this.saved())
  }

  #become(state: InstanceState, detail: string | undefined): void {
    if (this.#isLetGo || (state === this.#state && detail === this.#detail)) return
    if (state !== this.#state && !canBecome(this.#state, state)) {
      throw new Error(`an instance that is ${this.#state} cannot become ${state}`)
    }
    const isNew = state !== this.#state
    this.#state = state
    this.#detail = detail
    if (isNew) {
      this.#save()
      this.#parts.log.info('instance changed', { instance: this.assignment.instance, state, reason: detail })
    }
    this.#parts.report(this.report())
  }
}

/** A job that has ended is not run again because the agent was restarted. */
function isSettled({ state, assignment }: Saved): boolean {
  return assignment.spec.oneShot && (state === 'stopped' || state === 'failed')
}
