import type { Socket } from 'node:net'
import { Lifetime } from '../../src/core/kit/lifetime.ts'
import type { Log } from '../../src/core/kit/log.ts'
import type { Metrics } from '../../src/core/metrics.ts'
import { type InstanceId, instanceId, type InterestKey, type NodeId, type ServiceId } from '../../src/core/model/ids.ts'
import { allows, ANY_PATH, type PathRule, seenFromThere } from '../../src/core/model/path-rule.ts'
import type { InterestSource } from '../../src/core/table/view.ts'
import { checkRequest, refused, type Check, type CheckParts, type Here, type Refused } from './check-request.ts'
import { DatagramInbound } from './datagrams.ts'
import type { DatagramPipe } from '../socket/datagram-pipe.ts'
import { dialInstance, type DialOptions } from '../socket/dial.ts'
import type { Descriptors } from '../flow/descriptors.ts'
import { callerText } from '../flow/flow.ts'
import { flowRules } from '../decide/flow-rules.ts'
import { decodeRequest, type FlowRequest } from '../flow/request.ts'
import { Splice, SocketStream } from '../socket/splice.ts'
import type { IncomingStream, Refusal } from '../tunnel/contract.ts'
import { KeyedSemaphore } from '../../src/core/kit/keyed-semaphore.ts'
import { background } from '../../src/core/kit/background.ts'

/*
 * The life of a flow, on the instance's node. Every OPEN is authorised here, against this node's table (SEC-14):
 *
 *   OPEN ─▶ well-formed? ─▶ caller on that peer? allowed? ─▶ instance here? ─▶ dial ─▶ OPENED, bytes both ways
 *              │                │ (unknown: ask once)           │                │
 *              └────────────────┴───────────────────────────────┴────────────────┴─▶ REFUSED
 */

export interface InboundParts extends CheckParts {
  readonly interests: InterestSource
  /** Addresses no flow may reach: the agent's own ports (SEC-23). Link-local ones never are. */
  readonly forbids?: (address: string, port: number) => boolean
  /** The address the instance shall see its caller under (`callerAddress`). */
  readonly addressOf?: (caller: InstanceId) => string | undefined
  /** The PROXY header for an instance that asks for one (`introduce`). */
  readonly introduce?: (request: FlowRequest, from: { peer: NodeId; localPort: number }) => Buffer
  /** Which paths the node allows, beside what each service says; any without it. */
  readonly paths?: PathRule
  readonly limits: InboundLimits
  readonly descriptors: Pick<Descriptors, 'reserve'>
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
}

export const INBOUND_LIMITS: InboundLimits = {
  maxFlows: 16_384,
  dials: 256,
  dialsWaiting: 8_192,
  dialMs: 2_000,
  drainMs: 5_000,
}

/** Interests asked for at one time on behalf of peers: what a peer names must not become load for the cluster. */
const ASKING_LIMIT = 32
/** How long a name that the cluster did not know is not asked for again. Larger: a new caller waits longer. */
const UNKNOWN_MS = 2_000
/** Names remembered as asked; beyond them nothing more is asked for a while. */
const UNKNOWN_LIMIT = 256

/** Between looks whether the instances of UDP flows are still where they were. Smaller costs more, larger errs longer. */
const DATAGRAM_SWEEP_MS = 1_000

/** The node that sent OPEN, until it is answered. */
interface Opener {
  isGone: boolean
  abandon?: () => void
}
type Via = Pick<IncomingStream, 'peer' | 'path'>

/** Takes the streams that other nodes open, and carries them to instances here. */
export class Inbound implements AsyncDisposable {
  readonly #life: Lifetime
  readonly #parts: InboundParts
  readonly #dials: KeyedSemaphore<InstanceId>
  readonly #ruleOf: (service: ServiceId) => PathRule
  readonly #datagrams: DatagramInbound
  readonly #joints = new Set<Splice | DatagramPipe>()
  readonly #perInstance = new Map<InstanceId, number>()
  readonly #unknown = new Map<InterestKey, number>()
  #asking = 0
  #isDraining = false
  #idle: (() => void) | undefined

  private constructor(life: Lifetime, parts: InboundParts) {
    this.#life = life
    this.#parts = parts
    this.#dials = new KeyedSemaphore(parts.limits.dials)
    this.#ruleOf = flowRules(parts.paths ?? ANY_PATH, parts.table)
    this.#datagrams = new DatagramInbound(parts)
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
    return this.#joints.size
  }

  /** Flows from other nodes that are open to the instance: while it stops, they may finish. */
  openFlows(instance: InstanceId): number {
    return this.#perInstance.get(instance) ?? 0
  }

  /** What `Peers` is given: called for every OPEN. */
  readonly take = (incoming: IncomingStream): void => {
    void background.run('incoming stream', async () => {
      try {
        await this.#take(incoming)
      } catch (error) {
        incoming.refuse('unreachable') // the caller tries another instance
        throw error
      }
    })
  }

  close(): Promise<void> {
    return this.#life.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #take(incoming: IncomingStream): Promise<void> {
    const { limits, descriptors } = this.#parts
    const opener: Opener = { isGone: false }
    incoming.onGone(() => {
      opener.isGone = true
      opener.abandon?.()
    })
    const request = decodeRequest(incoming.request)
    if (request === undefined) return this.#refuse(incoming, refused('bad-request', 'malformed request'))
    if (this.#isDraining) return this.#refuse(incoming, refused('draining', 'the agent is closing'), request)
    if (this.#joints.size >= limits.maxFlows || this.#dials.waiting >= limits.dialsWaiting)
      return this.#refuse(incoming, refused('overloaded', 'too many flows'), request)
    if (!descriptors.reserve(1))
      return this.#refuse(incoming, refused('overloaded', 'no descriptors are left'), request)
    const check = await this.#checked(incoming.peer, request)
    if (opener.isGone) return
    if (check.kind !== 'here') return this.#refuse(incoming, check, request)
    const rule = seenFromThere(this.#ruleOf(request.service))
    if (!allows(rule, incoming.path))
      return this.#refuse(incoming, refused('path-forbidden', `${rule.text} leaves ${incoming.path} out`), request)
    incoming.restrictTo?.(rule)
    const giveUp = this.#dials.take(check.instance, () => this.#dial(incoming, opener, request, check))
    opener.abandon ??= giveUp
  }

  /** Asks the cluster about what is unknown, once for each of service and caller, then looks again. */
  async #checked(peer: NodeId, request: FlowRequest): Promise<Exclude<Check, { kind: 'unasked' }>> {
    let check = checkRequest(peer, request, this.#parts)
    for (let round = 0; round < 2 && check.kind === 'unasked'; round++) {
      if (!(await this.#ask(check.key))) return check.otherwise
      check = checkRequest(peer, request, this.#parts)
    }
    return check.kind === 'unasked' ? check.otherwise : check
  }

  async #ask(key: InterestKey): Promise<boolean> {
    const now = performance.now()
    for (const [known, until] of this.#unknown) {
      if (until > now) break // kept in the order of time
      this.#unknown.delete(known)
    }
    if (this.#unknown.has(key) || this.#unknown.size >= UNKNOWN_LIMIT || this.#asking >= ASKING_LIMIT) return false
    this.#asking++
    try {
      await this.#parts.interests.want(key)
      return true
    } catch {
      return false // told as the refusal
    } finally {
      this.#asking--
      this.#unknown.delete(key)
      this.#unknown.set(key, performance.now() + UNKNOWN_MS)
    }
  }

  #dial(incoming: IncomingStream, opener: Opener, request: FlowRequest, { instance, endpoint }: Here): void {
    const { limits, forbids, addressOf, introduce } = this.#parts
    const { peer, path } = incoming
    const from = request.caller.kind === 'instance' ? addressOf?.(request.caller.id) : undefined
    const settled = (): void => this.#dials.done(instance)
    const joined = (joint: Splice | DatagramPipe): void => {
      delete opener.abandon
      settled()
      this.#joints.add(joint)
      this.#count(request, 1)
    }
    const ended = (joint: Splice | DatagramPipe): void => this.#ended(joint, incoming, request)
    const failed = (refusal: Refusal, reason: string): void => {
      settled()
      this.#refuse(incoming, refused(refusal, reason), request)
    }
    const options: DialOptions = {
      timeoutMs: limits.dialMs,
      from,
      forbids,
      introduce: introduce && ((localPort) => introduce(request, { peer, localPort })),
    }
    const connected = (socket: Socket): void => {
      const joint = new Splice()
      const far = new SocketStream(socket, joint.far)
      joint.far.stream = far
      joint.near.stream = incoming.accept(joint.near)
      joined(joint)
      socket.once('close', this.#whenClosed(joint, { peer, path }, request))
      far.start()
    }
    const place = { instance, port: request.port, endpoint }
    const abandon =
      request.protocol === 'udp'
        ? this.#datagrams.join(incoming, place, options, { joined, failed, ended })
        : dialInstance(endpoint, options, { connected, failed })
    opener.abandon = () => {
      abandon()
      settled()
    }
  }

  /** Made here, so that a flow keeps no more of its beginning than this. */
  #whenClosed(joint: Splice, via: Via, request: FlowRequest): () => void {
    return () => this.#ended(joint, via, request)
  }

  #ended(joint: Splice | DatagramPipe, { peer, path }: Via, request: FlowRequest): void {
    const { log, metrics } = this.#parts
    this.#joints.delete(joint)
    this.#count(request, -1)
    metrics.inboundStreams.inc({ result: joint.end })
    if (log.isDebug) {
      const instance = instanceId(request.service, request.ordinal)
      const bytes = { received: joint.near.bytes, sent: joint.far.bytes }
      log.debug('inbound flow ended', { flow: request.flow, peer, path, instance, ...bytes, end: joint.end })
    }
    if (this.#joints.size === 0) this.#idle?.()
  }

  #count({ service, ordinal }: FlowRequest, by: 1 | -1): void {
    const instance = instanceId(service, ordinal)
    const flows = this.openFlows(instance) + by
    if (flows === 0) this.#perInstance.delete(instance)
    else this.#perInstance.set(instance, flows)
  }

  #refuse(incoming: IncomingStream, { refusal, reason }: Refused, request?: FlowRequest): void {
    const { log, metrics } = this.#parts
    const { peer } = incoming
    metrics.inboundStreams.inc({ result: refusal })
    const asked = request && {
      flow: request.flow,
      instance: instanceId(request.service, request.ordinal),
      port: request.port,
      caller: callerText(request.caller, peer),
    }
    log.info('inbound flow refused', { peer, ...asked, reason: `${refusal}: ${reason}` })
    incoming.refuse(refusal)
  }

  async #drain(): Promise<void> {
    this.#isDraining = true
    if (this.#joints.size > 0) {
      const { promise, resolve } = Promise.withResolvers<void>()
      const timer = setTimeout(resolve, this.#parts.limits.drainMs)
      this.#idle = resolve
      await promise
      clearTimeout(timer)
    }
    for (const joint of this.#joints) joint.cut()
    await this.#dials.onIdle()
  }
}
