import type { NodeId } from '../../src/core/model/ids.ts'
import type { Cancellation } from '../../src/core/kit/cancellation.ts'
import type { Clock } from '../../src/core/kit/clock.ts'
import { maySendEarly } from '../decide/early.ts'
import type { Outliers } from '../decide/outliers.ts'
import type { Candidate, Plan } from '../decide/plan.ts'
import type { Try } from '../flow/tries.ts'
import type { Refusal, Route, Stream } from '../tunnel/contract.ts'
import { type Attempt, type AttemptObserver, type AttemptParts, type AttemptTask, tryOf } from './attempt.ts'
import { hedgeDelayMs, Race, type RaceAction } from './race.ts'

export type Connected<A> =
  | { kind: 'won'; attempt: A; tries: readonly Try[] }
  | { kind: 'lost'; why: 'refused' | 'timeout' | 'unsure' | 'gone'; tries: readonly Try[] }

/** A caller whose first bytes may be sent before an instance has answered. */
export interface EarlySource<S extends Stream> {
  /** The candidate gets what the caller sends, from the start; `onFirst` is called once there is something. */
  feed(to: S, onFirst: () => void): void
  /** It gets no more; what the caller sent is kept for another candidate, or for OPENED. */
  pause(): void
}

export interface ConnectOptions<S extends Stream, A extends Attempt<S>> {
  /** Tries one instance: `TcpAttempt` or `UdpAttempt`. */
  attempt: new (
    task: AttemptTask,
    observer: AttemptObserver<S>,
    now: number,
  ) => A
  plan: Plan
  /** The flow's id, for the logs of both ends. */
  flow: string
  deadlineMs: number
  /** What the caller sends meanwhile; without it, that waits unread in its socket. */
  early?: EarlySource<S> | undefined
  /** Called in the same turn as OPENED, so that no byte of the instance is missed. */
  onWon: (attempt: A) => void
}

export interface ConnectParts extends AttemptParts {
  readonly clock: Clock
  /** Nodes not to be waited for now; without them every flow waits for every node. */
  readonly outliers?: Outliers
}

/** Tries the plan's candidates in their order, as `Race` decides, until one has opened. Resolves; never rejects. */
export function connect<S extends Stream, A extends Attempt<S>>(
  options: ConnectOptions<S, A>,
  parts: ConnectParts,
  gone: Cancellation,
): Promise<Connected<A>> {
  return new Connecting(options, parts, gone).run()
}

/** Carries out the race of one flow: starts attempts, reports their outcomes to the rules, and keeps the record of each. */
class Connecting<S extends Stream, A extends Attempt<S>> implements AttemptObserver<S> {
  readonly #options: ConnectOptions<S, A>
  readonly #parts: ConnectParts
  readonly #gone: Cancellation
  readonly #race: Race
  readonly #hedgeMs: readonly number[]
  readonly #attempts: A[] = []
  readonly #tries: Try[] = []
  readonly #done = Promise.withResolvers<Connected<A>>()
  #cancelWake: (() => void) | undefined

  constructor(options: ConnectOptions<S, A>, parts: ConnectParts, gone: Cancellation) {
    this.#options = options
    this.#parts = parts
    this.#gone = gone
    this.#hedgeMs = options.plan.candidates.map(hedgeMsOf)
    this.#race = new Race(this.#hedgeMs, options.deadlineMs, parts.clock.now())
  }

  run(): Promise<Connected<A>> {
    this.#act(this.#race.start(this.#parts.clock.now()))
    if (!this.#race.isOver) this.#gone.listen(() => this.#abandon())
    return this.#done.promise
  }

  // ── what attempts report ──

  mayFeed({ instance }: Attempt<S>, route: Route): boolean {
    return this.#options.early !== undefined && !this.#isOutlier(instance.node) && maySendEarly(route)
  }

  feed({ index }: Attempt<S>, stream: S): void {
    if (this.#race.isAlone(index)) this.#options.early?.feed(stream, () => this.#fed(index))
  }

  opened({ index, instance }: Attempt<S>): void {
    this.#parts.outliers?.answered(instance.node)
    this.#act(this.#race.opened(index))
  }

  failed({ index }: Attempt<S>, refusal: Refusal, reason: string): void {
    this.#settle(index, refusal, reason)
    this.#options.early?.pause()
    this.#act(this.#race.failed(index, refusal, this.#parts.clock.now()))
  }

  lost({ index }: Attempt<S>, reason: string): void {
    this.#settle(index, 'unreachable', reason)
    this.#options.early?.pause()
    this.#act(this.#race.lost(index, this.#parts.clock.now()))
  }

  // ── what the rules ask for ──

  #act(actions: readonly RaceAction[]): void {
    for (const action of actions) {
      switch (action.kind) {
        case 'try':
          this.#try(action.candidate)
          break
        case 'withdraw':
          this.#parts.outliers?.wasSilent(this.#candidate(action.candidate).instance.node, this.#parts.clock.now())
          this.#attempts[action.candidate]?.withdraw()
          break
        case 'drop':
          this.#attempts[action.candidate]?.drop()
          break
        case 'win':
          this.#win(action.candidate)
          break
        case 'lose':
          this.#finish({ kind: 'lost', why: action.why, tries: this.#tries })
          break
        default:
          action satisfies never
      }
    }
    this.#armTimer()
  }

  #try(index: number): void {
    const { early, flow, plan } = this.#options
    const { target, port, protocol, caller } = plan.intent
    const { clock } = this.#parts
    const candidate = this.#candidate(index)
    this.#noteSilent(index)
    if (!this.#race.isAlone(index)) early?.pause()
    const { ordinal } = candidate.instance
    const task: AttemptTask = {
      candidate,
      index,
      request: { service: target.service.id, ordinal, port, protocol, caller, flow },
      rule: plan.rule,
      isFresh: this.#attempts.length === 0,
    }
    const attempt = new this.#options.attempt(task, this, clock.now())
    this.#attempts[index] = attempt
    this.#tries[index] = tryOf(task, attempt.startedAt)
    attempt.start(this.#parts)
  }

  #win(index: number): void {
    const attempt = this.#attempts[index] as A
    this.#settle(index, 'opened', '')
    this.#options.onWon(attempt)
    this.#finish({ kind: 'won', attempt, tries: this.#tries })
  }

  /** The caller has sent something, and this candidate was given it. */
  #fed(index: number): void {
    const made = this.#tries[index]
    if (made !== undefined) made.isEarly = true
    this.#race.fedEarly(index)
  }

  /** Another candidate is tried because those before it were waited for in vain. */
  #noteSilent(index: number): void {
    const { outliers, clock } = this.#parts
    if (outliers === undefined) return
    for (let before = 0; before < index; before++) {
      const { isHere, instance } = this.#candidate(before)
      const isSilent = this.#tries[before]?.outcome === 'dropped' && (this.#hedgeMs[before] as number) > 0
      if (isSilent && !isHere) outliers.wasSilent(instance.node, clock.now())
    }
  }

  #settle(index: number, outcome: Try['outcome'], reason: string): void {
    const attempt = this.#attempts[index] as A
    const made = this.#tries[index] as Try
    made.outcome = outcome
    made.reason = reason
    made.path = attempt.path
    made.ms = this.#parts.clock.now() - attempt.startedAt
  }

  #armTimer(): void {
    const { clock } = this.#parts
    this.#cancelWake?.()
    const at = this.#race.wakeAt
    this.#cancelWake =
      at === undefined
        ? undefined
        : clock.after(Math.max(0, at - clock.now()), () => this.#act(this.#race.tick(clock.now())))
  }

  /** The caller has gone, or the agent closes. */
  #abandon(): void {
    if (this.#race.isOver) return
    this.#act(this.#race.abandon())
    this.#finish({ kind: 'lost', why: 'gone', tries: this.#tries })
  }

  #finish(connected: Connected<A>): void {
    this.#gone.leave()
    for (let index = 0; index < this.#tries.length; index++) {
      const made = this.#tries[index]
      if (made?.outcome !== 'dropped') continue
      this.#settle(index, 'dropped', connected.kind === 'won' ? made.reason : 'no answer in time')
    }
    this.#done.resolve(connected)
  }

  #candidate(index: number): Candidate {
    return this.#options.plan.candidates[index] as Candidate
  }

  #isOutlier(node: NodeId): boolean {
    const { outliers, clock } = this.#parts
    return outliers?.has(node, clock.now()) === true
  }
}

/** How long the candidate may stay silent before the next is tried beside it. */
function hedgeMsOf({ isHere, isOutlier, rttMs, session }: Candidate): number {
  return isOutlier ? 0 : hedgeDelayMs(rttMs, isHere || session !== undefined)
}
