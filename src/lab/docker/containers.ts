import { join } from 'node:path'
import { configOf, isStale } from '../namespace.ts'
import { text } from '../program.ts'
import { docker, forgetContainers, LAB_LABEL, machineMark, pidOf, recordContainers, removeStale } from './engine.ts'
import { imageOfThisMachine } from './image.ts'
import { ContainerBackend } from './container-backend.ts'

/** What the container of a host is; the words of `docker run`. */
export interface ContainerSpec {
  /** One made of this machine's own files by default. */
  image?: string
  entrypoint?: readonly string[]
  /** In place of the image's own; behind its entrypoint. */
  command?: readonly string[]
  env?: Readonly<Record<string, string>>
  /** `source:target[:ro]` each. */
  volumes?: readonly string[]
  user?: string
  /** What it may beside the usual: `NET_ADMIN`, … */
  capabilities?: readonly string[]
}

/**
 * Containers as hosts. Each host is two: one that does nothing but have the network, without one of Docker's own, and the host's,
 * which shares it and starts once the cables are in: its programs never see half a network, and may end and start again.
 *
 *     <name>-net  --network none                ◀─ veth, put in by the lab
 *     <name>      --network container:<name>-net
 */
export class Containers {
  readonly #image: string
  readonly #names = new Set<string>()

  private constructor(image: string) {
    this.#image = image
  }

  /** Removes what a crash left; makes the image of this machine if the engine has none. */
  static async start(): Promise<Containers> {
    await removeStale((name) => isStale(name))
    return new Containers(await imageOfThisMachine())
  }

  /** A container's network namespace, under the name that `ip netns` knows. */
  async open(name: string, host: string): Promise<void> {
    recordContainers(configOf(name), [name, netOf(name)])
    this.#names.add(name)
    await this.#run(netOf(name), ['--network', 'none', '--hostname', host], [this.#image])
    await text(['ip', 'netns', 'attach', name, String(await pidOf(netOf(name)))])
    // Docker switches IPv6 off where its own networks have none
    const on = 'for f in all default lo; do echo 0 > /proc/sys/net/ipv6/conf/$f/disable_ipv6; done'
    await text(['ip', 'netns', 'exec', name, 'sh', '-c', on])
  }

  /** Where programs of a host will run, once it does. */
  place(name: string): ContainerBackend {
    return new ContainerBackend(name)
  }

  /** Starts the host's own container, in the network that is open under its name. */
  async run(name: string, spec: ContainerSpec = {}): Promise<void> {
    const { image = this.#image, entrypoint = [], command = [], env = {}, volumes = [], user, capabilities = [] } = spec
    const files = ['hosts', 'resolv.conf'].map((file) => `${join(configOf(name), file)}:/etc/${file}`)
    const [program, ...before] = entrypoint
    await this.#run(
      name,
      [
        '--network',
        `container:${netOf(name)}`,
        ...[...files, ...volumes].flatMap((volume) => ['--volume', volume]),
        ...Object.entries(env).flatMap(([key, value]) => ['--env', `${key}=${value}`]),
        ...capabilities.flatMap((capability) => ['--cap-add', capability]),
        ...(user === undefined ? [] : ['--user', user]),
        ...(program === undefined ? [] : ['--entrypoint', program]),
      ],
      [image, ...before, ...command],
    )
  }

  /** @throws Error when a host's container has ended by itself, with the last that it said */
  async check(): Promise<void> {
    const names = [...this.#names]
    if (names.length === 0) return
    const states = await docker([
      'inspect',
      '--format',
      '{{.State.Running}} {{.State.ExitCode}} {{.Config.Image}}',
      ...names,
    ])
    for (const [index, state] of states.split('\n').entries()) {
      const [running, code, image] = state.split(' ')
      if (running === 'true') continue
      const lines = await docker(['logs', '--tail', '10', names[index] ?? '']).catch(() => '')
      const why = `its container (${image}) ended at once with code ${code}; a command that stays is needed`
      throw new Error(`host ${labelOf(names[index] ?? '')}: ${why}${lines === '' ? '' : `:\n${lines}`}`)
    }
  }

  /** All at once; `destroy` would do it one by one. */
  async remove(): Promise<void> {
    const names = [...this.#names].flatMap((name) => [name, netOf(name)])
    if (names.length > 0) await docker(['rm', '--force', '--volumes', ...names])
    for (const name of this.#names) forgetContainers(configOf(name))
  }

  async #run(name: string, options: readonly string[], image: readonly string[]): Promise<void> {
    const marks = ['--name', name, '--label', `${LAB_LABEL}=${machineMark()}`]
    await docker(['run', '--detach', ...marks, ...options, ...image], PULL_MS).catch((cause: unknown) => {
      throw new Error(`host ${labelOf(name)}: ${cause instanceof Error ? cause.message : String(cause)}`, { cause })
    })
  }
}

/** An image may have to be fetched first. */
const PULL_MS = 10 * 60_000

function netOf(name: string): string {
  return `${name}-net`
}

/** `hedgerow-<pid>-<start>-<n>-<host>` is the host's, for people. */
function labelOf(name: string): string {
  return name.split('-').slice(4).join('-')
}
