import { join } from 'node:path'
import { machineFacts } from './machine.ts'
import { type InstanceId, splitInstanceId } from '../core/model/ids.ts'
import { ExternalRuntime } from '../orchestrator/worker/external-runtime.ts'
import { ProcessRuntime } from '../orchestrator/worker/process-runtime.ts'
import type { Relays } from '../../proxy/paths/relays/relays.ts'
import type { FastPath } from '../../proxy/kernel/fast-path.ts'
import type { Endpoint } from '../orchestrator/worker/runtime.ts'
import type { Uplink } from '../orchestrator/worker/uplink.ts'
import { Worker } from '../orchestrator/worker/worker.ts'
import type { WorkerConfig } from '../orchestrator/worker/worker-config.ts'
import type { NodeFacts } from '../orchestrator/spec.ts'
import type { Predecessors } from './predecessors.ts'
import type { ProxyListeners, Flows } from './flows.ts'
import type { AgentContext } from './context.ts'
import type { Connectivity } from './connectivity.ts'
import type { NetworkCoordinates } from './coordinates.ts'

/*
 * What we run. Wired here: the runtimes, the worker, and how instances go from one agent of this node to the next.
 */

/** The instances on this node, for those who need them before the worker is there: it needs the proxies' ports first. */
export class InstancesHere {
  #worker: Worker | undefined
  #fastPath: FastPath | undefined

  workedBy(worker: Worker): void {
    this.#worker = worker
    this.#fastPath?.refresh()
  }

  /** Who must know at once what becomes of instances. */
  watchedBy(fastPath: FastPath): void {
    this.#fastPath = fastPath
  }

  get fastPath(): FastPath | undefined {
    return this.#fastPath
  }

  readonly endpointOf = (instance: InstanceId, port: number, protocol: 'tcp' | 'udp'): Endpoint | undefined =>
    this.#worker?.endpointOf(instance, port, protocol)

  readonly isDraining = (instance: InstanceId): boolean => this.#worker?.isDraining(instance) ?? true

  has(instance: string): boolean {
    return this.#worker?.reports().some((report) => report.instance === instance) === true
  }

  /** Instances whose processes run here, or are about to. */
  residents(): InstanceId[] {
    return this.#worker?.residents() ?? []
  }

  processes(): Iterable<{ instance: InstanceId; pids: number[] }> {
    return this.#worker?.processes() ?? []
  }
}

export interface InstancesOptions {
  /** Of which instances get what every program needs: PATH, HOME, language, time zone. */
  environment: Readonly<Record<string, string | undefined>>
  elders: Predecessors
}

/** An adopted instance is a process to look for; a damaged one must not hold up the start. */
const RESTORED_MS = 2_000

export class Instances {
  readonly facts: () => NodeFacts
  readonly #ground: AgentContext
  readonly #here: InstancesHere
  readonly #config: WorkerConfig
  readonly #candidates: () => string[]
  readonly #whereabouts: NetworkCoordinates
  #addresses: string[]
  readonly #relays: Relays
  #relaysTold: string[]
  #uplink: Uplink | undefined
  #worker: Worker | undefined
  /** False while a successor has the instances, or an elder still does. */
  #isOurs: boolean
  #mayAssign = Promise.withResolvers<void>()

  private constructor(
    ground: AgentContext,
    { inbound, candidates, whereabouts, relays }: Connectivity,
    { ledger }: Flows,
    { access, ports }: ProxyListeners,
    here: InstancesHere,
    { environment, elders }: InstancesOptions,
  ) {
    const { self, dir, config, version, clock } = ground
    this.#ground = ground
    this.#here = here
    this.#candidates = candidates
    this.#whereabouts = whereabouts
    this.#addresses = candidates()
    this.#relays = relays
    this.#relaysTold = relays.listening
    this.#isOurs = ground.predecessor === undefined
    const runtimes = ['process', 'external']
    this.facts = () => {
      const { reported: coordinate } = whereabouts
      const where = {
        addresses: this.#addresses,
        relays: this.#relaysTold,
        ...(coordinate === undefined ? {} : { coordinate }),
      }
      return machineFacts(self, config, { ...where, runtimes, version })
    }
    const isKept = () => !this.#isOurs
    this.#config = {
      facts: this.facts(),
      runtimes: [new ProcessRuntime({ node: self, inherited: environment, clock }), new ExternalRuntime()],
      logsDir: join(dir, 'logs'),
      runDir: join(dir, 'instances'),
      report: (report) => {
        this.#uplink?.report(report)
        here.fastPath?.refresh(splitInstanceId(report.instance)?.service) // at once, not when the cluster has heard of it
      },
      admit: () => here.fastPath?.admit(),
      openFlows: (instance) =>
        ledger.openFlows(instance) +
        inbound.openFlows(instance) +
        elders.openFlows(instance) +
        (here.fastPath?.openFlows(instance) ?? 0),
      proxyEnvironment: (instance) => access.environment(instance, ports),
      isSuccessor: ground.predecessor !== undefined,
      get keepOnClose() {
        return isKept()
      },
      clock,
    }
  }

  /** Adopts what an earlier agent left running. */
  static async start(
    ground: AgentContext,
    reach: Connectivity,
    flows: Flows,
    doors: ProxyListeners,
    here: InstancesHere,
    options: InstancesOptions,
  ): Promise<Instances> {
    const work = new Instances(ground, reach, flows, doors, here, options)
    await work.#begin()
    ground.life.defer(() => work.worker.close())
    work.#mayAssign.resolve()
    return work
  }

  /** The one now: there is another one after instances were let go and taken back. */
  get worker(): Worker {
    if (this.#worker === undefined) throw new Error('the worker is not there yet')
    return this.#worker
  }

  /** Resolves when this agent may be given work: not while a successor has it. */
  get mayAssign(): Promise<void> {
    return this.#mayAssign.promise
  }

  /** Looks at the machine's addresses and place in the network; true when the cluster must hear of it. */
  refresh(): boolean {
    const found = this.#candidates()
    const { listening } = this.#relays
    const isElsewhere = found.join() !== this.#addresses.join() || listening.join() !== this.#relaysTold.join()
    const isNew = this.#whereabouts.renew() || isElsewhere
    this.#addresses = found
    this.#relaysTold = listening
    return isNew
  }

  /** Reports go there from now on; what was reported before, the link asks for itself. */
  reportTo(uplink: Uplink): void {
    this.#uplink = uplink
  }

  /** From now on instances end with this agent; before, they are the elder's, should we fail. */
  own(): void {
    this.#isOurs = true
  }

  /** Leaves the instances to a successor; where they answer is known on, and what is assigned meanwhile waits. */
  async letGo(): Promise<void> {
    this.#isOurs = false
    this.#mayAssign = Promise.withResolvers()
    await this.worker.letGo()
  }

  /** The successor was lost: looks after them again. */
  async takeBack(): Promise<void> {
    this.#isOurs = true
    await this.#begin()
    this.#mayAssign.resolve()
  }

  async #begin(): Promise<void> {
    const { log, metrics, clock } = this.#ground
    this.#worker = await Worker.start(this.#config, log, metrics)
    await Promise.race([this.#worker.restored(), clock.sleep(RESTORED_MS)])
    this.#here.workedBy(this.#worker)
  }
}
