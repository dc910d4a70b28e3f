import { Lifetime } from '../../src/core/kit/lifetime.ts'
import { admit } from '../decide/admit.ts'
import { UdpAttempt } from '../outbound/attempt.ts'
import { connect } from '../outbound/connect.ts'
import { callerText, type DatagramClient, type DatagramIntent, type DatagramSink, nameOf } from '../flow/flow.ts'
import type { FlowEnd, OpenFlow } from '../flow/ledger.ts'
import { countTries, END, leave, type OutboundParts, triesText } from '../outbound/outbound.ts'
import type { DatagramStream } from '../tunnel/contract.ts'
import { failureOf } from '../flow/tries.ts'
import { DatagramFlow } from './flow.ts'
import { Held, type HeldBudget } from './held.ts'
import { background } from '../../src/core/kit/background.ts'
import { PenaltyList } from '../decide/penalty-list.ts'

/*
 * The life of a UDP flow, on the caller's node: as `outbound` does it for TCP, with what UDP does not have by itself.
 *
 *              first datagram
 *                    ▼                  opened
 *                 holding ───────────────────────────────▶ open ──── idle, either side gone ────▶ over
 *                    │ refused, lost, not allowed                                                  ▲
 *                    └───────────▶ resting (drops; nothing is tried or logged again) ── rest over ─┘
 *
 * A flow keeps its instance while it lives: nothing re-picks it. When it is over, the next datagram begins a new one.
 * The client cannot be told of a refusal: the ICMP message that would say so is not for user space to send.
 *
 * Flows have no end of their own: those that are silent for `idleMs` are ended, by one sweep over all.
 */

export interface DatagramLimits {
  /** Smaller: a quiet client finds itself at another instance; larger: descriptors are kept for nobody. */
  idleMs: number
  /** Each costs a descriptor on the instance's node. */
  maxFlows: number
  /** Beyond `maxFlows`, what was silent for so long makes room; larger: more newcomers are turned away. */
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

/** When the agent or the instance is about to end, a flow that was silent for so long is not waited for. */
const CLOSING_IDLE_MS = 1_000

/**
 * Every UDP flow of the callers on this node. When there are too many, those that were silent longest make room: most flows
 * are one question and its answer, and would keep their place for `idleMs`. Those in use never do; then newcomers are dropped.
 */
export class DatagramFlows implements AsyncDisposable {
  readonly #life: Lifetime
  readonly #limits: DatagramLimits
  readonly #parts: OutboundParts
  readonly #flows = new Set<DatagramFlow>()
  readonly #budget: HeldBudget
  readonly #shunned: PenaltyList
  #refused = 0
  #cancelSweep: (() => void) | undefined
  #isClosed = false

  private constructor(life: Lifetime, limits: DatagramLimits, parts: OutboundParts) {
    this.#life = life
    this.#limits = limits
    this.#parts = parts
    this.#budget = { bytes: limits.heldBytes }
    this.#shunned = new PenaltyList(parts.clock)
  }

  static start(limits: DatagramLimits, parts: OutboundParts): Promise<DatagramFlows> {
    return Lifetime.open((life) => {
      const flows = new DatagramFlows(life, limits, parts)
      life.defer(() => flows.#endAll())
      return flows
    })
  }

  /** Flows that take up a place: open, opening and resting ones. */
  get size(): number {
    return this.#flows.size
  }

  /** What interceptors are given: called at the first datagram; `undefined` when there is no room. */
  readonly begin = (conversation: DatagramClient): DatagramSink | undefined => {
    const { maxFlows, held } = this.#limits
    if (this.#isClosed || (this.#flows.size >= maxFlows && !this.#makeRoom())) {
      this.#refused++
      this.#parts.metrics.flowDatagramsDropped.inc({ reason: 'too-many' })
      return undefined
    }
    const flow = new DatagramFlow(conversation, new Held(held, this.#budget), this.#parts)
    this.#flows.add(flow)
    this.#arm()
    void background.run('flow of datagrams', () => this.#carry(flow, conversation))
    return flow
  }

  close(): Promise<void> {
    return this.#life.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #carry(flow: DatagramFlow, conversation: DatagramClient): Promise<void> {
    const { intent } = conversation
    const end = await carry(flow, intent instanceof Promise ? await intent : intent, this.#shunned, this.#parts)
    const rests = !GOES_AT_ONCE.has(end) && !this.#isClosed
    flow.giveUp(rests ? 'refused' : 'over')
    if (rests) flow.restUntil = this.#parts.clock.now() + this.#limits.restMs
    else this.#forget(flow)
  }

  #forget(flow: DatagramFlow): void {
    if (this.#flows.delete(flow)) flow.over()
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
      flow.look(now)
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

  /** Ends a sixteenth of all at once, the longest silent first, so that a flood of newcomers pays for one look at all. */
  #makeRoom(): boolean {
    const { clock, metrics } = this.#parts
    const { spareMs, maxFlows } = this.#limits
    const now = clock.now()
    for (const flow of this.#flows) flow.look(now)
    const spare = Array.from(this.#flows)
      .filter(({ lastAt, restUntil }) => restUntil !== undefined || now - lastAt >= spareMs)
      .toSorted((a, b) => a.lastAt - b.lastAt)
      .slice(0, Math.ceil(maxFlows / 16))
    metrics.flowsEvicted.inc(spare.length)
    for (const flow of spare) {
      flow.end()
      this.#forget(flow)
    }
    return spare.length > 0
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

/** After any other end, trying again at once would be of no use. */
const GOES_AT_ONCE: ReadonlySet<FlowEnd> = new Set(['closed', 'caller-reset', 'instance-reset', 'cut', 'caller-gone'])

/** One flow from what it is for until it has ended: the corridor of `outbound`, for UDP. Never rejects. */
async function carry(
  flow: DatagramFlow,
  wish: DatagramIntent,
  shunned: PenaltyList,
  parts: OutboundParts,
): Promise<FlowEnd> {
  const { ledger, log, limits, self, clock, metrics, earlyData } = parts
  const { port, mode, startedAt } = flow.client
  if (wish.kind === 'refused') {
    log.info('flow refused', { mode, name: wish.name, port, protocol: 'udp', reason: wish.reason })
    return 'refused'
  }
  if (flow.gone.aborted) return 'caller-gone'
  const { target, caller } = wish
  const open: OpenFlow = {
    id: ledger.nextId(),
    caller: callerText(caller, self),
    name: nameOf(target),
    port,
    protocol: 'udp',
    mode,
    policy: target.choice.policy,
    startedAt,
    pipe: flow.pipe,
    cut: () => flow.cut(),
  }
  ledger.add(open)
  const ended = (end: FlowEnd, reason: string): FlowEnd => {
    leave(open, end, reason, parts)
    return end
  }

  const admission = admit({ target, port, protocol: 'udp', caller }, parts)
  if (admission.kind === 'refused') return ended(admission.end, admission.reason)
  const instances = shunned.last(admission.instances)

  const connected = await connect(
    {
      attempt: UdpAttempt,
      instances,
      request: { service: target.service.id, port, protocol: 'udp', caller, flow: open.id },
      deadlineMs: limits.deadlineMs,
      early: earlyData ? flow : undefined,
      onWon: (attempt) => {
        ledger.chosen(open, attempt.instance, attempt.path ?? 'local')
        metrics.flowConnect.observe({ path: open.path ?? 'local' }, (clock.now() - startedAt) / 1000)
        attempt.onward = flow.pipe.far
        flow.opened(attempt.instance, attempt.stream as DatagramStream)
      },
    },
    parts,
    flow.gone,
  )
  countTries(connected, parts)
  if (connected.kind === 'lost') {
    const { why, tries } = connected
    if (why === 'gone') return ended(flow.pipe.end === 'cut' ? 'cut' : 'caller-gone', 'gave up')
    const end = ended(failureOf(why, tries).end, triesText(connected))
    return why === 'unsure' ? 'instance-reset' : end // another may answer what the client says next
  }
  await flow.ended
  const { end, far } = flow.pipe
  if (end === 'far-reset') shunned.add(connected.attempt.instance, { isMute: far.datagrams === 0 })
  const said = ended(END[end], '')
  // this client rests, or each of its datagrams would open a flow in vain; another is tried at once: the port may be open again
  return shunned.areClosed(instances) ? 'refused' : said
}
