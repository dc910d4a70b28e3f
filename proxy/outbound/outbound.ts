import { Cancellation } from '../../src/core/kit/cancellation.ts'
import type { InstanceId, NodeId } from '../../src/core/model/ids.ts'
import type { PathKind } from '../../src/core/model/path-rule.ts'
import type { FlowRefusal } from '../decide/plan.ts'
import { callerText, type Flow, nameOf } from '../flow/flow.ts'
import type { FlowEnd } from '../flow/flow-line.ts'
import { endOf, type FlowLedger, type OpenFlow } from '../flow/ledger.ts'
import { type FlowDecisions, idsOf } from '../flow/spans.ts'
import { resetSocket } from '../socket/reset.ts'
import { SocketStream, Splice } from '../socket/splice.ts'
import { TcpAttempt } from './attempt.ts'
import { decisionsOf } from './decisions.ts'
import { EarlyData } from './early-data.ts'
import { type Established, establish, type EstablishParts } from './establish.ts'

/*
 * The life of a TCP flow, on the caller's node:
 *
 *   taken ─▶ establish (room, turn, plan, race of tries) ─▶ bytes both ways ─▶ ended: one log line
 *                 └─▶ refused: RST, or the answer of SOCKS and HTTP; one log line
 *
 * What the caller sends before an instance has answered is early-data.ts.
 */

export interface OutboundParts extends EstablishParts {
  readonly ledger: FlowLedger
  /** Callers' first bytes are sent before an instance has answered, where that saves a round trip. */
  readonly earlyData: boolean
}

/** Carries one flow from its interceptor to an instance. Resolves when the flow has ended; never rejects. */
export function outbound(flow: Flow, parts: OutboundParts): Promise<void> {
  return new OutboundFlow(flow, parts).run()
}

/** One flow, in the ledger from its first moment to its last. */
class OutboundFlow implements OpenFlow {
  readonly id: string
  readonly caller: string
  readonly name: string
  readonly port: number
  readonly protocol = 'tcp'
  readonly mode: Flow['mode']
  readonly policy: string
  readonly startedAt: number
  readonly pipe: Splice
  instance?: InstanceId
  node?: NodeId
  path?: PathKind
  decisions?: FlowDecisions
  readonly #flow: Flow
  readonly #parts: OutboundParts
  readonly #near: SocketStream
  readonly #gone = new Cancellation()
  #early: EarlyData | undefined
  /** Set once somebody waits for the socket to close. */
  #closed: (() => void) | undefined

  /** From here on the flow is in the ledger and its socket is watched. */
  constructor(flow: Flow, parts: OutboundParts) {
    this.#flow = flow
    this.#parts = parts
    this.id = parts.ledger.nextId()
    this.caller = callerText(flow.caller, parts.self)
    this.name = nameOf(flow.target)
    this.port = flow.port
    this.mode = flow.mode
    this.policy = flow.target.choice.policy
    this.startedAt = flow.startedAt
    this.pipe = new Splice(flow.allowance, flow.reply?.answer)
    this.#near = new SocketStream(flow.socket, this.pipe.near)
    this.pipe.near.stream = this.#near
    parts.ledger.add(this)
    if (flow.socket.destroyed) this.#gone.cancel()
    else
      flow.socket.on('close', () => {
        this.#gone.cancel()
        this.#closed?.()
      })
  }

  async run(): Promise<void> {
    const established = await this.#establish()
    if (this.#parts.ledger.isTraced(this)) this.decisions = decisionsOf(established)
    if (established.kind !== 'won') {
      this.#early?.drop()
      this.pipe.far.drain()
      return this.#refuse(established.kind === 'refused' ? established.refusal : this.#gaveUp())
    }
    const { socket } = this.#flow
    if (!socket.closed) await new Promise<void>((resolve) => (this.#closed = resolve))
    this.#parts.ledger.ended(this, endOf(this.pipe.end), '')
  }

  /** As the agent does when it closes. */
  cut(): void {
    this.pipe.cut()
    this.#gone.cancel()
  }

  #establish(): Promise<Established<TcpAttempt>> {
    const { target, port, caller } = this.#flow
    this.#early = this.#parts.earlyData ? new EarlyData(() => this.#near.start()) : undefined
    this.pipe.far.stream = this.#early
    return establish(
      {
        attempt: TcpAttempt,
        intent: { target, port, protocol: 'tcp', caller },
        from: this.#flow.socket,
        flow: this.id,
        early: this.#early,
        onWon: (attempt) => this.#join(attempt),
      },
      this.#parts,
      this.#gone,
    )
  }

  /** Called in the same turn as OPENED: from here on bytes go both ways. */
  #join(attempt: TcpAttempt): void {
    const { ledger, metrics, clock } = this.#parts
    const path = attempt.path ?? 'local'
    ledger.chosen(this, attempt, path)
    const seconds = (clock.now() - this.startedAt) / 1000
    metrics.flowConnect.record(path, seconds)
    if (ledger.isTraced(this)) metrics.flowConnect.mark(path, seconds, idsOf(this.id).traceId)
    if (attempt.stream !== undefined) this.#early?.settle(attempt.stream)
    this.#early = undefined
    this.pipe.far.stream = attempt.stream
    attempt.onward = this.pipe.far
    this.#flow.reply?.connected()
    this.#near.start()
    this.pipe.far.drain()
  }

  #gaveUp(): FlowRefusal {
    const end: FlowEnd = this.pipe.end === 'cut' ? 'cut' : 'caller-gone'
    return { end, code: 'FLOW_REFUSED', reason: 'the caller gave up' }
  }

  #refuse({ end, code, reason }: FlowRefusal): void {
    const { reply, socket } = this.#flow
    this.#parts.ledger.ended(this, end, reason)
    if (reply !== undefined && end !== 'cut') reply.failed(code, reason)
    else resetSocket(socket)
  }
}
