import { randomBytes } from 'node:crypto'
import type { Clock } from '../../src/core/kit/clock.ts'
import { Lifetime } from '../../src/core/kit/lifetime.ts'
import type { Log } from '../../src/core/kit/log.ts'
import { SteadyMap } from '../../src/core/kit/steady-map.ts'
import type { Metrics } from '../../src/core/metrics.ts'
import type { InstanceId, NodeId } from '../../src/core/model/ids.ts'
import { isAmong, type Endpoint } from '../socket/dial.ts'
import type { SpliceEnd } from '../socket/splice.ts'
import type { FlowMode, Protocol } from './flow.ts'
import type { EndedFlow, FlowEnd, FlowLine, LoggedFlow } from './flow-line.ts'
import type { FlowDecisions, FlowSpans } from './spans.ts'
import type { PathKind } from '../../src/core/model/path-rule.ts'

const END: Readonly<Record<SpliceEnd, FlowEnd>> = {
  closed: 'closed',
  'near-reset': 'caller-reset',
  'far-reset': 'instance-reset',
  'far-lost': 'node-lost',
  cut: 'cut',
}

/** How a flow ended whose two sides were joined. */
export function endOf(end: SpliceEnd): FlowEnd {
  return END[end]
}

/** What joins the two sides of a flow, as far as the ledger needs it: bytes from the caller, and to it. */
export interface FlowPipe {
  readonly near: { readonly bytes: number }
  readonly far: { readonly bytes: number }
}

/** A flow in the ledger, from the moment it is taken until it has ended. */
export interface OpenFlow {
  readonly id: string
  readonly caller: string
  readonly name: string
  readonly port: number
  readonly protocol: Protocol
  readonly mode: FlowMode
  readonly policy: string
  readonly startedAt: number
  readonly pipe: FlowPipe
  instance?: InstanceId
  node?: NodeId
  path?: PathKind
  /** Where the instance was dialled, if it is of this node. */
  endpoint?: Endpoint
  /** Bytes that are in the metrics already; written by the ledger alone. */
  counted?: { sent: number; received: number }
  /** Of one that is traced. */
  decisions?: FlowDecisions
  /** Ends the flow now, with an RST to the caller. */
  cut(): void
}

const SENT = { direction: 'sent' } as const
const RECEIVED = { direction: 'received' } as const

/** Ended flows kept, and as many failed ones beside them: a busy node must not forget its failures within a second. */
const REMEMBERED = 256

/** What an attempt has opened. */
export interface Chosen {
  readonly instance: { readonly id: InstanceId; readonly node: NodeId }
  readonly endpoint: Endpoint | undefined
}

export interface LedgerParts {
  readonly clock: Clock
  readonly log: Log
  readonly metrics: Metrics
  /** Absent: nothing is traced. */
  readonly spans?: FlowSpans | undefined
  /** Takes each ended flow, without waiting; absent: the log of the process alone has them. */
  readonly flowLog?: ((ended: LoggedFlow) => void) | undefined
}

/** Every flow that this agent opened: counted, listed, logged and kept when it ends, and cut when the agent closes. */
export class FlowLedger implements AsyncDisposable {
  readonly #life: Lifetime
  readonly #clock: Clock
  readonly #log: Log
  readonly #metrics: Metrics
  readonly #spans: FlowSpans | undefined
  readonly #flowLog: LedgerParts['flowLog']
  readonly #open = new SteadyMap<string, OpenFlow>()
  readonly #perInstance = new Map<InstanceId, number>()
  readonly #ended = new Ring<EndedFlow>(REMEMBERED)
  readonly #failed = new Ring<EndedFlow>(REMEMBERED)
  readonly #prefix = randomBytes(4).toString('hex')
  #last = 0
  #isDraining = false
  #idle: (() => void) | undefined

  private constructor(life: Lifetime, { clock, log, metrics, spans, flowLog }: LedgerParts) {
    this.#life = life
    this.#clock = clock
    this.#log = log
    this.#metrics = metrics
    this.#spans = spans
    this.#flowLog = flowLog
  }

  /** `drainMs`: how long flows may go on when the agent closes, before they are cut. */
  static start({ drainMs }: { drainMs: number }, parts: LedgerParts): Promise<FlowLedger> {
    return Lifetime.open((life) => {
      const ledger = new FlowLedger(life, parts)
      life.every(1000, () => ledger.#countBytes(), 'flow accounting')
      life.defer(() => ledger.drain(drainMs))
      return ledger
    })
  }

  get size(): number {
    return this.#open.size
  }

  /** How many flows have begun so far: also those that were over at once. */
  get begun(): number {
    return this.#last
  }

  /** True once the agent closes: no new flows. */
  get isDraining(): boolean {
    return this.#isDraining
  }

  /** 16 hex digits; unique among the flows of this agent, very likely in the mesh. */
  nextId(): string {
    this.#last = (this.#last + 1) >>> 0
    return this.#prefix + this.#last.toString(16).padStart(8, '0')
  }

  isTraced(flow: OpenFlow): boolean {
    return this.#spans?.isSampled(flow.id) === true
  }

  add(flow: OpenFlow): void {
    this.#open.set(flow.id, flow)
    this.#metrics.flowsOpen.set(this.#open.size)
  }

  /** An instance has opened the flow: from now on `least` counts it. */
  chosen(flow: OpenFlow, { instance, endpoint }: Chosen, path: PathKind): void {
    flow.instance = instance.id
    flow.node = instance.node
    flow.path = path
    if (endpoint !== undefined) flow.endpoint = endpoint
    this.#perInstance.set(instance.id, this.openFlows(instance.id) + 1)
  }

  /** The one place where a flow ends: in the list, the metrics and the log. `reason` is for flows that no instance took. */
  ended(flow: OpenFlow, end: FlowEnd, reason: string): void {
    const line: EndedFlow = Object.assign(this.#line(flow), { end, reason })
    this.#countBytesOf(flow)
    this.#open.delete(flow.id)
    this.#metrics.flowsOpen.set(this.#open.size)
    if (flow.instance !== undefined) this.#leave(flow.instance)
    this.#ended.push(line)
    if (end !== 'closed') this.#failed.push(line)
    const { policy, path = 'none', protocol } = flow
    this.#metrics.flows.count({ policy, path, result: end, protocol })
    this.#logEnd(line, { policy, isTraced: flow.decisions !== undefined })
    if (flow.decisions !== undefined) this.#spans?.ended(line, policy, flow.decisions, flow.startedAt)
    if (this.#open.size === 0) this.#idle?.()
  }

  /** Flows this agent has open to the instance, or only those that go `to` one of its runs. */
  openFlows(instance: InstanceId, to?: readonly Endpoint[]): number {
    if (to === undefined) return this.#perInstance.get(instance) ?? 0
    let count = 0
    for (const flow of this.#open.values()) if (flow.instance === instance && isAmong(flow.endpoint, to)) count += 1
    return count
  }

  flows(): FlowLine[] {
    return Array.from(this.#open.values(), (flow) => this.#line(flow))
  }

  /** Ended flows, newest first. */
  recent(): EndedFlow[] {
    return this.#ended.newestFirst()
  }

  /** Flows that did not end well, newest first. */
  failures(): EndedFlow[] {
    return this.#failed.newestFirst()
  }

  /** No new flows; waits for the open ones, then cuts them. */
  async drain(waitMs: number): Promise<void> {
    this.#isDraining = true
    if (this.#open.size === 0) return
    const waiting = new AbortController()
    this.#idle = () => waiting.abort()
    await this.#clock.sleep(waitMs, waiting.signal)
    for (const flow of this.#open.values()) flow.cut()
  }

  close(): Promise<void> {
    return this.#life.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #logEnd(line: EndedFlow, more: Pick<LoggedFlow, 'policy' | 'isTraced'>): void {
    const { id, caller, name, port, protocol, mode, instance, node, path, sent, received, end, reason, ageMs } = line
    const fields = { flow: id, caller, name, port, protocol, mode, instance, node, path, sent, received, end }
    const ms = Math.round(ageMs)
    const isRefused = instance === undefined && end !== 'caller-gone'
    if (isRefused) this.#log.warn('flow refused', { ...fields, ms, reason })
    else this.#log.info('flow ended', { ...fields, ms })
    this.#flowLog?.({ line, isRefused, ...more })
  }

  #leave(instance: InstanceId): void {
    const left = this.openFlows(instance) - 1
    if (left > 0) this.#perInstance.set(instance, left)
    else this.#perInstance.delete(instance)
  }

  #line(flow: OpenFlow): FlowLine {
    const { id, caller, name, port, protocol, mode, instance, node, path, pipe } = flow
    const [sent, received] = [pipe.near.bytes, pipe.far.bytes]
    const ageMs = this.#clock.now() - flow.startedAt
    const line: FlowLine = { id, caller, name, port, protocol, mode, sent, received, ageMs }
    if (instance !== undefined) line.instance = instance
    if (node !== undefined) line.node = node
    if (path !== undefined) line.path = path
    return line
  }

  #countBytes(): void {
    for (const flow of this.#open.values()) this.#countBytesOf(flow)
  }

  /** The counters follow the pipes once a second, so that no chunk pays for them; idle flows cost a comparison. */
  #countBytesOf(flow: OpenFlow): void {
    const sent = flow.pipe.near.bytes
    const received = flow.pipe.far.bytes
    const counted = (flow.counted ??= { sent: 0, received: 0 })
    const { flowBytes } = this.#metrics
    if (sent > counted.sent) flowBytes.count(SENT, sent - counted.sent)
    if (received > counted.received) flowBytes.count(RECEIVED, received - counted.received)
    counted.sent = sent
    counted.received = received
  }
}

class Ring<T> {
  readonly #items: T[] = []
  readonly #size: number
  #next = 0

  constructor(size: number) {
    this.#size = size
  }

  push(item: T): void {
    this.#items[this.#next % this.#size] = item
    this.#next++
  }

  newestFirst(): T[] {
    const start = this.#next % this.#size
    return [...this.#items.slice(start), ...this.#items.slice(0, start)].toReversed()
  }
}
