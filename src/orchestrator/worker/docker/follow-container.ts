import type { Clock } from '../../../core/kit/clock.ts'
import { statOf } from '../process-group.ts'
import type { Adoption, Trace } from '../runtime.ts'
import { Container } from './container.ts'
import { endpointsOf } from './container-body.ts'
import type { ContainerNetwork } from './container-network.ts'
import type { DockerOptions } from './docker-options.ts'
import type { Engine } from './engine.ts'
import { LABELS } from './labels.ts'
import { controlsOf, inspected, removeContainer } from './own-containers.ts'
import type { OwnRuns } from './own-runs.ts'

/** What all containers of an agent share. */
export interface ContainerWorld {
  readonly options: DockerOptions
  readonly network: ContainerNetwork
  readonly runs: OwnRuns
  readonly clock: Clock
}

export interface Followed {
  trace: Trace
  container: string
  run: string
  address: string
  fd: number
  hasHealthCheck: boolean
}

/** What an earlier agent left running; `undefined`: it does not run, and nothing of it is left. @throws as `Engine.ask` */
export async function adoptContainer(
  world: ContainerWorld,
  engine: Engine,
  launch: Adoption,
  { trace, container, run, address }: { trace: Trace; container: string; run: string; address: string },
): Promise<Container | undefined> {
  const found = await inspected(engine, container)
  if (found?.State?.Running !== true || found.Config?.Labels?.[LABELS.run] !== run) {
    if (found?.Config?.Labels?.[LABELS.run] === run) await removeContainer(engine, container)
    world.runs.drop(run)
    return undefined
  }
  await world.network.find(engine)
  world.network.keep(address)
  const [kind] = found.Config.Healthcheck?.Test ?? []
  const hasHealthCheck = kind !== undefined && kind !== 'NONE'
  const fd = await launch.output()
  return followContainer(world, engine, launch, { trace, container, run, address, fd, hasHealthCheck })
}

/** A container that runs. */
export async function followContainer(
  { options, runs, clock }: ContainerWorld,
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
    endpoints: endpointsOf(spec, address, options.seesVips),
    pid,
    memoryMb: spec.memoryMb,
    hasHealthCheck,
    fd,
    controls: controlsOf(pid, id),
    onTrace,
    onGone: () => runs.end(run, address),
    onLeft: () => runs.leave(run, address),
    clock,
  })
}
