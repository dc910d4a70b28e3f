import type { Cancellation } from '../../src/core/kit/cancellation.ts'
import type { Clock } from '../../src/core/kit/clock.ts'
import type { KeyedSemaphore } from '../../src/core/kit/keyed-semaphore.ts'
import { type Ends, type LocalUsers, localUsers } from '../../src/core/kit/local-users.ts'
import type { Metrics } from '../../src/core/metrics.ts'
import type { ServiceId } from '../../src/core/model/ids.ts'
import type { TableView } from '../../src/core/table/view.ts'
import type { Outliers } from '../decide/outliers.ts'
import {
  type FlowIntent,
  type FlowRefusal,
  type LoadParts,
  type Plan,
  plan,
  type PlanParts,
  refusalForLoad,
} from '../decide/plan.ts'
import { callerText } from '../flow/flow.ts'
import { failureOf, triesText, type Try } from '../flow/tries.ts'
import type { Peers, Stream } from '../tunnel/contract.ts'
import type { Attempt } from './attempt.ts'
import { connect, type Connected, type ConnectOptions, type ConnectParts } from './connect.ts'

/*
 * From what a caller wants to an instance that has taken the flow. TCP flows, UDP flows and `trace` go this way, so that what
 * `trace` prints is what a flow does:
 *
 *   room for one more? ─▶ its turn (TCP) ─▶ plan ─▶ connect ─▶ won
 *          └──────────────────┴───────────────┴────────┴─▶ refused, or the caller has gone
 */

export interface EstablishParts extends PlanParts, LoadParts, ConnectParts {
  readonly table: TableView
  readonly peers: Peers
  readonly clock: Clock
  readonly outliers?: Outliers
  readonly limits: OutboundLimits
  /** What TCP flows of one service take openings by while they are being opened. */
  readonly openings: KeyedSemaphore<ServiceId>
  /** Whose callers on this machine are; absent: as the kernel says. */
  readonly localUsers?: Pick<LocalUsers, 'userOf'>
  readonly metrics: Metrics
}

export interface OutboundLimits {
  /** Each costs two descriptors here. */
  readonly maxFlows: number
  /** From the first try until an instance must have answered. Larger: callers wait longer for nothing. */
  readonly deadlineMs: number
  /** Flows being opened to one service at the same time (`openings`); more wait, in order. Larger: its nodes refuse some. */
  readonly opening: number
  /** How long a flow may wait for its turn; together with `maxFlows` it bounds the queue. */
  readonly waitMs: number
  /** Instances tried for one flow. */
  readonly candidates: number
}

export const OUTBOUND_LIMITS: OutboundLimits = {
  maxFlows: 16_384,
  deadlineMs: 3_000,
  opening: 256,
  waitMs: 15_000,
  candidates: 4,
}

export interface EstablishOptions<S extends Stream, A extends Attempt<S>>
  extends Pick<ConnectOptions<S, A>, 'attempt' | 'flow' | 'early' | 'onWon'> {
  readonly intent: FlowIntent
  /** The caller's connection, by which its user is known when it has to wait. */
  readonly from?: Ends
}

export type Established<A> =
  | { kind: 'won'; plan: Plan; attempt: A; tries: readonly Try[] }
  /** `plan` is absent when it never came to one. `unsure`: an instance may have been given the caller's first bytes. */
  | {
      kind: 'refused'
      plan?: Plan
      why: 'not-tried' | 'refused' | 'timeout' | 'unsure'
      refusal: FlowRefusal
      tries: readonly Try[]
    }
  /** The caller has gone, or the flow was cut. */
  | { kind: 'gone' }

/** Resolves; never rejects. `gone` is cancelled when the caller no longer waits. */
export function establish<S extends Stream, A extends Attempt<S>>(
  options: EstablishOptions<S, A>,
  parts: EstablishParts,
  gone: Cancellation,
): Promise<Established<A>> {
  const { protocol } = options.intent
  const full = refusalForLoad(parts)
  if (full !== undefined) return Promise.resolve(refused(full))
  if (protocol === 'udp') return planAndConnect(options, parts, gone)
  const turn = takeTurn(options, gone, parts)
  if (turn === 'taken') return inTurn(options, parts, gone)
  return turn.then((taken) => {
    if (taken === 'taken') return inTurn(options, parts, gone)
    return taken === 'gone' ? GONE : refused(TOO_MANY_OPENING)
  })
}

async function inTurn<S extends Stream, A extends Attempt<S>>(
  options: EstablishOptions<S, A>,
  parts: EstablishParts,
  gone: Cancellation,
): Promise<Established<A>> {
  try {
    return await planAndConnect(options, parts, gone)
  } finally {
    parts.openings.release(options.intent.target.service.id)
  }
}

const GONE = { kind: 'gone' } as const

const TOO_MANY_OPENING: FlowRefusal = {
  end: 'too-many',
  code: 'TOO_MANY_FLOWS',
  reason: 'too many flows are being opened to the service',
}

function planAndConnect<S extends Stream, A extends Attempt<S>>(
  options: EstablishOptions<S, A>,
  parts: EstablishParts,
  gone: Cancellation,
): Promise<Established<A>> {
  const planned = plan(options.intent, parts)
  if (planned.refusal !== undefined) return Promise.resolve(refused(planned.refusal, planned))
  const { attempt, early, flow, onWon } = options
  const { deadlineMs } = parts.limits
  return connect({ attempt, early, flow, onWon, plan: planned, deadlineMs }, parts, gone).then((connected) => {
    countTries(connected, parts.metrics)
    const { kind, tries } = connected
    if (kind === 'won') return { kind, attempt: connected.attempt, tries, plan: planned }
    const { why } = connected
    if (why === 'gone') return GONE
    const refusal = { ...failureOf(why, tries), reason: triesText(tries) }
    return { kind: 'refused', plan: planned, why, refusal, tries }
  })
}

function refused(refusal: FlowRefusal, planned?: Plan): Established<never> {
  return { kind: 'refused', why: 'not-tried', refusal, tries: [], ...(planned === undefined ? {} : { plan: planned }) }
}

/**
 * Waits until few enough flows are being opened to the service; without any wait where that is so. Callers take turns: instances, and
 * users of this machine, who are looked up only now.
 */
function takeTurn(
  { intent: { target, caller }, from }: Pick<EstablishOptions<never, never>, 'intent' | 'from'>,
  gone: Cancellation,
  { self, openings, clock, limits, metrics, localUsers: users = localUsers }: EstablishParts,
): Promise<'taken' | 'late' | 'gone'> | 'taken' {
  let isTaken = false
  let begin: (() => void) | undefined
  const wait = openings.acquire(target.service.id, callerText(caller, self), () => {
    isTaken = true
    begin?.()
  })
  if (isTaken) return 'taken'
  if (caller.kind === 'node' && from !== undefined)
    void users.userOf(from).then((uid) => uid === undefined || wait.moveTo(`uid ${uid}`))
  metrics.flowsWaiting.inc()
  return new Promise((resolve) => {
    const settle = (how: 'taken' | 'late' | 'gone'): void => {
      metrics.flowsWaiting.dec()
      cancelLate()
      gone.leave()
      if (how !== 'taken') wait.giveUp()
      resolve(how)
    }
    const cancelLate = clock.after(limits.waitMs, () => settle('late'))
    begin = () => settle('taken')
    gone.listen(() => settle('gone'))
  })
}

function countTries({ tries }: Connected<unknown>, metrics: Metrics): void {
  for (const { outcome, isEarly } of tries) {
    metrics.candidatesTried.count({ outcome })
    if (isEarly) metrics.flowsEarly.count({ outcome })
  }
}
