import { explain, MeshError } from '../../src/core/errors.ts'
import type { Clock } from '../../src/core/kit/clock.ts'
import { Lifetime } from '../../src/core/kit/lifetime.ts'
import type { Log } from '../../src/core/kit/log.ts'
import type { Metrics } from '../../src/core/metrics.ts'
import type { VipRange } from '../../src/core/model/address.ts'
import type { InstanceId, ServiceId } from '../../src/core/model/ids.ts'
import type { ServicePort } from '../../src/core/model/service.ts'
import type { TableView, Target } from '../../src/core/table/view.ts'
import { connectionKey } from './connections.ts'
import { decide, type Decision, type LocalFacts } from './decide.ts'
import type { Kernel } from './kernel.ts'
import { type Fault, type Outcome, Ruleset } from './ruleset.ts'
import { namesOf, type Rows } from './rules.ts'
import { FlowCounts } from './flow-counts.ts'
import { WantedRows } from './wanted.ts'

/*
 * Keeps the rows in the kernel in step with the table: one transaction at a time, 50 ms apart.
 *
 *   waiting ─▶ on ─────────────────────────────▶ resting (no rows; open connections go on) ─▶ closed (no table)
 *      │       │ ▲                    │
 *      │       ▼ │ tried again        └─▶ followed: a successor has replaced the table
 *      └─────▶ off (every flow goes through user space, and `check` says why)
 */
type State = 'waiting' | 'on' | 'off' | 'followed' | 'resting'

export interface FastPathParts {
  readonly table: TableView
  readonly range: VipRange
  /** Interfaces whose neighbours may call. */
  readonly interfaces?: readonly string[]
  readonly facts: FastPathFacts
  readonly kernel: Kernel
  /** Nothing is changed before this: the agent that is taken over from may have the table until then. */
  readonly mayBegin: Promise<void>
  /** Letters and digits that no other agent uses. */
  readonly mark: string
  readonly clock: Clock
  readonly log: Log
  readonly metrics: Metrics
}

export interface FastPathFacts extends LocalFacts {
  /** It takes no new flows, or its run there takes none; open ones go on. */
  isDraining(instance: InstanceId, at: { host: string; port: number }): boolean
}

/** Between two transactions. Smaller: more work for nft while much changes; larger: a dead instance gets flows for longer. */
const SPACING_MS = 50
/** How often the counters are read, and the rules set up again when somebody has flushed those of the machine. */
const MAINTAIN_MS = 10_000

export class FastPath implements AsyncDisposable {
  readonly #life: Lifetime
  readonly #parts: FastPathParts
  readonly #wanted: WantedRows
  readonly #counts: FlowCounts
  readonly #table: string
  readonly #ruleset: Ruleset
  #state: State = 'waiting'
  #fault: Fault | undefined
  #flaw: string | undefined
  #working: Promise<void> | undefined
  #next: Promise<void> | undefined
  #lastAt = Number.NEGATIVE_INFINITY

  private constructor(life: Lifetime, parts: FastPathParts) {
    this.#life = life
    this.#parts = parts
    const names = namesOf(parts.range, parts.mark, parts.interfaces)
    this.#table = names.table
    this.#wanted = new WantedRows(parts)
    this.#counts = new FlowCounts(parts)
    this.#ruleset = new Ruleset(names, parts.kernel, this.#counts)
  }

  static start(parts: FastPathParts): Promise<FastPath> {
    return Lifetime.open((life) => {
      const fastPath = new FastPath(life, parts)
      const { table, metrics, mayBegin } = parts
      life.defer(() => fastPath.#leave())
      const read = () => fastPath.read()
      metrics.beforeScrape.add(read)
      life.defer(() => void metrics.beforeScrape.delete(read))
      life.defer(table.onChange((service) => fastPath.refresh(service)))
      life.every(MAINTAIN_MS, () => fastPath.#maintain(), 'fast path upkeep')
      void mayBegin.then(() => {
        if (life.signal.aborted || fastPath.#state !== 'waiting') return
        fastPath.#state = 'off'
        fastPath.refresh()
      })
      return fastPath
    })
  }

  get isOn(): boolean {
    return this.#state === 'on'
  }

  /** VIPs and ports that the kernel carries. */
  get size(): number {
    return this.isOn ? this.#ruleset.rows.size : 0
  }

  /** Why it is off, and the remedy; for `check`. */
  get fault(): Fault | undefined {
    return this.#fault
  }

  /** What works less well than it should. */
  get flaw(): string | undefined {
    return this.#flaw
  }

  /** The path that a flow from this node would take now. */
  explain(target: Target, port: Pick<ServicePort, 'port' | 'protocol'>): Decision {
    const { table, facts, range } = this.#parts
    const user = (reason: string): Decision => ({ path: 'user', reason })
    if (this.#state === 'waiting') return user('the agent is starting')
    if (!this.isOn) return user(`the fast path is off: ${this.#fault?.reason ?? 'the agent is closing'}`)
    const entry = table.entry(target.service.id)
    if (entry === undefined) return user('the service is not known')
    const v4 = decide(target, port, 4, entry, facts)
    if (v4.path === 'user' || range.cidr6 === undefined) return v4
    const v6 = decide(target, port, 6, entry, facts)
    return v6.path === 'kernel' ? v4 : { ...v4, reason: `${v4.reason}; IPv6 in user space: ${v6.reason}` }
  }

  /** Something about this service, or about instances on this node, may have changed. */
  refresh(service?: ServiceId): void {
    this.#wanted.touch(service)
    void this.#settle().catch(() => undefined) // `check` shows it
  }

  /**
   * Called before an instance starts, when it is among `facts.callers()`: resolves when the kernel has no row that it may not use.
   * @throws MeshError INTERCEPT_FAILED when such a row cannot be removed from the kernel
   */
  async admit(): Promise<void> {
    await this.#parts.mayBegin
    this.#wanted.touch(undefined)
    await this.#settle()
  }

  /** Open flows that the kernel carries to the instance; at least 1 until that is known. */
  openFlows(instance: InstanceId, to?: readonly { host: string; port: number }[]): number {
    return this.#counts.openFlows(instance, to)
  }

  /** Flows that would end with the table; at least 1 until that is known. */
  get open(): number {
    return this.isOn || this.#state === 'resting' ? this.#counts.open : 0
  }

  /** How many flows the kernel carries now; `undefined` when it cannot be read. */
  count(): Promise<number | undefined> {
    return this.#counts.count()
  }

  /** Brings the metrics up to date. */
  async read(): Promise<void> {
    if (this.isOn || this.#state === 'resting') await this.#counts.read(this.#table)
  }

  /** New flows go through user space from now on; open ones go on until `close`. */
  async rest(): Promise<void> {
    if (this.#state !== 'followed') this.#state = 'resting'
    await this.#working?.catch(() => undefined)
    await this.#ruleset.rest()
  }

  close(): Promise<void> {
    return this.#life.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  /** Resolves when the kernel has what the table says now. Everybody who waits shares the next transaction. */
  #settle(): Promise<void> {
    if (!this.#isActive) return Promise.resolve()
    if (this.#working === undefined) {
      this.#working = this.#work().finally(() => {
        this.#working = undefined
      })
      return this.#working
    }
    this.#next ??= this.#working
      .catch(() => undefined)
      .then(() => {
        this.#next = undefined
        return this.#settle()
      })
    return this.#next
  }

  get #isActive(): boolean {
    return (this.isOn || this.#state === 'off') && !this.#life.signal.aborted
  }

  async #work(): Promise<void> {
    const { clock } = this.#parts
    await clock.sleep(Math.max(0, this.#lastAt + SPACING_MS - clock.now()), this.#life.signal)
    if (!this.#isActive) return
    const outcome = await this.#ruleset.put(this.#wanted.compute())
    this.#lastAt = clock.now()
    this.#apply(outcome)
    await this.#forgetEnded(this.#ruleset.rows)
  }

  /** @throws MeshError INTERCEPT_FAILED when rows that may be wrong remain in the kernel */
  #apply(outcome: Outcome): void {
    const { log, range } = this.#parts
    const was = this.#state
    switch (outcome.kind) {
      case 'done':
        this.#fault = undefined
        if (was === 'off') log.info('fast path on', { address: range.cidr4, rows: this.#ruleset.rows.size })
        if (was === 'off') this.#state = 'on'
        return
      case 'followed':
        this.#state = 'followed'
        log.info('another agent has taken over the fast path')
        return
      case 'failed': {
        const { fault, left, cause } = outcome
        if (this.#fault?.reason !== fault.reason) log.warn('fast path off; flows go through user space', { ...fault })
        this.#fault = fault
        if (was === 'on') this.#state = 'off'
        if (left === 'none') return
        throw new MeshError('INTERCEPT_FAILED', { mode: 'host', reason: 'old rules remain in the kernel' }, { cause })
      }
      default:
        outcome satisfies never
    }
  }

  /** The kernel keeps a UDP flow with its instance for as long as datagrams come, so flows to an instance that is gone are removed. */
  async #forgetEnded(rows: Rows): Promise<void> {
    const { facts, kernel } = this.#parts
    const used = new Set(
      [...rows.values()].flatMap(({ protocol, instances }) =>
        instances.map(({ host, port }) => connectionKey({ protocol, host, port })),
      ),
    )
    for (const served of this.#counts.served()) {
      if (used.has(connectionKey(served)) || facts.isDraining(served.instance, served)) continue
      this.#counts.ended(served)
      if (served.protocol === 'tcp') continue // its connections have ended with it
      await kernel.forget(served).then(
        () => (this.#flaw = undefined),
        (error: unknown) => (this.#flaw = flawOf(error)),
      )
    }
  }

  async #maintain(): Promise<void> {
    if (this.isOn && this.#working === undefined) {
      const failure = await this.read().then(
        () => undefined,
        (cause: unknown) => ({ cause }),
      )
      if (failure !== undefined && this.isOn && this.#working === undefined) {
        this.#parts.log.warn('the rules of the fast path are gone; setting them up again', { error: failure.cause })
        this.#working = this.#ruleset
          .renew(this.#wanted.compute(), failure.cause)
          .then((outcome) => this.#apply(outcome))
          .catch(() => undefined)
          .finally(() => {
            this.#working = undefined
          })
        await this.#working
      }
    }
    if (this.#state === 'resting' && (await this.#ruleset.isFollowed())) this.#state = 'followed'
    this.refresh()
  }

  async #leave(): Promise<void> {
    await this.#working?.catch(() => undefined)
    await this.read().catch(() => undefined)
    if (this.#state !== 'followed') await this.#ruleset.remove()
  }
}

function flawOf(error: unknown): string {
  const reason = /spawn conntrack ENOENT/.test(explain(error)) ? 'conntrack is not installed' : explain(error)
  return `UDP flows to an instance that has ended are sent to it until they have been idle for 30 s (${reason})`
}
