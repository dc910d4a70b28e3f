import { mkdirSync } from 'node:fs'
import { MeshError } from '../../core/errors.ts'
import { systemClock, type Clock } from '../../core/kit/clock.ts'
import { Lifetime } from '../../core/kit/lifetime.ts'
import { inSlices } from '../../core/kit/slices.ts'
import type { Log } from '../../core/kit/log.ts'
import type { Metrics } from '../../core/metrics.ts'
import type { InstanceId } from '../../core/model/ids.ts'
import type { Assignment, InstanceReport, Replacement, RunKey } from '../spec.ts'
import { InstanceCounts } from './instance-counts.ts'
import { InstanceLog } from './instance-log.ts'
import { isSince, lastLines } from './kept-log.ts'
import { killOnExit, readOnWhenContinued, tidy } from './process-ends.ts'
import { KeptSecrets } from './kept-secrets.ts'
import { filesOf } from './output-files.ts'
import { LeaseGuard } from './lease-guard.ts'
import { Leases } from './leases.ts'
import { OutputGuard } from './output-guard.ts'
import { LogPruning } from './prune-logs.ts'
import { Records, type Saved } from './records.ts'
import { refusalOf } from './refusal.ts'
import type { Endpoint, InstanceCommand } from './runtime.ts'
import { Slot } from './slot.ts'
import { Slots, type InstanceProcesses } from './slots.ts'
import { Supervision } from './supervision.ts'
import type { AskedEndpoint } from './supervisor-parts.ts'
import { TIMINGS, type Timings } from './timings.ts'
import { NodeVolumes } from './node-volumes.ts'
import { UsageMeter, type InstanceUsage } from './usage.ts'
import type { WorkerConfig } from './worker-config.ts'

/**
 * Runs what the cluster assigns to this node and reports how it goes.
 *
 *     assign ─▶ refused (reason), or an InstanceSupervisor ─▶ reports        records on disk ─▶ the next agent adopts what still runs
 */
export class Worker {
  readonly #config: WorkerConfig
  readonly #log: Log
  readonly #life: Lifetime
  readonly #clock: Clock
  readonly #timings: Timings
  readonly #records: Records
  readonly #guard: OutputGuard
  readonly #leaseGuard: LeaseGuard
  /** Until when what has `lease_seconds` may run. */
  readonly leases: Leases
  readonly #slots = new Slots()
  readonly #forgetting = new Set<Promise<void>>()
  readonly #counts: InstanceCounts
  readonly #meter: UsageMeter
  readonly #secrets: KeptSecrets
  readonly #mayStart = Promise.withResolvers<void>()
  #isLetGo = false
  readonly #supervision: Supervision
  readonly #pruning: LogPruning
  readonly volumes: NodeVolumes
  #tidied: Promise<void> = Promise.resolve()

  private constructor(life: Lifetime, config: WorkerConfig, log: Log, metrics: Metrics) {
    this.#life = life
    this.#config = config
    this.#log = log.child({ part: 'worker' })
    this.#guard = new OutputGuard(config, this.#log)
    this.#leaseGuard = new LeaseGuard(config, this.#log)
    this.leases = new Leases({ dir: config.runDir, log: this.#log, onHeld: () => this.#leaseGuard.watch() })
    this.#clock = config.clock ?? systemClock
    this.#timings = { ...TIMINGS, ...config.timings }
    this.#records = new Records(config.runDir, this.#log)
    this.#counts = new InstanceCounts(metrics)
    this.#meter = new UsageMeter(metrics, this.#clock)
    this.#secrets = new KeptSecrets(config.secretsOf ?? noSecrets, this.#clock)
    const { runtimes } = config
    const users = () => this.#slots.users()
    this.volumes = new NodeVolumes({ runtimes, users, clock: this.#clock, signal: life.signal })
    this.#pruning = new LogPruning(config.logsDir, () => this.#slots.keys())
    this.#supervision = new Supervision({
      config,
      clock: this.#clock,
      timings: this.#timings,
      log: this.#log,
      metrics,
      leases: this.leases,
      meter: this.#meter,
      secrets: this.#secrets,
      mayStart: this.#mayStart.promise,
    })
  }

  /** @throws MeshError STATE_UNREADABLE */
  static start(config: WorkerConfig, log: Log, metrics: Metrics): Promise<Worker> {
    return Lifetime.open(async (life) => {
      try {
        mkdirSync(config.logsDir, { recursive: true, mode: 0o700 })
      } catch (cause) {
        throw new MeshError('STATE_UNREADABLE', { directory: config.logsDir }, { cause })
      }
      const worker = new Worker(life, config, log, metrics)
      await life.use(worker.#guard).takeOver()
      life.defer(() => worker.#leaseGuard[Symbol.dispose]())
      life.defer(() => worker.#close())
      worker.#records.keepWriting(life)
      readOnWhenContinued(life, worker.#slots)
      const scrape = () => worker.#meter.scrape(worker.#slots.metered())
      metrics.beforeScrape.add(scrape)
      life.defer(() => void metrics.beforeScrape.delete(scrape))
      await worker.#restore()
      return worker
    })
  }

  /** Resolves when everything that an earlier agent left is adopted, or known to be gone. */
  async restored(): Promise<void> {
    await Promise.all([this.#tidied, ...this.#slots.supervisors().map(({ adopted }) => adopted)])
    this.leases.restored()
  }

  /**
   * Leaves everything running for the next agent and supervises none of it from here on. `endpointOf` keeps answering with what was
   * true at this moment.
   */
  letGo(): Promise<void> {
    this.#isLetGo = true
    return this.#life.close()
  }

  /** Why this node cannot take it; `undefined` when it can. */
  refuses(assignment: Assignment, how: Replacement = 'stop-first'): string | undefined {
    const { facts, runtimes } = this.#config
    return refusalOf(assignment, { facts, runtimes, others: () => this.#slots.beside(assignment, how) })
  }

  /**
   * Runs it: anew, in place of an earlier run (`how`), or again when it has failed. One with the same content takes over what is new.
   * @throws MeshError UNPLACEABLE with the reason
   */
  assign(assignment: Assignment, how: Replacement = 'stop-first'): void {
    const reason = this.refuses(assignment, how)
    if (reason !== undefined) throw new MeshError('UNPLACEABLE', { instance: assignment.instance, reason })
    const slot = this.#slots.get(assignment.instance)
    if (slot === undefined) this.#begin(assignment)
    else slot.assign(assignment, how)
  }

  /** Stops it, after its flows had time to finish. False when it is not here. */
  withdraw(instance: InstanceId, { drainSeconds }: { drainSeconds?: number } = {}): boolean {
    const slot = this.#slots.get(instance)
    if (slot === undefined) return false
    slot.withdraw(drainSeconds)
    return true
  }

  /** Ends this run of the instance if it has not taken the place of another yet. */
  cancel(instance: InstanceId, run: RunKey): void {
    this.#slots.get(instance)?.cancel(run)
  }

  /**
   * Stops whatever is not among these, at once: it may run elsewhere by now. What an earlier agent left may be started again from
   * now on.
   */
  keepOnly(wanted: Iterable<InstanceId>): void {
    const kept = new Set(wanted)
    for (const instance of this.#slots.keys()) if (!kept.has(instance)) this.withdraw(instance, { drainSeconds: 0 })
    this.#mayStart.resolve()
  }

  /** The complete work of this node: starts what is missing, stops what is not wanted, keeps what runs. */
  sync(assignments: readonly Assignment[]): void {
    this.keepOnly(assignments.map(({ instance }) => instance))
    for (const assignment of assignments) {
      const { instance, generation } = assignment
      if (this.#slots.get(instance)?.has(assignment) === true) continue
      const reason = this.refuses(assignment)
      if (reason === undefined) this.assign(assignment)
      else this.#report({ instance, generation, state: 'failed', detail: reason, restarts: 0 })
    }
  }

  /** Where the instance answers on this node; only while it is running. */
  endpointOf(instance: InstanceId, port: number, protocol: 'tcp' | 'udp' = 'tcp'): AskedEndpoint | undefined {
    return this.#slots.get(instance)?.endpoint(port, protocol)
  }

  /** It is stopping, or its run `at` this endpoint is: no new flow may begin, open ones go on. */
  isDraining(instance: InstanceId, at?: Endpoint): boolean {
    return this.#slots.get(instance)?.isDraining(at) === true
  }

  /** Why what the next agent must know is not on disk, while it is not. */
  get stateProblem(): MeshError | undefined {
    return this.#records.problem
  }

  /** The state of every instance here. */
  reports(): InstanceReport[] {
    return [...this.#slots.values()].map((slot) => slot.report())
  }

  /** What it printed: the last lines, then, with `follow`, new ones. Also of instances that are gone, while their logs are kept. */
  async *logs(
    instance: InstanceId,
    { tail = 100, follow = false, since = 0 }: { tail?: number; follow?: boolean; since?: number } = {},
    signal?: AbortSignal,
  ): AsyncIterable<string> {
    const output = this.#slots.get(instance)?.output
    const lines =
      output === undefined
        ? await lastLines(filesOf(instance, this.#config).kept, tail)
        : output.read({ tail, follow }, signal)
    for await (const line of lines) if (isSince(line, since)) yield line
  }

  /** A command beside the program of the run that serves. @throws MeshError REQUEST_FAILED */
  async exec(instance: InstanceId, cmd: readonly string[]): Promise<InstanceCommand> {
    const running = this.#slots.get(instance)?.serving.metered?.running
    if (running === undefined) throw new MeshError('REQUEST_FAILED', { instance, reason: 'it is not running now' })
    if (running.exec === undefined)
      throw new MeshError('REQUEST_FAILED', { instance, reason: 'it runs outside the mesh (runtime external)' })
    return running.exec(cmd)
  }

  /** What the instances here use now: of each the run that serves. */
  usage(signal?: AbortSignal): Promise<InstanceUsage[]> {
    return this.#meter.measure(this.#slots.serving(), signal)
  }

  /** Instances whose processes run here, or are about to. */
  residents(): InstanceId[] {
    return this.#slots.residents()
  }

  /** The processes of each instance, to find out which one makes a call. */
  processes(): Iterable<InstanceProcesses> {
    return this.#slots.processes()
  }

  close(): Promise<void> {
    return this.#life.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  /** Of thousands of instances a few in each turn: the one before may still carry their flows. */
  async #restore(): Promise<void> {
    if (this.#config.keepOnClose !== true) killOnExit(this.#life, this.#slots)
    this.#life.defer(this.#clock.after(this.#timings.restoreMs, () => this.#mayStart.resolve()))
    const records = await this.#records.all()
    const traces = records.flatMap(({ saved: { trace } }) => (trace === undefined ? [] : [trace]))
    this.#tidied = tidy(this.#config.runtimes, traces, this.#log)
    // flows ended with the agent that carried them, unless that one is still draining
    const drain = this.#config.isSuccessor === true ? {} : { drainSeconds: 0 }
    await inSlices(records, ({ saved, tag }) => {
      const { instance } = saved.assignment
      const slot = tag === '' ? undefined : this.#slots.get(instance)
      if (slot !== undefined) slot.restore(saved, tag, drain.drainSeconds)
      else this.#begin(saved.assignment, saved)
    })
    for (const { saved, tag } of records)
      if (tag === '' && saved.state === 'stopping') this.withdraw(saved.assignment.instance, drain)
  }

  #begin(assignment: Assignment, saved?: Saved): void {
    const { instance, spec } = assignment
    const { logsDir, runDir } = this.#config
    if (spec.runtime === 'process') this.#guard.watch() // an engine keeps what containers print
    const output = InstanceLog.open({ instance, logsDir, runDir, clock: this.#clock, log: this.#log })
    const slot: Slot = new Slot(
      assignment,
      {
        instance,
        output,
        begin: (next, events, left) => this.#supervision.begin(next, { output, events }, left),
        report: (report) => this.#report(report),
        save: (record, tag) => this.#records.put(record, tag),
        drop: (tag) => this.#records.drop(assignment, tag),
        ended: () => this.#forgetSoon(instance, slot),
        isClosed: () => this.#life.signal.aborted,
        clock: this.#clock,
        log: this.#log,
      },
      saved,
    )
    this.#slots.set(instance, slot)
  }

  #forgetSoon(instance: InstanceId, slot: Slot): void {
    const forgetting = this.#forget(instance, slot).catch((error: unknown) =>
      this.#log.error('instance did not end cleanly', { instance, error }),
    )
    this.#forgetting.add(forgetting)
    void forgetting.then(() => this.#forgetting.delete(forgetting))
  }

  /** Nothing of the instance is left but its log. */
  async #forget(instance: InstanceId, slot: Slot): Promise<void> {
    this.#records.drop(slot.serving.assignment)
    await slot.output.forget()
    this.#slots.delete(instance)
    this.#counts.count(instance, undefined)
    this.#secrets.forget(instance)
    const service = slot.serving.assignment.spec.id
    if (!this.#slots.hasService(service)) this.#meter.forget(service)
    if (slot.next !== undefined) this.#begin(slot.next) // asked for while the log was closed
    return this.#pruning.prune()
  }

  #report(report: InstanceReport): void {
    this.#counts.count(report.instance, report.state)
    this.#config.report(report)
  }

  /** Instances end with the agent; their records stay, and the next agent starts them again unless its cluster objects. */
  async #close(): Promise<void> {
    const keepOnClose = this.#isLetGo || this.#config.keepOnClose === true
    if (keepOnClose) this.#guard.leave()
    const wait = (ended: Promise<void>) => (this.#isLetGo ? Promise.race([ended, this.#clock.sleep(LET_GO_MS)]) : ended)
    await Promise.all([...this.#slots.values()].map((slot) => slot.close({ isKept: keepOnClose, wait })))
    if (!this.#isLetGo) await Promise.all(this.#forgetting)
    this.#counts.clear()
  }
}

function noSecrets(instance: InstanceId): never {
  throw new MeshError('SECRET_UNKNOWN', { instance, reason: 'this worker has nobody to ask' })
}

const LET_GO_MS = 250
