import { canBecome, type InstanceState } from '../../core/model/instance.ts'
import type { Assignment, InstanceReport } from '../spec.ts'
import type { Saved } from './records.ts'
import type { Endpoints, Trace } from './runtime.ts'
import type { InstanceSupervisorParts } from './supervisor-parts.ts'

type StandingParts = Pick<InstanceSupervisorParts, 'clock' | 'log' | 'report' | 'save'>

/**
 * Where one run of an instance stands: its state, by NEXT (core/model/instance.ts), and what the next agent must know of it. A new state is on
 * disk before it is reported; what is only a new reason is reported alone.
 */
export class Standing {
  readonly #parts: StandingParts
  #assignment: Assignment
  #state: InstanceState = 'placed'
  #detail: string | undefined
  #restarts = 0
  #endpoints: Endpoints = {}
  #trace: Trace | undefined
  #isLetGo = false
  /** When it is started again, by the monotonic clock, while it waits for that. */
  #retryAt: number | undefined
  /** Of a job: when it was started first, milliseconds since 1970. */
  beganAt: number | undefined
  /** Of the program that runs now. */
  pid: number | undefined

  /** `saved`: what an earlier agent knew of it. */
  constructor(assignment: Assignment, parts: StandingParts, saved?: Saved) {
    this.#assignment = assignment
    this.#parts = parts
    if (saved === undefined) return
    this.#restarts = saved.restarts
    this.#endpoints = saved.endpoints
    this.beganAt = saved.beganAt
  }

  get assignment(): Assignment {
    return this.#assignment
  }

  get state(): InstanceState {
    return this.#state
  }

  get detail(): string | undefined {
    return this.#detail
  }

  get restarts(): number {
    return this.#restarts
  }

  /** Where it answers, or did while it ran. */
  get endpoints(): Endpoints {
    return this.#endpoints
  }

  get trace(): Trace | undefined {
    return this.#trace
  }

  /** It is the next agent's from here on: its record too. */
  get isLetGo(): boolean {
    return this.#isLetGo
  }

  /** Nothing more will happen by itself. */
  get isOver(): boolean {
    return this.#state === 'stopped' || this.#state === 'failed'
  }

  letGo(): void {
    this.#isLetGo = true
  }

  /** As an earlier agent has written it, without a word. */
  resume(state: InstanceState): void {
    this.#state = state
  }

  become(state: InstanceState, detail: string | undefined): void {
    if (this.#isLetGo || (state === this.#state && detail === this.#detail)) return
    if (state !== this.#state && !canBecome(this.#state, state)) {
      throw new Error(`an instance that is ${this.#state} cannot become ${state}`)
    }
    const isNew = state !== this.#state
    this.#state = state
    this.#detail = detail
    if (isNew) {
      this.save()
      this.#parts.log.info('instance changed', { instance: this.#assignment.instance, state, reason: detail })
    }
    this.sendReport()
  }

  /** A job may end before the first check. One record is written of both states: a crash in between must not run it again. */
  becomeDone(detail: string): void {
    if (this.#state === 'starting') {
      this.#state = 'running'
      this.sendReport()
    }
    this.become('stopped', detail)
  }

  /** It ended, and is started again. */
  restart(detail: string): void {
    this.#restarts += 1
    if (this.#assignment.spec.oneShot) this.save()
    const isAgain = this.#state === 'starting' && this.#detail === detail // nothing but the number is new
    this.become('starting', detail)
    if (isAgain) this.sendReport()
  }

  /** When it will be started again; `undefined`: it need not wait any more. */
  waitsUntil(at: number | undefined): void {
    this.#retryAt = at
  }

  takeOver(assignment: Assignment): void {
    this.#assignment = assignment
    this.save()
  }

  /** What runs, or may, and where it answers. */
  saveRun(run: { trace: Trace | undefined; endpoints?: Endpoints }): void {
    this.#trace = run.trace
    if (run.endpoints !== undefined) this.#endpoints = run.endpoints
    this.save()
  }

  /** Written with what follows: a crash in between must not run it again. */
  forgetRun(): void {
    this.#trace = undefined
  }

  save(): void {
    if (this.#isLetGo) return // the record is the next agent's
    this.#parts.save(this.saved())
  }

  sendReport(): void {
    this.#parts.report(this.report())
  }

  report(): InstanceReport {
    const { instance, generation, revision, epoch = 0 } = this.#assignment
    return {
      instance,
      generation,
      ...(revision === undefined ? {} : { revision }),
      epoch,
      state: this.#state,
      restarts: this.#restarts,
      ...(this.#retryAt === undefined ? {} : { retryInMs: this.#msUntil(this.#retryAt) }),
      ...(this.#detail === undefined ? {} : { detail: this.#detail.slice(0, 2_000) }),
      ...(this.pid === undefined ? {} : { pid: this.pid }),
    }
  }

  saved(): Saved {
    return {
      assignment: this.#assignment,
      state: this.#state,
      restarts: this.#restarts,
      ...(this.beganAt === undefined ? {} : { beganAt: this.beganAt }),
      endpoints: this.#endpoints,
      ...(this.#trace === undefined ? {} : { trace: this.#trace }),
    }
  }

  #msUntil(at: number): number {
    return Math.max(0, Math.round(at - this.#parts.clock.now()))
  }
}
