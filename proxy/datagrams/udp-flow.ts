import type { Log } from '../../src/core/kit/log.ts'
import type { InstanceId, NodeId } from '../../src/core/model/ids.ts'
import type { PathKind } from '../../src/core/model/path-rule.ts'
import type { PenaltyList } from '../decide/penalty-list.ts'
import type { FlowIntent } from '../decide/plan.ts'
import { callerText, nameOf } from '../flow/flow.ts'
import type { UserFlowsOptions } from '../flow/user-flows.ts'
import type { FlowEnd } from '../flow/flow-line.ts'
import { endOf, type OpenFlow } from '../flow/ledger.ts'
import { type FlowDecisions, idsOf } from '../flow/spans.ts'
import { UdpAttempt } from '../outbound/attempt.ts'
import { decisionsOf } from '../outbound/decisions.ts'
import { type Established, establish } from '../outbound/establish.ts'
import type { OutboundParts } from '../outbound/outbound.ts'
import type { DatagramPipe } from '../socket/datagram-pipe.ts'
import type { DatagramStream } from '../tunnel/contract.ts'
import type { DatagramFlow } from './flow.ts'

export interface DatagramParts extends OutboundParts {
  /** The flows of this agent write to it; plans read it. */
  readonly penalties: PenaltyList
  readonly log: Log
  readonly isHere?: UserFlowsOptions['isHere']
}

/**
 * One UDP flow in the ledger, from what it is for until it has ended: as `OutboundFlow` is for TCP. `run` never rejects.
 */
export class UdpFlow implements OpenFlow {
  readonly id: string
  readonly caller: string
  readonly name: string
  readonly port: number
  readonly protocol = 'udp'
  readonly mode: DatagramFlow['client']['mode']
  readonly policy: string
  readonly startedAt: number
  readonly pipe: DatagramPipe
  instance?: InstanceId
  node?: NodeId
  path?: PathKind
  decisions?: FlowDecisions
  readonly #flow: DatagramFlow
  readonly #intent: FlowIntent
  readonly #parts: DatagramParts

  /** From here on the flow is in the ledger. */
  constructor(flow: DatagramFlow, intent: FlowIntent, parts: DatagramParts) {
    this.#flow = flow
    this.#intent = intent
    this.#parts = parts
    this.id = parts.ledger.nextId()
    this.caller = callerText(intent.caller, parts.self)
    this.name = nameOf(intent.target)
    this.port = intent.port
    this.mode = flow.client.mode
    this.policy = intent.target.choice.policy
    this.startedAt = flow.client.startedAt
    this.pipe = flow.pipe
    parts.ledger.add(this)
  }

  /** Carries the flow; returns how its client is to be treated: `refused` and the like make it rest. */
  async run(): Promise<FlowEnd> {
    const { earlyData } = this.#parts
    const established = await establish(
      {
        attempt: UdpAttempt,
        intent: this.#intent,
        flow: this.id,
        early: earlyData ? this.#flow : undefined,
        onWon: (attempt) => this.#join(attempt),
      },
      this.#parts,
      this.#flow.gone,
    )
    if (this.#parts.ledger.isTraced(this)) this.decisions = decisionsOf(established)
    return established.kind === 'won' ? this.#carried(established) : this.#notCarried(established)
  }

  cut(): void {
    this.#flow.cut()
  }

  #join(attempt: UdpAttempt): void {
    const { ledger, metrics, clock } = this.#parts
    const path = attempt.path ?? 'local'
    ledger.chosen(this, attempt, path)
    const seconds = (clock.now() - this.startedAt) / 1000
    metrics.flowConnect.record(path, seconds)
    if (ledger.isTraced(this)) metrics.flowConnect.mark(path, seconds, idsOf(this.id).traceId)
    attempt.onward = this.pipe.far
    this.#flow.opened(attempt.instance, attempt.stream as DatagramStream)
  }

  async #carried({ attempt, plan }: Extract<Established<UdpAttempt>, { kind: 'won' }>): Promise<FlowEnd> {
    const { ledger, penalties } = this.#parts
    const { instance } = attempt
    const instances = plan.candidates.map((candidate) => candidate.instance)
    await this.#flow.ended
    const end = endOf(this.pipe.end)
    if (end === 'instance-reset' || end === 'node-lost')
      penalties.add(instance, { isMute: this.pipe.far.datagrams === 0 })
    ledger.ended(this, end, '')
    // This client rests, or each of its datagrams would open a flow in vain; another client is tried at once, since the
    // port may be open again.
    return penalties.areClosed(instances) ? 'refused' : end
  }

  #notCarried(established: Exclude<Established<UdpAttempt>, { kind: 'won' }>): FlowEnd {
    const { ledger } = this.#parts
    if (established.kind === 'gone') {
      const end = this.pipe.end === 'cut' ? 'cut' : 'caller-gone'
      ledger.ended(this, end, 'the caller gave up')
      return end
    }
    const { end, reason } = established.refusal
    ledger.ended(this, end, reason)
    return established.why === 'unsure' ? 'instance-reset' : end // another may answer what the client sends next
  }
}
