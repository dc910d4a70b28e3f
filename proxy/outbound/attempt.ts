import type { Socket as DatagramSocket } from 'node:dgram'
import type { Socket } from 'node:net'
import type { Clock } from '../../src/core/kit/clock.ts'
import { explain, isMeshError } from '../../src/core/errors.ts'
import type { InstanceId, NodeId, ServiceId } from '../../src/core/model/ids.ts'
import type { Instance } from '../../src/core/model/instance.ts'
import { ANY_PATH, type PathRule, type PathKind } from '../../src/core/model/path-rule.ts'
import type { TableView } from '../../src/core/table/view.ts'
import { InstanceSocket, openInstanceSocket } from '../socket/instance-socket.ts'
import { dialInstance, type DialOptions, type Endpoint } from '../socket/dial.ts'
import { encodeRequest, type FlowRequest, type Protocol } from '../flow/request.ts'
import { localStream, type Carried } from '../socket/splice.ts'
import type { Outliers } from '../decide/outliers.ts'
import type { Peers, Refusal, Session, Stream, StreamEvents } from '../tunnel/contract.ts'

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

export interface AttemptTold {
  /** OPEN is about to go: whether the caller's first bytes shall go along … */
  mayGive?(session: Session): boolean
  /** … and here they go. */
  give?(stream: Stream): void
  opened(): void
  /** The instance had not a byte. */
  failed(refusal: Refusal, reason: string): void
  /** Whether it had some is not known. */
  lost(reason: string): void
}

/** One try to reach one instance: told its outcome once, then carries what the winner's stream says to the joint. */
export class Attempt implements StreamEvents {
  readonly instance: Instance
  path: PathKind | undefined
  stream: Stream | undefined
  /** Where the stream's words go once this attempt has won. */
  onward: Carried | undefined
  /** Until it is told; a flow shall not keep the race it came from. */
  #told: AttemptTold | undefined
  #dialling: AbortController | undefined
  #abandon: (() => void) | undefined
  #isSettled = false

  constructor(instance: Instance, told: AttemptTold) {
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
    this.stream?.withdraw?.()
  }

  opened(): void {
    if (this.#isSettled) return this.stream?.reset()
    this.#settle()?.opened()
  }

  refused(refusal: Refusal): void {
    this.#fail(refusal, `refused by ${this.instance.node}`)
  }

  reset(): void {
    if (this.onward !== undefined) return this.onward.reset()
    this.#settle()?.lost('the session to the node ended')
  }

  data(chunk: Buffer): void {
    this.onward?.data(chunk)
  }

  datagram(payload: Buffer): void {
    this.onward?.datagram?.(payload)
  }

  end(): void {
    this.onward?.end()
  }

  drain(): void {
    this.onward?.drain()
  }

  #open(session: Session, request: FlowRequest, rule: PathRule): void {
    if (this.#isSettled) return
    this.path = session.pathFor?.(rule) ?? session.path
    const mayGive = this.#told?.mayGive?.(session) === true
    this.stream = session.open(encodeRequest(request), this, rule)
    if (mayGive) this.#told?.give?.(this.stream)
  }

  #dial(request: FlowRequest, parts: AttemptParts): void {
    this.path = 'local'
    const { port, protocol } = request
    const endpoint = parts.endpointOf(this.instance.id, port, protocol)
    if (endpoint === undefined) return this.#fail('not-here', 'the instance does not listen here')
    const took = (stream: Stream): void => {
      this.#abandon = undefined
      this.stream = stream
      this.opened()
    }
    const failed = (refusal: Refusal, reason: string): void => this.#fail(refusal, reason)
    const opened = (socket: DatagramSocket): void => took(new InstanceSocket(socket, this))
    const connected = (socket: Socket): void => took(localStream(socket, this))
    this.#abandon =
      protocol === 'udp'
        ? openInstanceSocket(endpoint, parts.dial(request), { opened, failed })
        : dialInstance(endpoint, parts.dial(request), { connected, failed })
  }

  #fail(refusal: Refusal, reason: string): void {
    this.#settle()?.failed(refusal, reason)
  }

  /** Whom to tell the outcome; nobody the second time. */
  #settle(): AttemptTold | undefined {
    if (this.#isSettled) return undefined
    this.#isSettled = true
    const told = this.#told
    this.#told = undefined
    return told
  }
}
