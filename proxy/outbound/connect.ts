import type { InstanceId, NodeId } from '../../src/core/model/ids.ts'
import type { Instance } from '../../src/core/model/instance.ts'
import type { Attempt, AttemptParts, AttemptTold } from './attempt.ts'
import { maySendEarly } from './early-data.ts'
import { hedgeDelayMs, Race, type RaceAction } from './race.ts'
import type { FlowRequest } from '../flow/request.ts'
import type { Refusal, Stream } from '../tunnel/contract.ts'
import type { PathKind } from '../../src/core/model/path-rule.ts'

/** One try, for logs and `trace`. `dropped`: another was faster, or the flow ended first. */
export interface Try {
  instance: InstanceId
  node: NodeId
  path: PathKind | undefined
  rttMs: number | undefined
  outcome: 'opened' | 'dropped' | Refusal
  reason: string
  ms: number
  /** It was given what the caller said, before it had opened. */
  isEarly: boolean
}

export type Connected<A = unknown> =
  | { kind: 'won'; attempt: A; tries: readonly Try[] }
  | { kind: 'lost'; why: 'refused' | 'timeout' | 'unsure' | 'gone'; tries: readonly Try[] }

/** A caller that may be heard before an instance has answered. */
export interface EarlySource<S extends Stream> {
  /** The candidate gets what the caller says, from the start; `spoken` is called once there is something. */
  feed(to: S, spoken: () => void): void
  /** It gets no more; what was said waits for another, or for OPENED. */
  pause(): void
}

export interface ConnectOptions<S extends Stream, A extends Attempt<S>> {
  /** Tries one instance: `TcpAttempt` or `UdpAttempt`. */
  attempt: new (
    instance: Instance,
    told: AttemptTold<S>,
  ) => A
  instances: readonly Instance[]
  request: Omit<FlowRequest, 'ordinal'>
  deadlineMs: number
  /** What the caller says meanwhile; without it, that waits unread. */
  early?: EarlySource<S> | undefined
  /** Called in the same turn as OPENED, so that no byte of the instance is missed. */
  onWon: (attempt: A) => void
}

/** Tries instances in their order, as `Race` decides, until one has opened. Resolves; never rejects. */
export function connect<S extends Stream, A extends Attempt<S>>(
  options: ConnectOptions<S, A>,
  parts: AttemptParts,
  signal: AbortSignal,
): Promise<Connected<A>> {
  const { instances, request, early, onWon } = options
  const { clock, peers, self, outliers } = parts
  const rule = parts.ruleOf?.(request.service)
  const { promise, resolve } = Promise.withResolvers<Connected<A>>()
  const attempts: A[] = []
  const tries: Try[] = []
  const began: number[] = []
  let cancelWake: (() => void) | undefined

  const patience = instances.map(({ node }) => {
    if (node === self) return hedgeDelayMs(0, true)
    return isSuspect(node) ? 0 : hedgeDelayMs(peers.rttMs(node), isOpen(node))
  })
  const race = new Race(patience, options.deadlineMs, clock.now())

  act(race.start(clock.now()))
  if (signal.aborted) leave()
  else signal.addEventListener('abort', leave, { once: true })
  return promise

  function act(actions: readonly RaceAction[]): void {
    for (const action of actions) {
      switch (action.kind) {
        case 'try':
          attempt(action.candidate)
          break
        case 'withdraw':
          outliers?.wasSilent(nodeOf(action.candidate), clock.now())
          attempts[action.candidate]?.withdraw()
          break
        case 'drop':
          attempts[action.candidate]?.drop()
          break
        case 'win':
          settle(action.candidate, 'opened', '')
          onWon(attempts[action.candidate] as A)
          finish({ kind: 'won', attempt: attempts[action.candidate] as A, tries })
          break
        case 'lose':
          finish({ kind: 'lost', why: action.why, tries })
          break
        default:
          action satisfies never
      }
    }
    arm()
  }

  function attempt(candidate: number): void {
    const instance = instances[candidate] as Instance
    const rttMs = instance.node === self ? 0 : peers.rttMs(instance.node)
    if (outliers !== undefined && candidate > 0) suspectSilent(candidate)
    if (!race.isAlone(candidate)) early?.pause()
    began[candidate] = clock.now()
    tries[candidate] = {
      instance: instance.id,
      node: instance.node,
      path: undefined,
      rttMs,
      outcome: 'dropped',
      reason: 'another was faster',
      ms: 0,
      isEarly: false,
    }
    const started = new options.attempt(instance, {
      mayGive: (session) => early !== undefined && !isSuspect(instance.node) && maySendEarly(session),
      give: (stream) => {
        if (race.isAlone(candidate)) early?.feed(stream, () => spoken(candidate))
      },
      opened: () => {
        outliers?.answered(instance.node)
        act(race.opened(candidate))
      },
      failed: (refusal, reason) => {
        settle(candidate, refusal, reason)
        early?.pause()
        act(race.failed(candidate, refusal, clock.now()))
      },
      lost: (reason) => {
        settle(candidate, 'unreachable', reason)
        early?.pause()
        act(race.lost(candidate, clock.now()))
      },
    })
    attempts[candidate] = started
    started.start({ ...request, ordinal: instance.ordinal }, parts)
  }

  function spoken(candidate: number): void {
    const made = tries[candidate]
    if (made !== undefined) made.isEarly = true
    race.fedEarly(candidate)
  }

  /** Those before it that have been waited for in vain. */
  function suspectSilent(candidate: number): void {
    for (let before = 0; before < candidate; before++) {
      const isSilent = tries[before]?.outcome === 'dropped' && (patience[before] as number) > 0
      const { node } = instances[before] as Instance
      if (isSilent && node !== self) outliers?.wasSilent(node, clock.now())
    }
  }

  function settle(candidate: number, outcome: Try['outcome'], reason: string): void {
    const made = tries[candidate] as Try
    made.outcome = outcome
    made.reason = reason
    made.path = attempts[candidate]?.path
    made.ms = clock.now() - (began[candidate] as number)
  }

  function arm(): void {
    cancelWake?.()
    const at = race.wakeAt
    cancelWake =
      at === undefined ? undefined : clock.after(Math.max(0, at - clock.now()), () => act(race.tick(clock.now())))
  }

  /** The caller has gone, or the agent closes. */
  function leave(): void {
    if (race.isOver) return
    act(race.abandon())
    finish({ kind: 'lost', why: 'gone', tries })
  }

  function finish(connected: Connected<A>): void {
    signal.removeEventListener('abort', leave)
    for (const [candidate, made] of tries.entries()) {
      if (made.outcome !== 'dropped') continue
      const reason = connected.kind === 'won' ? made.reason : 'no answer in time'
      settle(candidate, 'dropped', reason)
    }
    resolve(connected)
  }

  function nodeOf(candidate: number): NodeId {
    return (instances[candidate] as Instance).node
  }

  function isSuspect(node: NodeId): boolean {
    return outliers?.has(node, clock.now()) === true
  }

  function isOpen(node: NodeId): boolean {
    return peers.existing(node, rule) !== undefined
  }
}
