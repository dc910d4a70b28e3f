import { background } from '../../src/core/kit/background.ts'
import { Lifetime } from '../../src/core/kit/lifetime.ts'
import type { DatagramClient, DatagramIntent, DatagramSink } from '../flow/flow.ts'
import type { ServiceEntry } from '../../src/core/model/change.ts'
import type { ServiceId } from '../../src/core/model/ids.ts'
import type { FlowEnd } from '../flow/flow-line.ts'
import { DatagramFlow } from './flow.ts'
import { Held, type HeldBudget } from './held.ts'
import { Places } from './places.ts'
import { type DatagramParts, UdpFlow } from './udp-flow.ts'

/*
 * The life of a UDP flow on the caller's node. It is established like a TCP flow (`UdpFlow`); the rest makes up for what UDP
 * does not have: an end, and a way to refuse.
 *
 *              first datagram
 *                    ▼                  opened
 *                 holding ───────────────────────────────▶ open ──── idle, or either side gone ──▶ ended
 *                    │ refused, lost, not allowed                                                  ▲
 *                    └───────────▶ resting (drops; nothing is tried or logged again) ── rest over ─┘
 *
 * A rest ends as soon as the table has something new about the service and an instance runs. A flow keeps its instance for its
 * whole life. Once it has ended, the next datagram begins a new one. The client cannot be told of a refusal: user space cannot
 * send the ICMP message that would say so.
 *
 * A UDP flow has no last datagram: flows that are silent for `idleMs` are ended, by one sweep over all.
 */

export interface DatagramLimits {
  /** Smaller: a quiet client finds itself at another instance; larger: unused flows keep their descriptors. */
  idleMs: number
  /** Each costs a descriptor on the instance's node. */
  maxFlows: number
  /** Beyond `maxFlows`, flows that were silent for this long make room for others of the same user; larger: more of those are dropped. */
  spareMs: number
  /** What may wait in one flow until it is open, and in all. */
  held: { datagrams: number; bytes: number }
  heldBytes: number
  /** How long a refused flow drops in silence. */
  restMs: number
  /** Between sweeps: how exact `idleMs` is. */
  sweepMs: number
}

export const DATAGRAM_LIMITS: DatagramLimits = {
  idleMs: 60_000,
  maxFlows: 8_192,
  spareMs: 5_000,
  held: { datagrams: 64, bytes: 256 * 1024 },
  heldBytes: 16 * 1024 * 1024,
  restMs: 1_000,
  sweepMs: 1_000,
}

/**
 * Beside `maxFlows`, half of that, and at least so many: flows whose user is being looked up, and those that rest, at about 2 KB. Larger: a
 * flood of newcomers takes more memory; smaller: it drops more of the others' before it is known whose they are.
 */
const FEWEST_BESIDE = 512

/** When the agent or the instance is about to end, a flow that was silent for this long is not waited for. */
const CLOSING_IDLE_MS = 1_000

/** Every UDP flow of the callers on this node. Which of them goes when there are too many: places.ts. */
export class DatagramFlows implements AsyncDisposable {
  readonly #life: Lifetime
  readonly #limits: DatagramLimits
  readonly #parts: DatagramParts
  readonly #flows = new Set<DatagramFlow>()
  readonly #places: Places<DatagramFlow>
  /** Those that rest, and what they were for; the oldest first. */
  readonly #resting = new Map<DatagramFlow, ServiceId | undefined>()
  readonly #budget: HeldBudget
  #refused = 0
  #cancelSweep: (() => void) | undefined
  #isClosed = false

  private constructor(life: Lifetime, limits: DatagramLimits, parts: DatagramParts) {
    this.#life = life
    this.#limits = limits
    this.#parts = parts
    this.#budget = { bytes: limits.heldBytes }
    const { log, localUsers: users, isHere } = parts
    const end = (flow: DatagramFlow): void => this.#evict(flow)
    this.#places = new Places({ capacity: limits.maxFlows, spareMs: limits.spareMs, log, users, isHere, end })
  }

  static start(limits: DatagramLimits, parts: DatagramParts): Promise<DatagramFlows> {
    return Lifetime.open((life) => {
      const flows = new DatagramFlows(life, limits, parts)
      life.defer(() => flows.#endAll())
      life.defer(parts.table.onChange((service, entry) => flows.#wake(service, entry)))
      return flows
    })
  }

  /** Flows that are kept: open, opening and resting ones. */
  get size(): number {
    return this.#flows.size
  }

  /** What interceptors are given: called at the first datagram; `undefined` when there is no room. */
  readonly begin = (client: DatagramClient): DatagramSink | undefined => {
    if (this.#isClosed || !this.#hasRoomBeside()) {
      this.#refuse()
      return undefined
    }
    const flow = new DatagramFlow(client, new Held(this.#limits.held, this.#budget), this.#parts)
    this.#flows.add(flow)
    this.#arm()
    const place = this.#places.enter(flow)
    void background.run('flow of datagrams', () => this.#carry(flow, place))
    return flow
  }

  close(): Promise<void> {
    return this.#life.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #carry(flow: DatagramFlow, place: boolean | Promise<boolean>): Promise<void> {
    if (!(place instanceof Promise ? await place : place)) {
      this.#refuse()
      flow.giveUp('over')
      return this.#rest(flow, undefined)
    }
    const given = flow.client.intent
    const intent = given instanceof Promise ? await given : given
    const end = await this.#run(flow, intent)
    const rests = !GOES_AT_ONCE.has(end) && !this.#isClosed
    flow.giveUp(rests ? 'refused' : 'over')
    if (!rests) return this.#forget(flow)
    this.#rest(flow, intent.kind === 'target' ? intent.target.service.id : undefined)
  }

  #rest(flow: DatagramFlow, service: ServiceId | undefined): void {
    if (!this.#flows.has(flow)) return
    flow.rest(this.#parts.clock.now() + this.#limits.restMs)
    this.#resting.set(flow, service)
  }

  #refuse(): void {
    this.#refused++
    this.#parts.metrics.flowDatagramsDropped.inc({ reason: 'too-many' })
  }

  /** For one more whose user may have to be looked up. The first to rest no longer does, if that is what it takes. */
  #hasRoomBeside(): boolean {
    const { maxFlows } = this.#limits
    if (this.#flows.size < maxFlows + Math.max(FEWEST_BESIDE, maxFlows / 2)) return true
    const [oldest] = this.#resting.keys()
    if (oldest !== undefined) this.#forget(oldest)
    return oldest !== undefined
  }

  #wake(changed: ServiceId, entry: ServiceEntry | undefined): void {
    if (this.#resting.size === 0 || entry?.instances.some(({ state }) => state === 'running') !== true) return
    for (const [flow, service] of this.#resting) if (service === changed) this.#forget(flow)
  }

  #run(flow: DatagramFlow, intent: DatagramIntent): FlowEnd | Promise<FlowEnd> {
    const { port, mode } = flow.client
    if (intent.kind === 'refused') {
      const { name, reason } = intent
      this.#parts.log.info('flow refused', { mode, name, port, protocol: 'udp', reason })
      return 'refused'
    }
    if (flow.gone.isCancelled) return 'caller-gone'
    const { target, caller } = intent
    return new UdpFlow(flow, { target, port, protocol: 'udp', caller }, this.#parts).run()
  }

  #forget(flow: DatagramFlow): void {
    this.#resting.delete(flow)
    if (this.#flows.delete(flow)) flow.forget()
  }

  #arm(): void {
    if (this.#cancelSweep !== undefined || this.#flows.size === 0) return
    this.#cancelSweep = this.#parts.clock.after(this.#limits.sweepMs, () => {
      this.#cancelSweep = undefined
      this.#sweep()
      this.#arm()
    })
  }

  #sweep(): void {
    const { clock, ledger, log } = this.#parts
    const now = clock.now()
    for (const flow of this.#flows) {
      if (flow.sample(now)) this.#places.used(flow)
      const isClosing = ledger.isDraining || flow.state === 'stopping'
      const idleMs = isClosing ? Math.min(this.#limits.idleMs, CLOSING_IDLE_MS) : this.#limits.idleMs
      if (flow.restUntil !== undefined) {
        if (now >= flow.restUntil) this.#forget(flow)
      } else if (flow.state === 'gone') flow.cut()
      else if (now - flow.lastAt >= idleMs) flow.end()
    }
    if (this.#refused === 0) return
    log.warn('flows refused', { protocol: 'udp', count: this.#refused, reason: 'too many are in use' })
    this.#refused = 0
  }

  #evict(flow: DatagramFlow): void {
    this.#parts.metrics.flowsEvicted.inc()
    flow.end()
    this.#forget(flow)
  }

  #endAll(): void {
    this.#isClosed = true
    this.#cancelSweep?.()
    for (const flow of this.#flows) {
      flow.cut()
      this.#forget(flow)
    }
  }
}

/** After any other end, trying again at once would not help: the client rests. */
const GOES_AT_ONCE: ReadonlySet<FlowEnd> = new Set([
  'closed',
  'caller-reset',
  'instance-reset',
  'node-lost',
  'cut',
  'caller-gone',
])
