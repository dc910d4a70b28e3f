import type { Socket } from 'node:net'
import type { InstanceId, NodeId } from '../../src/core/model/ids.ts'
import { callerText } from '../flow/flow.ts'
import type { FlowRequest } from '../flow/request.ts'
import type { DatagramPipe } from '../socket/datagram-pipe.ts'
import { dialInstance, type DialOptions, type Endpoint } from '../socket/dial.ts'
import { SocketStream, Splice } from '../socket/splice.ts'
import type { IncomingStream, Refusal } from '../tunnel/contract.ts'
import { type OwnInstances, type Refused, refused } from './check-request.ts'
import type { DatagramInbound } from './datagrams.ts'
import type { DialQueue } from './dial-queue.ts'

/** What joins the other node's stream with the instance. */
export type InboundPipe = Splice | DatagramPipe

export interface OpeningParts {
  /** Until the instance must have accepted. */
  readonly dialMs: number
  readonly dials: DialQueue
  readonly datagrams: DatagramInbound
  readonly forbids?: ((address: string, port: number, protocol: 'tcp' | 'udp') => boolean) | undefined
  readonly addressOf?: ((caller: InstanceId) => string | undefined) | undefined
  readonly introduce?: ((request: FlowRequest, from: { peer: NodeId; localPort: number }) => Buffer) | undefined
}

/** The flow that an opening became. */
export interface JoinedFlow {
  /** That of its opening. */
  readonly number: number
  readonly pipe: InboundPipe
  readonly request: FlowRequest
  readonly peer: NodeId
  readonly path: IncomingStream['path']
  /** Where the instance was dialled. */
  readonly endpoint: Endpoint
  /** `performance.now()` when OPEN came. */
  readonly startedAt: number
}

export interface OpeningEvents {
  refused(opening: Opening, refused: Refused): void
  /** The node that sent OPEN has given up what `open` had begun. */
  gone(opening: Opening): void
  joined(flow: JoinedFlow): void
  /** Once, after `joined`: the flow with this number. */
  ended(number: number): void
}

/** What an opening begins with. */
export type Opened = Pick<Opening, 'number' | 'incoming' | 'request'>

/**
 * One OPEN of another node until it is answered:
 *
 *   checked ─▶ waits for its turn at the instance ─▶ dialling ─▶ joined: the flow goes on without this object
 *                     └───────────────────────────────┴─▶ refused, or the node that sent OPEN has given up (`isGone`)
 */
export class Opening {
  /** Unique on this node. */
  readonly number: number
  readonly incoming: IncomingStream
  readonly request: FlowRequest
  readonly startedAt = performance.now()
  isGone = false
  /** `open` was called, and nothing has come of it yet. */
  isUnderWay = false
  readonly #parts: OpeningParts
  readonly #events: OpeningEvents
  /** Gives up what is under way now. */
  #abandon: (() => void) | undefined

  constructor({ number, incoming, request }: Opened, { parts, events }: OpeningContext) {
    this.number = number
    this.incoming = incoming
    this.request = request
    this.#parts = parts
    this.#events = events
    incoming.onGone(() => {
      this.isGone = true
      this.#abandon?.()
      if (!this.isUnderWay) return
      this.isUnderWay = false
      events.gone(this)
    })
  }

  /** Waits for its turn, then dials. */
  open(here: OwnInstances): void {
    this.isUnderWay = true
    const { peer } = this.incoming
    const by = { peer, caller: callerText(this.request.caller, peer) }
    const giveUp = this.#parts.dials.enter(here.instance, by, () => this.#dial(here))
    this.#abandon ??= giveUp
  }

  #dial({ instance, endpoint }: OwnInstances): void {
    const { dials, datagrams } = this.#parts
    const { peer } = this.incoming
    const { port, protocol } = this.request
    const failed = (refusal: Refusal, reason: string): void => {
      dials.leave(instance, peer)
      this.#events.refused(this, refused(refusal, reason))
      this.isUnderWay = false
    }
    const joined = (pipe: InboundPipe): void => {
      this.#abandon = undefined
      this.isUnderWay = false
      if (pipe instanceof Splice) dials.connected(instance, { peer, endpoint, hasAnswered: () => pipe.far.bytes > 0 })
      else dials.leave(instance, peer)
      const { number, incoming, request, startedAt } = this
      this.#events.joined({ number, pipe, request, peer: incoming.peer, path: incoming.path, endpoint, startedAt })
    }
    const ended = endedBy(this.#events, this.number)
    const abandon =
      protocol === 'udp'
        ? datagrams.join(this.incoming, { instance, port, endpoint }, this.#dialOptions(), { joined, failed, ended })
        : dialInstance(endpoint, this.#dialOptions(), { connected: (socket) => this.#join(socket, joined), failed })
    this.#abandon = () => {
      abandon()
      dials.leave(instance, peer)
    }
  }

  #dialOptions(): DialOptions {
    const { dialMs, forbids, addressOf, introduce } = this.#parts
    const { request } = this
    const { peer } = this.incoming
    return {
      timeoutMs: dialMs,
      from: request.caller.kind === 'instance' ? addressOf?.(request.caller.id) : undefined,
      forbids,
      introduce: introduce && ((localPort) => introduce(request, { peer, localPort })),
    }
  }

  #join(socket: Socket, joined: (pipe: InboundPipe) => void): void {
    const pipe = new Splice()
    const far = new SocketStream(socket, pipe.far)
    pipe.far.stream = far
    pipe.near.stream = this.incoming.accept(pipe.near)
    joined(pipe)
    socket.once('close', endedBy(this.#events, this.number))
    far.start()
  }
}

export interface OpeningContext {
  readonly parts: OpeningParts
  readonly events: OpeningEvents
}

/** Made here, so that an open flow keeps nothing of its opening in memory. */
function endedBy(events: OpeningEvents, number: number): () => void {
  return () => events.ended(number)
}
