import type { ErrorCode } from '../../src/core/errors.ts'
import type { Log } from '../../src/core/kit/log.ts'
import type { Metrics } from '../../src/core/metrics.ts'
import type { ServiceId } from '../../src/core/model/ids.ts'
import { admit, whyFull } from '../decide/admit.ts'
import { type AttemptParts, TcpAttempt } from './attempt.ts'
import { connect, type Connected } from './connect.ts'
import { callerText, type Flow, nameOf } from '../flow/flow.ts'
import type { Descriptors } from '../flow/descriptors.ts'
import { EarlyData } from './early-data.ts'
import type { FlowLedger, FlowEnd, OpenFlow } from '../flow/ledger.ts'
import type { Balancer } from '../policies/index.ts'
import { resetSocket } from '../socket/reset.ts'
import { Splice, type SpliceEnd, SocketStream } from '../socket/splice.ts'
import type { KeyedSemaphore } from '../../src/core/kit/keyed-semaphore.ts'
import { failureOf } from '../flow/tries.ts'

/*
 * The life of a flow, on the caller's node (what it says before it has connected: early.ts):
 *
 *   taken ─▶ its turn ─▶ allowed? ─▶ order ─▶ connect (race of tries) ─▶ bytes both ways ─▶ ended: one log line
 *               │            │          │          │
 *               └────────────┴──────────┴──────────┴─▶ refused: RST, or the answer of SOCKS and HTTP; one log line
 */

export interface OutboundParts extends AttemptParts {
  readonly balancer: Balancer
  readonly ledger: FlowLedger
  readonly limits: OutboundLimits
  readonly turns: KeyedSemaphore<ServiceId>
  readonly descriptors: Pick<Descriptors, 'reserve'>
  /** Callers' first bytes travel before an instance has answered, where that pays. */
  readonly earlyData: boolean
  readonly log: Log
  readonly metrics: Metrics
}

export interface OutboundLimits {
  /** Each costs two descriptors here. */
  maxFlows: number
  /** From the first try until an instance must have answered. Larger: callers wait longer for nothing. */
  deadlineMs: number
  /** Flows being opened to one service at the same time (`turns`); more wait, in order. Larger: its nodes refuse some. */
  opening: number
  /** How long a flow may wait for its turn; together with `maxFlows` it bounds the queue. */
  waitMs: number
  /** Instances tried for one flow. */
  candidates: number
}

export const OUTBOUND_LIMITS: OutboundLimits = {
  maxFlows: 16_384,
  deadlineMs: 3_000,
  opening: 256,
  waitMs: 15_000,
  candidates: 4,
}

/** Carries one flow from its interceptor to an instance. Resolves when the flow has ended; never rejects. */
export async function outbound(flow: Flow, parts: OutboundParts): Promise<void> {
  const { ledger, limits } = parts
  const { target, port, caller } = flow
  const { open, gone } = enter(flow, parts)

  const full = whyFull(parts)
  if (full !== undefined) return refuse('too-many', 'TOO_MANY_FLOWS', full)
  const waiting = takeTurn(target.service.id, gone.signal, parts)
  const turn = typeof waiting === 'string' ? waiting : await waiting
  if (turn === 'late') return refuse('too-many', 'TOO_MANY_FLOWS', 'too many flows are being opened to the service')
  if (turn === 'gone') return refuse(open.pipe.end === 'cut' ? 'cut' : 'caller-gone', 'FLOW_REFUSED', 'gave up')
  const admission = admit({ target, port, protocol: 'tcp', caller }, parts)
  if (admission.kind === 'refused') {
    parts.turns.done(target.service.id)
    return refuse(admission.end, admission.code, admission.reason)
  }
  const early = parts.earlyData ? new EarlyData(() => open.near.start()) : undefined
  open.pipe.far.stream = early
  const connected = await connect(
    {
      attempt: TcpAttempt,
      early,
      instances: admission.instances,
      request: { service: target.service.id, port, protocol: 'tcp', caller, flow: open.id },
      deadlineMs: limits.deadlineMs,
      onWon: (attempt) => {
        ledger.chosen(open, attempt.instance, attempt.path ?? 'local')
        parts.metrics.flowConnect.observe({ path: open.path ?? 'local' }, (parts.clock.now() - flow.startedAt) / 1000)
        if (attempt.stream !== undefined) early?.settle(attempt.stream)
        open.pipe.far.stream = attempt.stream
        attempt.onward = open.pipe.far
        flow.reply?.connected()
        open.near.start()
        open.pipe.far.drain()
      },
    },
    parts,
    gone.signal,
  )
  parts.turns.done(target.service.id)
  countTries(connected, parts)
  if (connected.kind === 'lost') {
    const { why } = connected
    early?.drop()
    open.pipe.far.drain()
    if (why === 'gone') return refuse(open.pipe.end === 'cut' ? 'cut' : 'caller-gone', 'FLOW_REFUSED', 'gave up')
    const { end, code } = failureOf(why, connected.tries)
    return refuse(end, code, triesText(connected))
  }
  if (!flow.socket.closed) await new Promise<void>((resolve) => flow.socket.once('close', () => resolve()))
  leave(open, END[open.pipe.end], '', parts)

  function refuse(end: FlowEnd, code: ErrorCode, reason: string): void {
    leave(open, end, reason, parts)
    if (flow.reply !== undefined && end !== 'cut') flow.reply.failed(code, reason)
    else resetSocket(flow.socket)
  }
}

/** Waits until few enough flows are being opened to the service; without any wait where that is so. */
function takeTurn(
  service: ServiceId,
  gone: AbortSignal,
  { turns, clock, limits, metrics }: OutboundParts,
): Promise<'taken' | 'late' | 'gone'> | 'taken' {
  let isTaken = false
  let begun: (() => void) | undefined
  const giveUp = turns.take(service, () => {
    isTaken = true
    begun?.()
  })
  if (isTaken) return 'taken'
  metrics.flowsWaiting.inc()
  return new Promise((resolve) => {
    const settle = (how: 'taken' | 'late' | 'gone'): void => {
      metrics.flowsWaiting.dec()
      cancelLate()
      gone.removeEventListener('abort', left)
      if (how !== 'taken') giveUp()
      resolve(how)
    }
    const left = (): void => settle('gone')
    const cancelLate = clock.after(limits.waitMs, () => settle('late'))
    begun = () => settle('taken')
    if (gone.aborted) left()
    else gone.addEventListener('abort', left, { once: true })
  })
}

interface Entered extends OpenFlow {
  readonly pipe: Splice
  readonly near: SocketStream
}

/** Why its signal aborts. One for all flows: without a reason Node makes an exception with a stack for each. */
const OVER = 'the flow is over'

/** Writes the flow into the book; from here on its socket is watched. */
function enter(flow: Flow, parts: OutboundParts): { open: Entered; gone: AbortController } {
  const gone = new AbortController()
  const joint = new Splice(flow.allowance)
  const near = new SocketStream(flow.socket, joint.near)
  joint.near.stream = near
  const open: Entered = {
    id: parts.ledger.nextId(),
    caller: callerText(flow.caller, parts.self),
    name: nameOf(flow.target),
    port: flow.port,
    protocol: 'tcp',
    mode: flow.mode,
    policy: flow.target.choice.policy,
    startedAt: flow.startedAt,
    pipe: joint,
    near,
    cut: () => {
      joint.cut()
      gone.abort(OVER)
    },
  }
  parts.ledger.add(open)
  if (flow.socket.destroyed) gone.abort(OVER)
  else flow.socket.once('close', () => gone.abort(OVER))
  return { open, gone }
}

/** The one place where a flow ends in the book, the metrics and the log. */
export function leave(open: OpenFlow, end: FlowEnd, reason: string, { ledger, log, metrics }: OutboundParts): void {
  const line = ledger.ended(open, end, reason)
  metrics.flows.inc({ policy: open.policy, path: open.path ?? 'none', result: end, protocol: open.protocol })
  const { id, caller, name, port, protocol, mode, instance, node, path, sent, received, ageMs } = line
  const fields = {
    flow: id,
    caller,
    name,
    port,
    protocol,
    mode,
    instance,
    node,
    path,
    sent,
    received,
    ms: Math.round(ageMs),
    end,
  }
  if (instance === undefined && end !== 'caller-gone') log.warn('flow refused', { ...fields, reason })
  else log.info('flow ended', fields)
}

export const END: Readonly<Record<SpliceEnd, FlowEnd>> = {
  closed: 'closed',
  'near-reset': 'caller-reset',
  'far-reset': 'instance-reset',
  cut: 'cut',
}

/** `shop.acme.cart.prod.0: unreachable (ECONNREFUSED), …` */
export function triesText({ tries }: Connected): string {
  return tries.map(({ instance, outcome, reason }) => `${instance}: ${outcome} (${reason})`).join(', ')
}

export function countTries({ tries }: Connected, { metrics }: OutboundParts): void {
  for (const { outcome, isEarly } of tries) {
    metrics.candidatesTried.inc({ outcome })
    if (isEarly) metrics.flowsEarly.inc({ outcome })
  }
}
