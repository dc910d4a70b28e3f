import { join } from 'node:path'
import type { AgentContext } from './context.ts'
import type { NodeFacts, InstanceReport, Assignment, Replacement } from '../orchestrator/spec.ts'
import type { InstanceId } from '../core/model/ids.ts'
import type { Containers } from './containers.ts'
import { MeshError } from '../core/errors.ts'
import type { AskSecrets } from '../orchestrator/worker/kept-secrets.ts'
import { ExternalRuntime } from '../orchestrator/worker/external-runtime.ts'
import type { ProgramGuard } from '../orchestrator/worker/program-guard.ts'
import { ProcessRuntime } from '../orchestrator/worker/process-runtime.ts'
import type { Endpoint } from '../orchestrator/worker/runtime.ts'
import type { Separation } from '../orchestrator/worker/separation.ts'
import type { InstanceProcesses } from '../orchestrator/worker/slots.ts'
import { Worker } from '../orchestrator/worker/worker.ts'
import type { WorkerConfig } from '../orchestrator/worker/worker-config.ts'

/** What the data plane asks about the instances of this node. */
export interface LocalInstances {
  endpointOf(instance: InstanceId, port: number, protocol: 'tcp' | 'udp'): Endpoint | undefined
  /** It stops, or its run `at` this endpoint does. */
  isDraining(instance: InstanceId, at?: Endpoint): boolean
  has(instance: string): boolean
  /** Instances whose processes run here, or are about to. */
  residents(): InstanceId[]
  processes(): Iterable<InstanceProcesses>
  /** Only instances run as this user. */
  isInstanceUser(uid: number): boolean
  /** The container of this instance has the address. */
  instanceAt(address: string): InstanceId | undefined
  /** Only containers of instances have such an address. */
  isContainer(address: string): boolean
  readonly containers: Containers
}

/** What the worker asks the rest of the agent. */
export interface WorkerNeeds {
  facts: NodeFacts
  /** For the environment of an instance that starts. */
  proxyEnvironment: (instance: InstanceId) => Record<string, string>
  /** Flows that are open to an instance, or only `to` one of its runs: while that stops, they may finish. */
  openFlows: (instance: InstanceId, to?: readonly Endpoint[]) => number
  /** An instance is about to start. */
  admit: () => Promise<void> | undefined
}

/** An adopted instance is a process to look for; a damaged one must not hold up the start. */
const RESTORED_MS = 2_000

/**
 * The instances of this node, and who looks after them: nobody yet, this agent, or its successor.
 *
 *     waiting ── adopt ─▶ working ── release ─▶ released (a successor has them)
 *                            ▲                      │ takeBack (the successor is lost)
 *                            └──────────────────────┘
 *
 * The data plane starts before the worker, which needs the ports of the proxies: until `adopt` no instance is here.
 */
export class Instances implements LocalInstances {
  /** What separates them from each other and from the agent. */
  readonly separation: Separation
  readonly programGuard: ProgramGuard
  readonly containers: Containers
  readonly #context: AgentContext
  readonly #environment: Readonly<Record<string, string | undefined>>
  #askSecrets: AskSecrets = notYet
  readonly #listeners = new Set<(report: InstanceReport) => void>()
  #adopted: { worker: Worker; config: WorkerConfig } | undefined
  /** Instances end with this agent. False while a predecessor or a successor answers for them. */
  #isOwner: boolean
  /** Until there is a worker of this agent, and while a successor has the instances. */
  #waiting: PromiseWithResolvers<void> | undefined = Promise.withResolvers()

  /** `environment`: what every program needs from it, for example PATH, HOME, language and time zone. */
  constructor(
    context: AgentContext,
    environment: Readonly<Record<string, string | undefined>>,
    {
      separation,
      containers,
      programGuard,
    }: { separation: Separation; containers: Containers; programGuard: ProgramGuard },
  ) {
    this.programGuard = programGuard
    this.#context = context
    this.separation = separation
    this.containers = containers
    this.#environment = environment
    this.#isOwner = context.predecessor === undefined
  }

  /** Starts the worker, which adopts what an earlier agent left running. */
  async adopt(needs: WorkerNeeds): Promise<void> {
    const config = this.#workerConfig(needs)
    await this.#work(config)
    this.#context.life.defer(async () => {
      await this.worker.close()
      if (this.#isOwner) await this.containers.runtime?.close()
    })
    this.#mayAssign()
  }

  /** The worker of now: another one after instances were released and taken back. */
  get worker(): Worker {
    if (this.#adopted === undefined) throw new Error('the worker is used before it is started')
    return this.#adopted.worker
  }

  reports(): InstanceReport[] {
    return this.#adopted?.worker.reports() ?? []
  }

  /** Called at once for each change of an instance, not only when the cluster has heard of it. */
  onReport(listener: (report: InstanceReport) => void): void {
    this.#listeners.add(listener)
  }

  /** Who gives the secrets of instances. */
  askSecretsFrom(ask: AskSecrets): void {
    this.#askSecrets = ask
  }

  /** In the turn of the caller, which may have thousands; waits only while a successor has the instances. */
  assign(assignment: Assignment, how?: Replacement): void | Promise<void> {
    if (this.#waiting === undefined) this.worker.assign(assignment, how)
    else return this.#waiting.promise.then(() => this.worker.assign(assignment, how))
  }

  /** From now on instances end with this agent; before, they are the predecessor's if this start fails. */
  own(): void {
    this.#isOwner = true
  }

  /** Leaves the instances to a successor. Where they answer stays known; what is assigned meanwhile waits. */
  async release(): Promise<void> {
    this.#isOwner = false
    this.#waiting = Promise.withResolvers()
    await this.worker.letGo()
    this.containers.runtime?.release()
    this.programGuard.pause()
  }

  /** The successor is lost: looks after the instances again. */
  async takeBack(): Promise<void> {
    this.#isOwner = true
    await this.containers.runtime?.takeBack()
    this.programGuard.resume()
    if (this.#adopted !== undefined) await this.#work(this.#adopted.config)
    this.#mayAssign()
  }

  #mayAssign(): void {
    this.#waiting?.resolve()
    this.#waiting = undefined
  }

  // what the data plane asks

  endpointOf(instance: InstanceId, port: number, protocol: 'tcp' | 'udp'): Endpoint | undefined {
    return this.#adopted?.worker.endpointOf(instance, port, protocol)
  }

  isDraining(instance: InstanceId, at?: Endpoint): boolean {
    return this.#adopted?.worker.isDraining(instance, at) ?? true
  }

  has(instance: string): boolean {
    return this.reports().some((report) => report.instance === instance)
  }

  residents(): InstanceId[] {
    return this.#adopted?.worker.residents() ?? []
  }

  processes(): Iterable<InstanceProcesses> {
    return this.#adopted?.worker.processes() ?? []
  }

  isInstanceUser(uid: number): boolean {
    return this.separation.users?.has(uid) === true
  }

  instanceAt(address: string): InstanceId | undefined {
    const ipv4 = this.containers.runtime?.ipv4Of(address)
    for (const each of this.processes()) if ('address' in each && each.address === ipv4) return each.instance
    return undefined
  }

  isContainer(address: string): boolean {
    return this.containers.runtime?.holds(address) === true
  }

  /** What this node can run now. */
  runtimes(): string[] {
    return ['process', 'external', ...(this.containers.runtime?.isOffered === true ? ['docker'] : [])]
  }

  async #work(config: WorkerConfig): Promise<void> {
    const { log, metrics, clock } = this.#context
    const worker = await Worker.start(config, log, metrics)
    await Promise.race([worker.restored(), clock.sleep(RESTORED_MS)])
    this.#adopted = { worker, config }
    for (const report of worker.reports()) this.#report(report)
  }

  #report(report: InstanceReport): void {
    for (const listener of this.#listeners) listener(report)
  }

  #workerConfig(needs: WorkerNeeds): WorkerConfig {
    const { self, dir, clock, config, predecessor } = this.#context
    const isKept = () => !this.#isOwner || config.keepInstances
    return {
      ...needs,
      runtimes: [
        new ProcessRuntime({
          node: self,
          inherited: this.#environment,
          clock,
          separation: this.separation,
          hostPorts: config.containers.hostPorts,
          guard: this.programGuard,
        }),
        new ExternalRuntime(),
        ...(this.containers.runtime === undefined ? [] : [this.containers.runtime]),
      ],
      logsDir: join(dir, 'logs'),
      runDir: join(dir, 'instances'),
      report: (report) => this.#report(report),
      secretsOf: (instance) => this.#askSecrets(instance),
      isSuccessor: predecessor !== undefined,
      get keepOnClose() {
        return isKept()
      },
      clock,
    }
  }
}

/** The control link is opened after the instances are taken back. */
const notYet: AskSecrets = () => Promise.reject(new MeshError('LINK_CLOSED'))
