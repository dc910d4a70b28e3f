import { explain, isMeshError, MeshError } from '../../../core/errors.ts'
import { systemClock, type Clock } from '../../../core/kit/clock.ts'
import type { ServiceSpec } from '../../spec.ts'
import type { Adoption, Launch, Running, Runtime, Trace } from '../runtime.ts'
import { ContainerNetwork } from './container-network.ts'
import { containerRefusal } from './container-refusal.ts'
import type { DockerOptions } from './docker-options.ts'
import type { Engine } from './engine.ts'
import { adoptContainer, type ContainerWorld } from './follow-container.ts'
import { KeptVolumes } from './kept-volumes.ts'
import { KnownEngine } from './known-engine.ts'
import { guardedOf, ownContainers } from './own-containers.ts'
import { OwnRuns } from './own-runs.ts'
import { startContainer } from './start-container.ts'

/** While the engine is away, containers of an earlier agent wait to be adopted, and those that ended to be started again. */
const AGAIN_MS = 1_000
/** An engine that is restarted is back within this. Larger: after it has failed for good, its instances start elsewhere later. */
const BACK_MS = 60_000

/** Between two looks at images that nobody uses. */
const SWEEP_MS = 600_000

/**
 * Containers by the Engine API, of Docker or Podman. They belong to the engine: an agent that is killed leaves them running, and the next
 * one finds them by the name in their trace, and by label what no trace names.
 */
export class DockerRuntime implements Runtime {
  readonly name = 'docker'
  readonly #options: DockerOptions
  readonly #network: ContainerNetwork
  readonly #clock: Clock
  readonly #known: KnownEngine
  readonly #runs: OwnRuns
  readonly volumes: KeptVolumes
  #refreshing: Promise<void> | undefined
  #isReleased = false
  #sweptAt = Number.NEGATIVE_INFINITY

  constructor(options: DockerOptions) {
    this.#options = options
    this.#network = new ContainerNetwork(options.network)
    this.#clock = options.clock ?? systemClock
    this.#known = new KnownEngine(options.engine, options.log)
    this.volumes = new KeptVolumes(() => this.#engine, options.network.agent)
    const { guard, secretFiles } = options
    this.#runs = new OwnRuns({ agent: options.network.agent, guard, network: this.#network, secretFiles })
  }

  get #world(): ContainerWorld {
    return { options: this.#options, network: this.#network, runs: this.#runs, clock: this.#clock }
  }

  get #engine(): Engine | undefined {
    return this.#known.engine
  }

  /** An engine answers. */
  get isOffered(): boolean {
    return this.#engine !== undefined
  }

  /** For people: which engine, or why there is none. */
  get finding(): string {
    if (this.#engine === undefined) return this.#known.reason
    const { socketPath, version } = this.#engine
    const { refusal6 } = this.#network
    const without = refusal6 === undefined ? '' : `; containers have no IPv6: ${refusal6}`
    return `engine ${version.version} at ${socketPath}${without}`
  }

  /** Looks for the engine again; once, however many wait for it. */
  refresh(): Promise<void> {
    this.#refreshing ??= this.#refresh().finally(() => {
      this.#refreshing = undefined
    })
    return this.#refreshing
  }

  async #refresh(): Promise<void> {
    const present = await this.#known.find()
    if (present === undefined) return
    const { engine: found, isNew } = present
    if (isNew) {
      await this.#network.find(found).catch(() => undefined) // it is made at the first launch
      await this.#guardAll(found)
    } else if (this.#options.guard.knowsAll) await this.#options.guard.keep()
    else await this.#guardAll(found)
    await this.#runs.tidy(found).catch((error: unknown) => {
      this.#options.log.warn('what an earlier agent left running could not be ended', { error })
    })
    await this.#sweepImages(found)
  }

  async #sweepImages(engine: Engine): Promise<void> {
    const now = this.#clock.now()
    if (this.#isReleased || now - this.#sweptAt < SWEEP_MS) return
    this.#sweptAt = now
    await this.#options.images.sweep(engine, this.#clock.wall()).catch((error: unknown) => {
      this.#options.log.warn('images that nobody uses could not be removed', { error })
    })
  }

  /** Whether a caller with this address is, or claims to be, a container of ours. */
  holds(address: string): boolean {
    return this.#network.ipv4Of(address) !== undefined
  }

  /** The IPv4 address of the same container, by which it is known. */
  ipv4Of(address: string): string | undefined {
    return this.#network.ipv4Of(address)
  }

  /** The agent ends for good, as far as it knows: its bridge goes with its last container. */
  async close(): Promise<void> {
    await this.#options.guard.close()
    if (this.#engine !== undefined) await this.#network.remove(this.#engine)
  }

  /** A successor has the containers now, and the rules for them. */
  release(): void {
    this.#isReleased = true
    this.#options.guard.pause()
  }

  /** It is lost. */
  async takeBack(): Promise<void> {
    this.#isReleased = false
    this.#options.guard.resume()
    if (this.#engine !== undefined) await this.#guardAll(this.#engine)
  }

  refuses(spec: ServiceSpec): string | undefined {
    if (this.#engine === undefined) return `runtime docker is not offered here: ${this.#known.reason}`
    return containerRefusal(spec, this.#options, this.#options.guard.reason)
  }

  /** An engine that is being restarted is waited for: what ran on it starts again where its volumes are. */
  async launch(launch: Launch): Promise<Running> {
    const { clock, signal } = { clock: this.#clock, signal: launch.signal }
    const until = clock.now() + BACK_MS
    for (;;) {
      if (this.#engine === undefined) await this.refresh()
      try {
        const { assignment } = launch
        const engine = this.#engine
        if (engine === undefined) throw new MeshError('NOT_RUNNING', { what: 'container engine' })
        const refusal = this.refuses(assignment.spec)
        if (refusal !== undefined) throw new MeshError('RUNTIME_FAILED', { reason: refusal })
        return await startContainer(this.#world, engine, launch)
      } catch (error) {
        const isAway = isMeshError(error, 'NOT_RUNNING')
        if (isAway && clock.now() < until && !signal.aborted) await clock.sleep(AGAIN_MS, signal)
        if (signal.aborted) throw new MeshError('RUNTIME_FAILED', { reason: 'it is not wanted any more' })
        if (!isAway || clock.now() >= until) throw isMeshError(error, 'RUNTIME_FAILED') ? error : failure(error)
        await this.refresh()
      }
    }
  }

  async adopt(launch: Adoption, trace: Trace): Promise<Running | undefined> {
    const { container, run, address } = trace
    if (typeof container !== 'string' || typeof run !== 'string' || typeof address !== 'string') return undefined
    this.#runs.begin(run)
    while (!launch.signal.aborted) {
      try {
        const engine = this.#engine
        if (engine !== undefined)
          return await adoptContainer(this.#world, engine, launch, { trace, container, run, address })
      } catch (error) {
        if (!isMeshError(error, 'NOT_RUNNING')) throw error
      }
      await this.#clock.sleep(AGAIN_MS, launch.signal)
      await this.refresh()
    }
    return undefined
  }

  async tidy(traces: readonly Trace[]): Promise<void> {
    this.#runs.compare(traces)
    if (this.#engine !== undefined) await this.#runs.tidy(this.#engine)
  }

  /** Those of an earlier agent: before they are adopted, too, their calls must not fail. */
  async #guardAll(engine: Engine): Promise<void> {
    const { guard, log, network } = this.#options
    try {
      const all = await ownContainers(engine, network.agent)
      const found = all.flatMap((each) => guardedOf(each, this.#network.name))
      await guard.begin(found)
    } catch (error) {
      log.warn('rules for containers cannot be set', { error })
    }
  }
}

function failure(cause: unknown): MeshError {
  return new MeshError('RUNTIME_FAILED', { reason: explain(cause) }, { cause })
}
