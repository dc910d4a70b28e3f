import type { Clock } from '../../src/core/kit/clock.ts'
import { explain, isMeshError } from '../../src/core/errors.ts'
import type { InstanceId, NodeId, ServiceId } from '../../src/core/model/ids.ts'
import type { Instance } from '../../src/core/model/instance.ts'
import { ANY_PATH, type PathRule, type PathKind } from '../../src/core/model/path-rule.ts'
import type { TableView } from '../../src/core/table/view.ts'
import { InstanceSocket, openInstanceSocket } from '../socket/instance-socket.ts'
import { dialInstance, type DialOptions, type Endpoint } from '../socket/dial.ts'
import { encodeRequest, type FlowRequest, type Protocol } from '../flow/request.ts'
import { localStream } from '../socket/splice.ts'
import type { Outliers } from '../decide/outliers.ts'
import type {
  ByteStream,
  ByteStreamEvents,
  DatagramStream,
  DatagramStreamEvents,
  OpeningEvents,
  Peers,
  Refusal,
  Session,
  Stream,
  Withdrawable,
} from '../tunnel/contract.ts'

/** What trying an instance takes. */
export interface AttemptParts {
  readonly table: TableView
  readonly peers: Peers
  readonly self: NodeId
  /** Where an instance of this node listens; `undefined` when it is not here or has no such port. */
  readonly endpointOf: (instance: InstanceId, port: number, protocol: Protocol) => Endpoint | undefined
  readonly clock: Clock
  /** Nodes not to be waited for now; without them every flow is patient. */
  readonly outliers?: Outliers
  /** How local instances are dialled. */
  readonly dial: (request: FlowRequest) => DialOptions
  /** Which paths flows of a service may take (`flowRules`); without it any. */
  readonly ruleOf?: (service: ServiceId) => PathRule
}

export interface AttemptTold<S extends Stream> {
  /** OPEN is about to go: whether the caller's first bytes shall go along … */
  mayGive?(session: Session): boolean
  /** … and here they go. */
  give?(stream: S): void
  opened(): void
  /** The instance had not a byte. */
  failed(refusal: Refusal, reason: string): void
  /** Whether it had some is not known. */
  lost(reason: string): void
}

/** How dialling an instance of this node went. */
interface DialTold<S extends Stream> {
  took(stream: S): void
  failed(refusal: Refusal, reason: string): void
}

/**
 * One try to reach one instance: reports its outcome once, then passes what the winner's stream reports on to the flow.
 * `TcpAttempt` and `UdpAttempt` say how a stream of their protocol is opened.
 */
export abstract class Attempt<S extends Stream> implements OpeningEvents {
  readonly instance: Instance
  path: PathKind | undefined
  stream: S | undefined
  /** Until it is told; a flow shall not keep the race it came from. */
  #told: AttemptTold<S> | undefined
  #dialling: AbortController | undefined
  #abandon: (() => void) | undefined
  /** Set where a peer was asked. */
  #asked: Withdrawable | undefined
  #isSettled = false

  protected abstract openOn(session: Session, request: Buffer, rule: PathRule): S & Withdrawable
  /** Reaches an instance of this node; the returned function gives up. */
  protected abstract dialHere(endpoint: Endpoint, options: DialOptions, told: DialTold<S>): () => void

  constructor(instance: Instance, told: AttemptTold<S>) {
    this.instance = instance
    this.#told = told
  }

  start(request: FlowRequest, parts: AttemptParts): void {
    const { node } = this.instance
    if (node === parts.self) return this.#dial(request, parts)
    const rule = parts.ruleOf?.(request.service) ?? ANY_PATH
    const session = parts.peers.existing(node, rule)
    if (session !== undefined) return this.#open(session, request, rule)
    const reach = parts.table.node(node)
    if (reach === undefined) return this.#fail('unreachable', `nothing is known of node ${node}`)
    this.#dialling = new AbortController()
    parts.peers.session(reach, this.#dialling.signal, rule).then(
      (session) => this.#open(session, request, rule),
      (error: unknown) =>
        this.#fail(isMeshError(error, 'PATH_FORBIDDEN') ? 'path-forbidden' : 'unreachable', explain(error)),
    )
  }

  /** Gives up, or throws away what was opened too late. */
  drop(): void {
    this.#isSettled = true
    this.#dialling?.abort()
    this.#abandon?.()
    this.stream?.reset()
  }

  /** Asks for a refusal; none comes when the instance has taken the flow. */
  withdraw(): void {
    this.#asked?.withdraw()
  }

  opened(): void {
    if (this.#isSettled) return this.stream?.reset()
    this.#settle()?.opened()
  }

  refused(refusal: Refusal): void {
    this.#fail(refusal, `refused by ${this.instance.node}`)
  }

  /** The stream died before it was open. */
  protected lost(): void {
    this.#settle()?.lost('the session to the node ended')
  }

  #open(session: Session, request: FlowRequest, rule: PathRule): void {
    if (this.#isSettled) return
    this.path = session.pathFor?.(rule) ?? session.path
    const mayGive = this.#told?.mayGive?.(session) === true
    const stream = this.openOn(session, encodeRequest(request), rule)
    this.stream = stream
    this.#asked = stream
    if (mayGive) this.#told?.give?.(stream)
  }

  #dial(request: FlowRequest, parts: AttemptParts): void {
    this.path = 'local'
    const { port, protocol } = request
    const endpoint = parts.endpointOf(this.instance.id, port, protocol)
    if (endpoint === undefined) return this.#fail('not-here', 'the instance does not listen here')
    this.#abandon = this.dialHere(endpoint, parts.dial(request), {
      took: (stream) => {
        this.#abandon = undefined
        this.stream = stream
        this.opened()
      },
      failed: (refusal, reason) => this.#fail(refusal, reason),
    })
  }

  #fail(refusal: Refusal, reason: string): void {
    this.#settle()?.failed(refusal, reason)
  }

  /** Whom to tell the outcome; nobody the second time. */
  #settle(): AttemptTold<S> | undefined {
    if (this.#isSettled) return undefined
    this.#isSettled = true
    const told = this.#told
    this.#told = undefined
    return told
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

  reset(): void {
    if (this.onward === undefined) this.lost()
    else this.onward.reset()
  }

  protected openOn(session: Session, request: Buffer, rule: PathRule): ByteStream & Withdrawable {
    return session.open(request, this, rule)
  }

  protected dialHere(endpoint: Endpoint, options: DialOptions, told: DialTold<ByteStream>): () => void {
    return dialInstance(endpoint, options, {
      connected: (socket) => told.took(localStream(socket, this)),
      failed: (refusal, reason) => told.failed(refusal, reason),
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

  reset(): void {
    if (this.onward === undefined) this.lost()
    else this.onward.reset()
  }

  protected openOn(session: Session, request: Buffer, rule: PathRule): DatagramStream & Withdrawable {
    return session.openDatagrams(request, this, rule)
  }

  protected dialHere(endpoint: Endpoint, options: DialOptions, told: DialTold<DatagramStream>): () => void {
    return openInstanceSocket(endpoint, options, {
      opened: (socket) => told.took(new InstanceSocket(socket, this)),
      failed: (refusal, reason) => told.failed(refusal, reason),
    })
  }
}
