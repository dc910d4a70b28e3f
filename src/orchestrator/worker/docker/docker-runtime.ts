import { randomBytes } from 'node:crypto'
import { close } from 'node:fs'
import { explain, isMeshError, MeshError } from '../../../core/errors.ts'
import { egressRules } from '../../../core/model/egress.ts'
import { systemClock, type Clock } from '../../../core/kit/clock.ts'
import type { Log } from '../../../core/kit/log.ts'
import type { ServiceSpec } from '../../spec.ts'
import { statOf } from '../process-group.ts'
import { type Adoption, type Launch, type Running, type Runtime, type Trace } from '../runtime.ts'
import { Container } from './container.ts'
import { containerBody, containerName, endpointsOf } from './container-body.ts'
import type { ContainerGuard } from './container-guard.ts'
import { containerRefusal, type ContainerPolicy } from './container-refusal.ts'
import { ContainerNetwork, isPortFault, type NetworkOptions } from './container-network.ts'
import { sinkTo } from './container-output.ts'
import type { Engine } from './engine.ts'
import type { EngineWhere } from './find-engine.ts'
import { imageOf, type Image } from './image.ts'
import { KnownEngine } from './known-engine.ts'
import { LABELS } from './labels.ts'
import { macOf } from './container-rules.ts'
import { controlsOf, guardedOf, inspected, ownContainers, removeContainer } from './own-containers.ts'
import type { PulledImages } from './pulled-images.ts'
import { makeVolumes, type Mount } from './volumes.ts'
import { filesOf, secretsOfFolder } from '../instance-files.ts'
import type { SecretFiles } from '../secret-files.ts'

export interface DockerOptions extends ContainerPolicy {
  /** The node's id, for HEDGEROW_NODE. */
  node: string
  engine: EngineWhere
  network: NetworkOptions
  /** Rules for what containers send. */
  guard: ContainerGuard
  /** The file that containers get as /etc/resolv.conf; absent: the engine's own. */
  resolvConf: string | undefined
  /** VIPs lead to this machine from inside containers, and callers may be shown to them under theirs. */
  seesVips: boolean
  secretFiles: SecretFiles
  images: PulledImages
  clock?: Clock
  log: Log
}

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
  /** Those that this agent has begun or adopted. */
  readonly #runs = new Set<string>()
  /** What an earlier agent left, not compared with the engine's containers yet. */
  #untidied: readonly Trace[] | undefined
  /** Runs whose containers could not be ended while the engine was away, with their addresses. */
  readonly #left = new Map<string, string>()
  #refreshing: Promise<void> | undefined
  #isReleased = false
  #sweptAt = Number.NEGATIVE_INFINITY

  constructor(options: DockerOptions) {
    this.#options = options
    this.#network = new ContainerNetwork(options.network)
    this.#clock = options.clock ?? systemClock
    this.#known = new KnownEngine(options.engine, options.log)
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
    await this.#tidyNow(found).catch((error: unknown) => {
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
        return await this.#launch(launch)
      } catch (error) {
        const isAway = isMeshError(error, 'NOT_RUNNING')
        if (isAway && clock.now() < until && !signal.aborted) await clock.sleep(AGAIN_MS, signal)
        if (signal.aborted) throw new MeshError('RUNTIME_FAILED', { reason: 'it is not wanted any more' })
        if (!isAway || clock.now() >= until) throw isMeshError(error, 'RUNTIME_FAILED') ? error : failure(error)
        await this.refresh()
      }
    }
  }

  /** @throws MeshError NOT_RUNNING when the engine does not answer, RUNTIME_FAILED and what the engine refuses with */
  async #launch(launch: Launch): Promise<Running> {
    const { assignment, signal } = launch
    const { spec } = assignment
    const engine = this.#engine
    const refusal = this.refuses(spec)
    if (engine === undefined) throw new MeshError('NOT_RUNNING', { what: 'container engine' })
    if (refusal !== undefined) throw new MeshError('RUNTIME_FAILED', { reason: refusal })
    const run = randomBytes(8).toString('hex')
    this.#runs.add(run)
    try {
      const given = await launch.secrets()
      const image = await this.#image(engine, launch, given.find(({ name }) => name === spec.registrySecret)?.value)
      this.#options.images.used({ ...image, reference: spec.code }, this.#clock.wall())
      const { secretFiles, hostPaths, network } = this.#options
      const inFolder = secretsOfFolder(spec, given)
      const secrets = inFolder.length === 0 ? undefined : secretFiles.write(run, inFolder)
      const files = spec.files === undefined ? undefined : secretFiles.writeFiles(run, filesOf(spec, given))
      const volumes = await makeVolumes(engine, spec, { agent: network.agent, hostPaths, signal })
      const fd = await launch.output()
      const preferred = Object.values(launch.endpoints)[0]?.host
      return await this.#network
        .withAddress(engine, preferred, (address) =>
          this.#start(engine, launch, { run, image, address, fd, secrets, files, volumes }),
        )
        .catch((error: unknown) => {
          close(fd, () => undefined)
          throw error
        })
    } catch (error) {
      this.#runs.delete(run)
      this.#options.secretFiles.remove(run)
      throw error
    }
  }

  async adopt(launch: Adoption, trace: Trace): Promise<Running | undefined> {
    const { container, run, address } = trace
    if (typeof container !== 'string' || typeof run !== 'string' || typeof address !== 'string') return undefined
    this.#runs.add(run)
    while (!launch.signal.aborted) {
      try {
        const engine = this.#engine
        if (engine !== undefined) return await this.#adopt(engine, launch, { trace, container, run, address })
      } catch (error) {
        if (!isMeshError(error, 'NOT_RUNNING')) throw error
      }
      await this.#clock.sleep(AGAIN_MS, launch.signal)
      await this.refresh()
    }
    return undefined
  }

  async tidy(traces: readonly Trace[]): Promise<void> {
    this.#untidied = traces
    if (this.#engine !== undefined) await this.#tidyNow(this.#engine)
  }

  #image(
    engine: Engine,
    { assignment: { spec }, output, signal }: Launch,
    credentials: Buffer | undefined,
  ): Promise<Image> {
    const write = async (line: string) => sinkTo(await output()).end(`hedgerow: ${line}\n`)
    return imageOf(engine, spec, {
      say: (line) => void write(line).catch(() => undefined),
      credentials,
      signal,
    })
  }

  async #start(engine: Engine, launch: Launch, { run, image, address, fd, ...mounted }: Start): Promise<Container> {
    const { assignment, onTrace, signal } = launch
    const { node, network, resolvConf } = this.#options
    const container = containerName(assignment.instance, run)
    const trace = { run, container, address, engine: engine.socketPath }
    const ipv6 = this.#network.ipv6Of(address)
    const facts = {
      assignment,
      agent: network.agent,
      node,
      run,
      network: this.#network.name,
      address,
      ipv6,
      resolvConf,
      ...mounted,
    }
    await launch.mayStart()
    signal.throwIfAborted()
    onTrace(trace) // a crash from here on leaves a container of this name
    const { guard } = this.#options
    const isClosed = assignment.spec.egress === 'none'
    try {
      if (guard.reason === undefined && !guard.knowsAll)
        throw new Error('the containers that are there are not known yet')
      const egressTo = egressRules(assignment.spec.egressTo)
      // it sends nothing before it is started: its rules are set while the engine makes it
      const made = await Promise.allSettled([
        guard.admit({ mac: macOf(address), ipv4: address, ipv6, isClosed, egressTo }),
        engine.ask({
          method: 'POST',
          path: '/containers/create',
          query: { name: container },
          body: containerBody(facts),
          signal,
        }),
      ])
      for (const each of made) if (each.status === 'rejected') throw each.reason
      await engine.ask({ method: 'POST', path: `/containers/${container}/start`, signal })
      if (isClosed && !this.#network.isHere)
        throw new MeshError('RUNTIME_FAILED', {
          reason: 'egress none cannot be kept: the engine has its bridge elsewhere',
        })
      this.#network.isolatePorts()
      return await this.#follow(engine, launch, {
        trace,
        container,
        run,
        address,
        fd,
        hasHealthCheck: image.hasHealthCheck,
      })
    } catch (error) {
      await this.#undo(engine, { container, run, address })
      throw isPortFault(error)
        ? new MeshError(
            'RUNTIME_FAILED',
            { reason: `a host_port is taken on this node: ${explain(error)}` },
            { cause: error },
          )
        : error
    }
  }

  /** What was not started for good. While the engine is away it may be there, and is removed when that is back. */
  async #undo(engine: Engine, { container, run, address }: { container: string; run: string; address: string }) {
    try {
      await removeContainer(engine, container)
      this.#options.guard.release(address)
    } catch {
      this.#left.set(run, address)
    }
  }

  async #adopt(
    engine: Engine,
    launch: Adoption,
    { trace, container, run, address }: { trace: Trace; container: string; run: string; address: string },
  ): Promise<Container | undefined> {
    const found = await inspected(engine, container)
    if (found?.State?.Running !== true || found.Config?.Labels?.[LABELS.run] !== run) {
      if (found?.Config?.Labels?.[LABELS.run] === run) await removeContainer(engine, container)
      this.#options.secretFiles.remove(run)
      this.#runs.delete(run)
      return undefined
    }
    await this.#network.find(engine)
    this.#network.keep(address)
    const [kind] = found.Config.Healthcheck?.Test ?? []
    const hasHealthCheck = kind !== undefined && kind !== 'NONE'
    const fd = await launch.output()
    return this.#follow(engine, launch, { trace, container, run, address, fd, hasHealthCheck })
  }

  async #follow(
    engine: Engine,
    { assignment: { spec }, onTrace }: Adoption,
    { trace, container, run, address, fd, hasHealthCheck }: Followed,
  ): Promise<Container> {
    const { Id: id = '', State } = (await inspected(engine, container)) ?? {}
    const pid = State?.Pid ?? 0
    const initStartTime = statOf(pid)?.startTime
    const known = { ...trace, engine: engine.socketPath }
    const followed = initStartTime === undefined ? known : { ...known, init: pid, initStartTime }
    onTrace(followed)
    return Container.follow({
      engine,
      container,
      trace: followed,
      endpoints: endpointsOf(spec, address, this.#options.seesVips),
      pid,
      memoryMb: spec.memoryMb,
      hasHealthCheck,
      fd,
      controls: controlsOf(pid, id),
      onTrace,
      onGone: () => {
        this.#options.guard.release(address)
        this.#network.release(address)
        this.#options.secretFiles.remove(run)
        this.#runs.delete(run)
      },
      onLeft: () => this.#left.set(run, address),
      clock: this.#clock,
    })
  }

  /**
   * Containers of this agent that no record names: it was killed before it could write one, or the record was lost. And those that it
   * could not end.
   */
  async #tidyNow(engine: Engine): Promise<void> {
    const traces = this.#untidied
    const left = [...this.#left]
    if (traces === undefined && left.length === 0) return
    const known = new Set([...(traces ?? []).map(({ run }) => run), ...this.#runs])
    const isOver = (run: string) => this.#left.has(run) || (traces !== undefined && !known.has(run))
    const all = await ownContainers(engine, this.#options.network.agent, 'ended')
    for (const { Id, Labels = {} } of all) if (isOver(Labels[LABELS.run] ?? '')) await removeContainer(engine, Id)
    if (traces !== undefined) this.#options.secretFiles.tidy(known)
    if (this.#untidied === traces) this.#untidied = undefined
    for (const [run, address] of left) {
      this.#left.delete(run)
      this.#options.secretFiles.remove(run)
      this.#runs.delete(run)
      this.#options.guard.release(address)
      this.#network.release(address)
    }
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

interface Start {
  run: string
  image: Image
  address: string
  fd: number
  secrets: string | undefined
  files: string | undefined
  volumes: readonly Mount[]
}

interface Followed {
  trace: Trace
  container: string
  run: string
  address: string
  fd: number
  hasHealthCheck: boolean
}
