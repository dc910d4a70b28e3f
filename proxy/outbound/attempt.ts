import type { Protocol } from '../flow/flow.ts'
import { explain, isMeshError } from '../../src/core/errors.ts'
import type { InstanceId } from '../../src/core/model/ids.ts'
import type { Instance } from '../../src/core/model/instance.ts'
import type { PathKind, PathRule } from '../../src/core/model/path-rule.ts'
import type { TableView } from '../../src/core/table/view.ts'
import type { Candidate } from '../decide/plan.ts'
import { encodeRequest, type FlowRequest } from '../flow/request.ts'
import type { Try } from '../flow/tries.ts'
import { dialInstance, type DialOptions, type Endpoint } from '../socket/dial.ts'
import { InstanceSocket, openInstanceSocket } from '../socket/instance-socket.ts'
import { localStream } from '../socket/splice.ts'
import type {
  ByteStream,
  ByteStreamEvents,
  DatagramStream,
  DatagramStreamEvents,
  OpeningEvents,
  Peers,
  Refusal,
  Route,
  Session,
  Stream,
  Withdrawable,
} from '../tunnel/contract.ts'

/** What trying an instance takes. */
export interface AttemptParts {
  readonly table: Pick<TableView, 'node'>
  readonly peers: Pick<Peers, 'session' | 'existing'>
  readonly clock: { now(): number }
  /** Where an instance of this node listens; `undefined` when it is not here or has no such port. */
  readonly endpointOf: (instance: InstanceId, port: number, protocol: Protocol) => Endpoint | undefined
  /** How local instances are dialled. */
  readonly dial: (request: FlowRequest) => DialOptions
}

/** The race of a flow, which hears of each of its attempts. */
export interface AttemptObserver<S extends Stream> {
  /** OPEN is about to be sent: may the caller's first bytes go along with it? */
  mayFeed(attempt: Attempt<S>, route: Route): boolean
  /** OPEN was sent, and the first bytes may follow on this stream. */
  feed(attempt: Attempt<S>, stream: S): void
  opened(attempt: Attempt<S>): void
  /** The instance was given no byte. */
  failed(attempt: Attempt<S>, refusal: Refusal, reason: string): void
  /** Whether the instance was given a byte is not known. */
  lost(attempt: Attempt<S>, reason: string): void
}

/** Which instance is tried for what. */
export interface AttemptTask {
  readonly candidate: Candidate
  /** Its place in the order to try. */
  readonly index: number
  readonly request: FlowRequest
  readonly rule: PathRule
  /** The plan was made in this very turn of the event loop, so its session is still the one to use. */
  readonly isFresh: boolean
}

/** How dialling an instance of this node went. */
interface DialledEvents<S extends Stream> {
  opened(stream: S): void
  failed(refusal: Refusal, reason: string): void
}

/**
 * One try to reach one instance. It reports its outcome once, to the race; the winner then passes what its stream receives
 * on to the flow. `TcpAttempt` and `UdpAttempt` know how a stream of their protocol is opened.
 */
export abstract class Attempt<S extends Stream> implements OpeningEvents {
  readonly instance: Instance
  readonly index: number
  readonly startedAt: number
  path: PathKind | undefined
  /** Where it was dialled, if it is of this node. */
  endpoint: Endpoint | undefined
  stream: S | undefined
  /** Until the outcome is reported: an open flow must not keep the race it came from in memory. */
  #race: { readonly observer: AttemptObserver<S>; readonly task: AttemptTask } | undefined
  #dialling: AbortController | undefined
  #abandon: (() => void) | undefined
  /** Set where a peer was asked. */
  #asked: Withdrawable | undefined

  protected abstract openOn(session: Session, request: Buffer, rule: PathRule): S & Withdrawable
  /** Reaches an instance of this node; the returned function gives up. */
  protected abstract dialHere(endpoint: Endpoint, options: DialOptions, events: DialledEvents<S>): () => void

  constructor(task: AttemptTask, observer: AttemptObserver<S>, now: number) {
    this.instance = task.candidate.instance
    this.index = task.index
    this.startedAt = now
    this.#race = { observer, task }
  }

  start(parts: AttemptParts): void {
    const task = this.#race?.task
    if (task === undefined) return
    const { candidate, isFresh, request, rule } = task
    if (candidate.isHere) return this.#dial(request, parts)
    const { node } = this.instance
    const session = isFresh ? candidate.session : parts.peers.existing(node, rule)
    if (session !== undefined) return this.#open(session)
    const reach = parts.table.node(node)
    if (reach === undefined) return this.#fail('unreachable', `nothing is known of node ${node}`)
    this.#dialling = new AbortController()
    parts.peers.session(reach, this.#dialling.signal, rule).then(
      (dialled) => this.#open(dialled),
      (error: unknown) =>
        this.#fail(isMeshError(error, 'PATH_FORBIDDEN') ? 'path-forbidden' : 'unreachable', explain(error)),
    )
  }

  /** Gives up, or throws away what was opened too late. */
  drop(): void {
    this.#race = undefined
    this.#dialling?.abort()
    this.#abandon?.()
    this.stream?.reset()
  }

  /** Asks for a refusal; none comes when the instance has taken the flow. */
  withdraw(): void {
    this.#asked?.withdraw()
  }

  opened(): void {
    const observer = this.#settle()
    if (observer === undefined) this.stream?.reset()
    else observer.opened(this)
  }

  refused(refusal: Refusal): void {
    this.#fail(refusal, `refused by ${this.instance.node}`)
  }

  /** The stream died before it was open. */
  protected lost(): void {
    this.#settle()?.lost(this, 'the session to the node ended')
  }

  #open(session: Session): void {
    if (this.#race === undefined) return
    const { observer, task } = this.#race
    const route = session.route(task.rule)
    this.path = route?.path
    const mayFeed = route !== undefined && observer.mayFeed(this, route)
    const stream = this.openOn(session, encodeRequest(task.request), task.rule)
    this.stream = stream
    this.#asked = stream
    if (mayFeed) observer.feed(this, stream)
  }

  #dial(request: FlowRequest, parts: AttemptParts): void {
    this.path = 'local'
    const endpoint = parts.endpointOf(this.instance.id, request.port, request.protocol)
    if (endpoint === undefined) return this.#fail('not-here', 'the instance does not listen here')
    this.endpoint = endpoint
    this.#abandon = this.dialHere(endpoint, parts.dial(request), {
      opened: (stream) => {
        this.#abandon = undefined
        this.stream = stream
        this.opened()
      },
      failed: (refusal, reason) => this.#fail(refusal, reason),
    })
  }

  #fail(refusal: Refusal, reason: string): void {
    this.#settle()?.failed(this, refusal, reason)
  }

  /** The observer to report the outcome to; `undefined` the second time. */
  #settle(): AttemptObserver<S> | undefined {
    const observer = this.#race?.observer
    this.#race = undefined
    return observer
  }
}

/** A try of a TCP flow. */
export class TcpAttempt extends Attempt<ByteStream> implements ByteStreamEvents {
  /** Gets what the stream reports once this attempt has won. */
  onward: ByteStreamEvents | undefined

  data(chunk: Buffer): void {
    this.onward?.data(chunk)
  }

  drain(): void {
    this.onward?.drain()
  }

  end(): void {
    this.onward?.end()
  }

  reset(because?: 'lost'): void {
    if (this.onward === undefined) this.lost()
    else this.onward.reset(because)
  }

  protected openOn(session: Session, request: Buffer, rule: PathRule): ByteStream & Withdrawable {
    return session.open(request, this, rule)
  }

  protected dialHere(endpoint: Endpoint, options: DialOptions, events: DialledEvents<ByteStream>): () => void {
    return dialInstance(endpoint, options, {
      connected: (socket) => events.opened(localStream(socket, this)),
      failed: (refusal, reason) => events.failed(refusal, reason),
    })
  }
}

/** A try of a UDP flow. */
export class UdpAttempt extends Attempt<DatagramStream> implements DatagramStreamEvents {
  /** Gets what the stream reports once this attempt has won. */
  onward: DatagramStreamEvents | undefined

  datagram(payload: Buffer): void {
    this.onward?.datagram(payload)
  }

  end(): void {
    this.onward?.end()
  }

  reset(because?: 'lost'): void {
    if (this.onward === undefined) this.lost()
    else this.onward.reset(because)
  }

  protected openOn(session: Session, request: Buffer, rule: PathRule): DatagramStream & Withdrawable {
    return session.openDatagrams(request, this, rule)
  }

  protected dialHere(endpoint: Endpoint, options: DialOptions, events: DialledEvents<DatagramStream>): () => void {
    return openInstanceSocket(endpoint, options, {
      opened: (socket) => events.opened(new InstanceSocket(socket, this)),
      failed: (refusal, reason) => events.failed(refusal, reason),
    })
  }
}

/** The record of an attempt while it is under way. */
export function tryOf({ candidate }: AttemptTask, at: number): Try {
  const { instance, rttMs } = candidate
  const { id, node } = instance
  return {
    instance: id,
    node,
    path: undefined,
    rttMs,
    at,
    outcome: 'dropped',
    reason: 'another was faster',
    ms: 0,
    isEarly: false,
  }
}
