import { background } from '../../src/core/kit/background.ts'
import { Lifetime } from '../../src/core/kit/lifetime.ts'
import type { Log } from '../../src/core/kit/log.ts'
import { SteadyMap } from '../../src/core/kit/steady-map.ts'
import type { Metrics } from '../../src/core/metrics.ts'
import { type InstanceId, instanceId, type NodeId, type ServiceId } from '../../src/core/model/ids.ts'
import { allows, ANY_PATH, type PathRule, seenFromThere } from '../../src/core/model/path-rule.ts'
import { flowRules } from '../decide/flow-rules.ts'
import type { Descriptors } from '../flow/descriptors.ts'
import type { FlowSpans, TakenFlow } from '../flow/spans.ts'
import type { Memory } from '../flow/memory.ts'
import { callerText } from '../flow/flow.ts'
import { decodeRequest, type FlowRequest } from '../flow/request.ts'
import type { IncomingStream } from '../tunnel/contract.ts'
import { type OwnInstances, RequestChecker, type RequestCheckerParts, type Refused, refused } from './check-request.ts'
import { DatagramInbound } from './datagrams.ts'
import { DialQueue } from './dial-queue.ts'
import { RefusalLines } from './refusal-lines.ts'
import { SHARE_LIMITS, type ShareLimits, Shares } from './shares.ts'
import { isAmong, type Endpoint } from '../socket/dial.ts'
import { type JoinedFlow, Opening, type OpeningContext, type OpeningEvents } from './opening.ts'

/*
 * The life of a flow on the instance's node. Every OPEN is authorised here, against this node's own table (SEC-14):
 *
 *   OPEN ─▶ well-formed? ─▶ caller on that peer? allowed? ─▶ instance here? ─▶ dial ─▶ OPENED, bytes both ways
 *              │                │ (unknown: ask once)           │                │
 *              └────────────────┴───────────────────────────────┴────────────────┴─▶ REFUSED
 */

export interface InboundParts extends RequestCheckerParts {
  /** Addresses no flow may reach: the agent's own ports (SEC-23). Link-local ones never are. */
  readonly forbids?: (address: string, port: number, protocol: 'tcp' | 'udp') => boolean
  /** The address under which the instance sees its caller (`callerAddress`). */
  readonly addressOf?: (caller: InstanceId) => string | undefined
  /** The PROXY header for an instance that asks for one (`introduce`). */
  readonly introduce?: (request: FlowRequest, from: { peer: NodeId; localPort: number }) => Buffer
  /** Which paths the node allows, beside what each service says; any without it. */
  readonly paths?: PathRule
  readonly limits: InboundLimits
  /** `usable`: how many flows may have; absent: any number. */
  readonly descriptors: Pick<Descriptors, 'reserve'> & Partial<Pick<Descriptors, 'usable'>>
  /** Absent: never scarce. */
  readonly memory?: Pick<Memory, 'shortage'>
  /** Absent: nothing is traced. */
  readonly spans?: FlowSpans | undefined
  readonly log: Log
  readonly metrics: Metrics
}

export interface InboundLimits {
  /** Each costs a descriptor here. */
  maxFlows: number
  /** Dials to one instance at the same time: its own queue (listen backlog) is often short. */
  dials: number
  /** Waiting behind them, for all instances; more are refused as overloaded. Each costs about a kilobyte. */
  dialsWaiting: number
  /** Until the instance must have accepted. */
  dialMs: number
  /** How long flows may go on when the agent closes. */
  drainMs: number
  /** What one peer and one instance may take. */
  shares: ShareLimits
}

export const INBOUND_LIMITS: InboundLimits = {
  maxFlows: 16_384,
  dials: 256,
  dialsWaiting: 8_192,
  dialMs: 2_000,
  drainMs: 5_000,
  shares: SHARE_LIMITS,
}

/** Between checks whether the instances of UDP flows are still where they were. Smaller costs more; larger notices later. */
const DATAGRAM_SWEEP_MS = 1_000

/** Takes the streams that other nodes open, and carries them to instances here. */
export class Inbound implements AsyncDisposable, OpeningEvents {
  readonly #life: Lifetime
  readonly #parts: InboundParts
  readonly #checker: RequestChecker
  readonly #dials: DialQueue
  readonly #ruleOf: (service: ServiceId) => PathRule
  readonly #datagrams: DatagramInbound
  readonly #opening: OpeningContext
  /** By their numbers. */
  readonly #flows = new SteadyMap<number, JoinedFlow>()
  readonly #shares: Shares
  readonly #refusalLines = new RefusalLines()
  #taken = 0
  #isDraining = false
  #idle: (() => void) | undefined

  private constructor(life: Lifetime, parts: InboundParts) {
    const { limits, forbids, addressOf, introduce } = parts
    this.#life = life
    this.#parts = parts
    this.#checker = new RequestChecker(parts)
    this.#dials = new DialQueue(limits)
    // where few files may be open, those are what peers share
    const maxFlows = Math.min(limits.maxFlows, parts.descriptors.usable ?? limits.maxFlows)
    this.#shares = new Shares({ ...limits.shares, maxFlows }, () => performance.now())
    this.#ruleOf = flowRules(parts.paths ?? ANY_PATH, parts.table)
    this.#datagrams = new DatagramInbound(parts)
    const { dialMs } = limits
    this.#opening = {
      parts: { dialMs, dials: this.#dials, datagrams: this.#datagrams, forbids, addressOf, introduce },
      events: this,
    }
  }

  static start(parts: InboundParts): Promise<Inbound> {
    return Lifetime.open((life) => {
      const inbound = new Inbound(life, parts)
      life.every(DATAGRAM_SWEEP_MS, () => inbound.#datagrams.sweep(inbound.#isDraining), 'datagram clean-up')
      life.defer(() => inbound.#drain())
      return inbound
    })
  }

  get size(): number {
    return this.#flows.size
  }

  /** How many streams have been opened so far: also those that were over at once. */
  get taken(): number {
    return this.#taken
  }

  /** Flows from other nodes that are open to the instance, or only those that go `to` one of its runs: while that stops, they may finish. */
  openFlows(instance: InstanceId, to?: readonly Endpoint[]): number {
    if (to === undefined) return this.#shares.open(instance)
    let count = 0
    for (const { request, endpoint } of this.#flows.values())
      if (isAmong(endpoint, to) && instanceOf(request) === instance) count += 1
    return count
  }

  /** What `Peers` is given: called for every OPEN. A bug here costs this one flow, and shows in `check`. */
  readonly take = (incoming: IncomingStream): void => {
    this.#taken += 1
    const failed = (error: unknown): never => {
      incoming.refuse('unreachable') // the caller tries another instance
      throw error
    }
    void background.run('incoming stream', () => {
      try {
        return this.#take(incoming)?.catch(failed)
      } catch (error) {
        return failed(error)
      }
    })
  }

  close(): Promise<void> {
    return this.#life.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  // ── what openings report ──

  refused({ incoming, request, isUnderWay, startedAt }: Opening, why: Refused): void {
    if (isUnderWay) this.#shares.changeOpen(incoming.peer, instanceOf(request), -1)
    this.#refuse(incoming, why, request)
    const { peer, path } = incoming
    const { refusal, reason } = why
    this.#trace({ request, peer, path, startedAt, end: refusal, received: 0, sent: 0, error: `${refusal}: ${reason}` })
  }

  gone({ incoming, request }: Opening): void {
    this.#shares.changeOpen(incoming.peer, instanceOf(request), -1)
  }

  joined(flow: JoinedFlow): void {
    this.#flows.set(flow.number, flow)
  }

  ended(number: number): void {
    const flow = this.#flows.get(number)
    if (flow === undefined) return
    this.#flows.delete(number)
    const { pipe } = flow
    this.#shares.changeOpen(flow.peer, instanceOf(flow.request), -1)
    this.#parts.metrics.inboundStreams.count({ result: pipe.end })
    this.#logEnd(flow)
    const error = pipe.end === 'closed' || pipe.end === 'near-reset' || pipe.end === 'cut' ? {} : { error: pipe.end }
    this.#trace({ ...flow, end: pipe.end, received: pipe.near.bytes, sent: pipe.far.bytes, ...error })
    if (this.#flows.size === 0) this.#idle?.()
  }

  /** Waits for nothing but the cluster's answer, where it must be asked. */
  #take(incoming: IncomingStream): Promise<void> | undefined {
    const request = decodeRequest(incoming.request)
    if (request === undefined) {
      this.#refuse(incoming, refused('bad-request', 'malformed request'))
      return undefined
    }
    const opening = new Opening({ number: this.#taken, incoming, request }, this.#opening)
    const check = this.#whyFull(incoming.peer) ?? this.#checker.check(incoming.peer, request)
    if (check instanceof Promise) return check.then((checked) => this.#checked(opening, checked))
    this.#checked(opening, check)
    return undefined
  }

  #checked(opening: Opening, check: OwnInstances | Refused): void {
    const { incoming, request } = opening
    if (opening.isGone) return
    if (check.kind !== 'here') return this.refused(opening, check)
    const rule = seenFromThere(this.#ruleOf(request.service))
    if (!allows(rule, incoming.path)) {
      return this.refused(opening, refused('path-forbidden', `${rule.text} leaves ${incoming.path} out`))
    }
    const exceeded = this.#shares.admit(incoming.peer, check.instance)
    if (exceeded !== undefined) return this.refused(opening, refused('overloaded', exceeded))
    incoming.restrictTo?.(rule)
    this.#shares.changeOpen(incoming.peer, check.instance, 1) // as soon as it waits: a flood must not fill the queue
    opening.open(check)
  }

  #whyFull(peer: NodeId): Refused | undefined {
    const { limits, descriptors, memory } = this.#parts
    if (this.#isDraining) return refused('draining', 'the agent is closing')
    if (this.#shares.size >= limits.maxFlows || !this.#dials.hasRoom(peer))
      return refused('overloaded', 'too many flows')
    if (memory?.shortage !== undefined) return refused('overloaded', memory.shortage)
    return descriptors.reserve(1) ? undefined : refused('overloaded', 'no descriptors are left')
  }

  #trace({ startedAt, ...flow }: Omit<TakenFlow, 'instance' | 'ageMs'> & Pick<JoinedFlow, 'startedAt'>): void {
    const { spans } = this.#parts
    const { request } = flow
    if (spans?.isSampled(request.flow) !== true) return
    spans.taken({ ...flow, instance: instanceOf(request), ageMs: performance.now() - startedAt })
  }

  #logEnd({ pipe, request, peer, path }: JoinedFlow): void {
    const { log } = this.#parts
    if (!log.isDebug) return
    const instance = instanceId(request.service, request.ordinal)
    const bytes = { received: pipe.near.bytes, sent: pipe.far.bytes }
    log.debug('inbound flow ended', { flow: request.flow, peer, path, instance, ...bytes, end: pipe.end })
  }

  #refuse(incoming: IncomingStream, { refusal, reason }: Refused, request?: FlowRequest): void {
    const { log, metrics } = this.#parts
    const { peer } = incoming
    metrics.inboundStreams.count({ result: refusal })
    incoming.refuse(refusal)
    const others = this.#refusalLines.admit(peer)
    if (others === undefined) return
    const asked = request && {
      flow: request.flow,
      instance: instanceId(request.service, request.ordinal),
      port: request.port,
      caller: callerText(request.caller, peer),
    }
    log.info('inbound flow refused', {
      peer,
      ...asked,
      reason: `${refusal}: ${reason}`,
      ...(others > 0 ? { others } : {}),
    })
  }

  async #drain(): Promise<void> {
    this.#isDraining = true
    if (this.#flows.size > 0) {
      const { promise, resolve } = Promise.withResolvers<void>()
      const timer = setTimeout(resolve, this.#parts.limits.drainMs)
      this.#idle = resolve
      await promise
      clearTimeout(timer)
    }
    for (const { pipe } of this.#flows.values()) pipe.cut()
    await this.#dials.onIdle()
  }
}

function instanceOf({ service, ordinal }: FlowRequest): InstanceId {
  return instanceId(service, ordinal)
}
