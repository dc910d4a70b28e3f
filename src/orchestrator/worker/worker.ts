import { mkdirSync } from 'node:fs'
import { MeshError } from '../../core/errors.ts'
import { systemClock, type Clock } from '../../core/kit/clock.ts'
import { Lifetime } from '../../core/kit/lifetime.ts'
import type { Log } from '../../core/kit/log.ts'
import type { Metrics } from '../../core/metrics.ts'
import type { InstanceId } from '../../core/model/ids.ts'
import type { Assignment, InstanceReport } from '../spec.ts'
import { InstanceCounts } from './instance-counts.ts'
import { InstanceLog, readKept } from './instance-log.ts'
import { type AskedEndpoint, InstanceSupervisor } from './instance-supervisor.ts'
import { pruneLogs } from './prune-logs.ts'
import { Records, type Saved } from './records.ts'
import { refusalOf } from './refusal.ts'
import type { Runtime } from './runtime.ts'
import { TIMINGS, type Timings } from './timings.ts'
import type { WorkerConfig } from './worker-config.ts'

/** An instance here: its present life, and what it shall be once that has ended. */
interface Place {
  life: InstanceSupervisor
  output: InstanceLog
  isLeaving: boolean
  /** What begins when it has left; `undefined` and the instance is wanted no more. */
  next: Assignment | undefined
}

/** Exit code of a process that ends on an exception. */
const FAILED = 1

/**
 * Runs what the cluster assigns to this node and tells what becomes of it.
 *
 *     assign ─▶ refused (reason), or a Life ─▶ reports        records on disk ─▶ the next agent adopts what still runs
 */
export class Worker {
  readonly #config: WorkerConfig
  readonly #log: Log
  readonly #metrics: Metrics
  readonly #life: Lifetime
  readonly #clock: Clock
  readonly #timings: Timings
  readonly #records: Records
  readonly #places = new Map<InstanceId, Place>()
  readonly #departures = new Set<Promise<void>>()
  readonly #census: InstanceCounts
  readonly #mayStart = Promise.withResolvers<void>()
  #isLetGo = false

  private constructor(life: Lifetime, config: WorkerConfig, log: Log, metrics: Metrics) {
    this.#life = life
    this.#config = config
    this.#log = log.child({ part: 'worker' })
    this.#metrics = metrics
    this.#clock = config.clock ?? systemClock
    this.#timings = { ...TIMINGS, ...config.timings }
    this.#records = new Records(config.runDir, this.#log)
    this.#census = new InstanceCounts(metrics)
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
      life.defer(() => worker.#close())
      worker.#records.keepWriting(life)
      worker.#restore()
      return worker
    })
  }

  /** Whatever an earlier agent left is adopted, or known to be gone. */
  async restored(): Promise<void> {
    await Promise.all(Array.from(this.#places.values(), ({ life }) => life.adopted))
  }

  /**
   * Leaves everything running for the next agent, and looks after none of it from here on. Where the instances answer is still
   * told, as it was in this moment.
   */
  letGo(): Promise<void> {
    this.#isLetGo = true
    return this.#life.close()
  }

  /** Why this node cannot take it; `undefined` when it can. */
  refuses(assignment: Assignment): string | undefined {
    const { facts, runtimes } = this.#config
    const others = [...this.#places.values()]
      .filter(({ life }) => life.state !== 'stopped')
      .map(({ life }) => life.assignment)
    return refusalOf(assignment, { facts, runtimes: runtimes.map(({ name }) => name), others })
  }

  /**
   * Runs it: anew, or in place of an older generation (which drains first), or again when it has failed.
   * @throws MeshError UNPLACEABLE with the reason
   */
  assign(assignment: Assignment): void {
    const reason = this.refuses(assignment)
    if (reason !== undefined) throw new MeshError('UNPLACEABLE', { instance: assignment.instance, reason })
    const place = this.#places.get(assignment.instance)
    if (place === undefined) return this.#begin(assignment)
    const { life } = place
    const newest = place.next?.generation ?? life.assignment.generation
    if (assignment.generation < newest) return
    if (!place.isLeaving && life.state === 'failed') {
      place.life = this.#lifeOf(assignment, place.output)
      return
    }
    const isSame = assignment.generation === life.assignment.generation
    if (isSame && !place.isLeaving) return this.#tell(life.report())
    place.next = assignment
    if (!place.isLeaving) this.#leave(assignment.instance, place, life.assignment.spec.drainSeconds)
  }

  /** Ends it, after its flows had time to finish. False when it is not here. */
  withdraw(instance: InstanceId, { drainSeconds }: { drainSeconds?: number } = {}): boolean {
    const place = this.#places.get(instance)
    if (place === undefined) return false
    place.next = undefined
    this.#leave(instance, place, drainSeconds ?? place.life.assignment.spec.drainSeconds)
    return true
  }

  /** Ends whatever is not among these; what an earlier agent left may be started again from now on. */
  keepOnly(wanted: Iterable<InstanceId>): void {
    const kept = new Set(wanted)
    for (const instance of this.#places.keys()) if (!kept.has(instance)) this.withdraw(instance)
    this.#mayStart.resolve()
  }

  /** All the work of this node: starts what is missing, ends what is not wanted, keeps what runs. */
  sync(assignments: readonly Assignment[]): void {
    this.keepOnly(assignments.map(({ instance }) => instance))
    for (const assignment of assignments) {
      const { instance, generation } = assignment
      const there = this.#places.get(instance)
      const isKnown = there !== undefined && !there.isLeaving && there.life.assignment.generation >= generation
      if (isKnown) continue
      const reason = this.refuses(assignment)
      if (reason === undefined) this.assign(assignment)
      else this.#tell({ instance, generation, state: 'failed', detail: reason, restarts: 0 })
    }
  }

  /** Where the instance answers on this node; only while it is running. */
  endpointOf(instance: InstanceId, port: number, protocol: 'tcp' | 'udp' = 'tcp'): AskedEndpoint | undefined {
    return this.#places.get(instance)?.life.endpoint(port, protocol)
  }

  /** It ends: no new flow may begin, those that are open go on. */
  isDraining(instance: InstanceId): boolean {
    return this.#places.get(instance)?.life.state === 'stopping'
  }

  /** Why what the next agent must know is not on disk, while it is not. */
  get stateProblem(): MeshError | undefined {
    return this.#records.problem
  }

  /** How every instance here stands now. */
  reports(): InstanceReport[] {
    return [...this.#places.values()].map(({ life }) => life.report())
  }

  /** What it printed: the last lines, then, with `follow`, what comes. Kept ones too, of instances that are gone. */
  async *logs(
    instance: InstanceId,
    { tail = 100, follow = false }: { tail?: number; follow?: boolean } = {},
    signal?: AbortSignal,
  ): AsyncIterable<string> {
    const place = this.#places.get(instance)
    if (place !== undefined) yield* place.output.read({ tail, follow }, signal)
    else yield* await readKept(this.#config.logsDir, instance, tail)
  }

  /** Instances whose processes run here, or are about to. */
  residents(): InstanceId[] {
    return [...this.#places].flatMap(([instance, { life, next }]) =>
      [life.assignment, ...(next === undefined ? [] : [next])].every(({ spec }) => spec.runtime === 'external')
        ? []
        : [instance],
    )
  }

  /** Whose process is it? For finding out who calls. */
  *processes(): Iterable<{ instance: InstanceId; pids: number[] }> {
    for (const [instance, { life }] of this.#places) {
      const pids = life.pids()
      if (pids.length > 0) yield { instance, pids }
    }
  }

  close(): Promise<void> {
    return this.#life.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #restore(): void {
    const killAll = (exitCode: number) => {
      if (exitCode === FAILED) return // the next agent takes them back, as after kill -9
      for (const { life } of this.#places.values()) life.kill()
    }
    // The agent may end without close(), by process.exit().
    if (this.#config.keepOnClose !== true) {
      process.once('exit', killAll)
      this.#life.defer(() => void process.off('exit', killAll))
    }
    this.#life.defer(this.#clock.after(this.#timings.restoreMs, () => this.#mayStart.resolve()))
    for (const saved of this.#records.all()) {
      const { instance } = saved.assignment
      this.#begin(saved.assignment, saved)
      // its flows ended with the agent that carried them, unless that one still lets them end
      if (saved.state === 'stopping')
        this.withdraw(instance, this.#config.isSuccessor === true ? {} : { drainSeconds: 0 })
    }
  }

  #begin(assignment: Assignment, saved?: Saved): void {
    const { instance } = assignment
    const { logsDir, runDir } = this.#config
    const output = InstanceLog.open({ instance, logsDir, runDir, clock: this.#clock, log: this.#log })
    const life = this.#lifeOf(assignment, output, saved)
    this.#places.set(instance, { life, output, next: undefined, isLeaving: false })
  }

  #lifeOf(assignment: Assignment, output: InstanceLog, saved?: Saved): InstanceSupervisor {
    const { instance, spec } = assignment
    const { runtimes, openFlows, proxyEnvironment } = this.#config
    const parts = {
      runtime: runtimes.find(({ name }) => name === spec.runtime) ?? absentRuntime(spec.runtime),
      output,
      clock: this.#clock,
      timings: this.#timings,
      log: this.#log,
      environment: proxyEnvironment?.(instance) ?? {},
      report: (report: InstanceReport) => this.#tell(report),
      save: (saved: Saved) => this.#records.put(saved),
      onRestart: () => this.#metrics.restarts.inc(),
      mayStart: this.#mayStart.promise,
      admitted: () => (spec.runtime === 'external' ? undefined : this.#config.admit?.()),
      ...(openFlows === undefined ? {} : { openFlows: () => openFlows(instance) }),
    }
    return InstanceSupervisor.begin(assignment, parts, saved)
  }

  #leave(instance: InstanceId, place: Place, drainSeconds: number): void {
    place.life.stop(drainSeconds)
    if (place.isLeaving) return
    place.isLeaving = true
    const departure = this.#depart(instance, place).catch((error: unknown) =>
      this.#log.error('an instance did not leave cleanly', { instance, error }),
    )
    this.#departures.add(departure)
    void departure.then(() => this.#departures.delete(departure))
  }

  /** Waits for the end of a life; then the next one begins, or nothing of the instance is left but its log. */
  async #depart(instance: InstanceId, place: Place): Promise<void> {
    await place.life.ended
    if (this.#life.signal.aborted) {
      if (place.life.state === 'stopped') this.#records.drop(instance)
      return
    }
    if (place.next === undefined) {
      this.#records.drop(instance)
      await place.output.forget()
      this.#places.delete(instance)
      this.#census.count(instance, undefined)
      if (place.next !== undefined) this.#begin(place.next) // asked for while the log was closed
      return pruneLogs(this.#config.logsDir, this.#places.keys())
    }
    const { next } = place
    place.next = undefined
    place.isLeaving = false
    place.life = this.#lifeOf(next, place.output)
  }

  #tell(report: InstanceReport): void {
    this.#census.count(report.instance, report.state)
    this.#config.report(report)
  }

  /** Instances end with the agent; their records stay, and the next agent starts them again unless its cluster objects. */
  async #close(): Promise<void> {
    const keepOnClose = this.#isLetGo || this.#config.keepOnClose === true
    await Promise.all(
      [...this.#places.values()].map(async ({ life, output, isLeaving }) => {
        const { trace: _, ...saved } = life.saved()
        const isSettled = saved.state === 'stopped' || saved.state === 'failed'
        if (keepOnClose) life.letGo()
        else if (!isSettled) life.stop(0)
        // one that was being stopped is stopped by the next agent too
        await (this.#isLetGo ? Promise.race([life.ended, this.#clock.sleep(LET_GO_MS)]) : life.ended)
        if (!keepOnClose && !isLeaving && !isSettled) this.#records.put({ ...saved, state: 'placed', restarts: 0 })
        await output[Symbol.asyncDispose]()
      }),
    )
    if (!this.#isLetGo) await Promise.all(this.#departures)
    this.#census.clear()
  }
}

const LET_GO_MS = 250

/** For work that an earlier agent ran with a runtime this one has not. */
function absentRuntime(name: string): Runtime {
  const absent = () =>
    Promise.reject(new MeshError('RUNTIME_FAILED', { reason: `runtime ${name} is not offered here` }))
  return { name, launch: absent, adopt: absent }
}
