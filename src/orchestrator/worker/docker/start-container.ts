import { randomBytes } from 'node:crypto'
import { close } from 'node:fs'
import { explain, MeshError } from '../../../core/errors.ts'
import { egressRules } from '../../../core/model/egress.ts'
import { filesOf, secretsOfFolder } from '../instance-files.ts'
import type { Launch, Running } from '../runtime.ts'
import type { Container } from './container.ts'
import { containerBody, containerName } from './container-body.ts'
import { isPortFault } from './container-network.ts'
import { sinkTo } from './container-output.ts'
import { macOf } from './container-rules.ts'
import type { Engine } from './engine.ts'
import { followContainer, type ContainerWorld, type Followed } from './follow-container.ts'
import { imageOf, type Image } from './image.ts'
import { removeContainer } from './own-containers.ts'
import { makeVolumes, type Mount } from './volumes.ts'

interface Start {
  run: string
  image: Image
  address: string
  fd: number
  secrets: string | undefined
  files: string | undefined
  volumes: readonly Mount[]
}

/** @throws MeshError RUNTIME_FAILED, as `Engine.ask`, and what the engine refuses with */
export async function startContainer(world: ContainerWorld, engine: Engine, launch: Launch): Promise<Running> {
  const { assignment, signal } = launch
  const { options, runs } = world
  const { spec } = assignment
  const run = randomBytes(8).toString('hex')
  runs.begin(run)
  try {
    const given = await launch.secrets()
    const image = await readyImage(engine, launch, given.find(({ name }) => name === spec.registrySecret)?.value)
    options.images.used({ ...image, reference: spec.code }, world.clock.wall())
    const { secretFiles, hostPaths, network } = options
    const inFolder = secretsOfFolder(spec, given)
    const secrets = inFolder.length === 0 ? undefined : secretFiles.write(run, inFolder)
    const files = spec.files === undefined ? undefined : secretFiles.writeFiles(run, filesOf(spec, given))
    const volumes = await makeVolumes(engine, spec, { agent: network.agent, hostPaths, signal })
    const fd = await launch.output()
    const preferred = Object.values(launch.endpoints)[0]?.host
    return await world.network
      .withAddress(engine, preferred, (address) =>
        createAndStart(world, engine, launch, { run, image, address, fd, secrets, files, volumes }),
      )
      .catch((error: unknown) => {
        close(fd, () => undefined)
        throw error
      })
  } catch (error) {
    runs.drop(run)
    throw error
  }
}

function readyImage(
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

async function createAndStart(
  world: ContainerWorld,
  engine: Engine,
  launch: Launch,
  { run, image, address, fd, ...mounted }: Start,
): Promise<Container> {
  const { assignment, onTrace, signal } = launch
  const { node, network, resolvConf, guard } = world.options
  const container = containerName(assignment.instance, run)
  const trace = { run, container, address, engine: engine.socketPath }
  const ipv6 = world.network.ipv6Of(address)
  const facts = {
    assignment,
    agent: network.agent,
    node,
    run,
    network: world.network.name,
    address,
    ipv6,
    resolvConf,
    ...mounted,
  }
  await launch.mayStart()
  signal.throwIfAborted()
  onTrace(trace) // a crash from here on leaves a container of this name
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
    if (isClosed && !world.network.isHere)
      throw new MeshError('RUNTIME_FAILED', {
        reason: 'egress none cannot be kept: the engine has its bridge elsewhere',
      })
    world.network.isolatePorts()
    return await followContainer(world, engine, launch, {
      trace,
      container,
      run,
      address,
      fd,
      hasHealthCheck: image.hasHealthCheck,
    })
  } catch (error) {
    await undo(world, engine, { container, run, address })
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
async function undo(
  { options: { guard }, runs }: ContainerWorld,
  engine: Engine,
  { container, run, address }: Pick<Followed, 'container' | 'run' | 'address'>,
) {
  try {
    await removeContainer(engine, container)
    guard.release(address)
  } catch {
    runs.leave(run, address)
  }
}
