import { readFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { RootClient, type Credential } from '../../../src/client/root-client.ts'
import { Lifetime } from '../../../src/core/kit/lifetime.ts'
import { freePort } from '../../../src/lab/system-tools.ts'
import { cpuSeconds } from '../proc.ts'
import type { AgentCalls } from './agent-program.ts'
import { builtProgram } from './built.ts'
import { Child } from './child.ts'
import type { ClusterCalls } from './cluster-program.ts'
import type { CrowdCalls } from './crowd-program.ts'
import type { RootCalls } from './root-program.ts'

export interface ClusterProcess {
  name: string
  port: number
  child: Child<ClusterCalls>
}

/** Of the processes of a mesh, in seconds: on a machine that does other things too it says more than the time that passed. */
export interface Cpu {
  root: number
  clusters: number
  /** Simulated ones: what they use, a machine of its own would. */
  nodes: number
}

/** Nodes in one process: their half of each connection costs as much as the cluster's half. */
const NODES_A_PROCESS = 250
/** To watch all of twenty would use a tenth of the machine. */
const WATCHED_CLUSTERS = 3
const MEMORY_MB = 65_536

/**
 * A control plane on this machine: the root, each cluster and each crowd of simulated nodes is a process, and all links between them
 * are real ones.
 */
export class Plane implements AsyncDisposable {
  readonly dir: string
  readonly clusters: ClusterProcess[] = []
  readonly crowds: Child<CrowdCalls>[] = []
  readonly agents: Child<AgentCalls>[] = []
  readonly #life: Lifetime
  readonly #rootPort: number
  readonly #program: string
  readonly #profile: string | undefined
  #root: Child<RootCalls>

  private constructor(
    life: Lifetime,
    parts: { dir: string; rootPort: number; root: Child<RootCalls>; program: string; profile?: string },
  ) {
    this.#life = life
    this.dir = parts.dir
    this.#rootPort = parts.rootPort
    this.#root = parts.root
    this.#program = parts.program
    this.#profile = parts.profile
  }

  /** `profile`: the folder for CPU profiles of all processes. */
  static start({ clusters, profile }: { clusters: number; profile?: string | undefined }): Promise<Plane> {
    return Lifetime.open(async (life) => {
      const dir = await mkdtemp(join(tmpdir(), 'hedgerow-control-'))
      life.defer(() => rm(dir, { recursive: true, force: true }))
      const rootPort = await freePort()
      const program = await builtProgram()
      const root = Child.start<RootCalls>('root', program, profile)
      const plane = new Plane(life, { dir, rootPort, root, program, ...(profile === undefined ? {} : { profile }) })
      life.defer(() => plane.#root[Symbol.asyncDispose]())
      await plane.#startRoot()
      for (let i = 1; i <= clusters; i++) await plane.#startCluster(`c${i}`)
      await until(async () => (await plane.root.call('linkedClusters')) === clusters, 'all clusters are linked')
      return plane
    })
  }

  get root(): Child<RootCalls> {
    return this.#root
  }

  get api(): RootClient {
    return new RootClient(JSON.parse(readFileSync(join(this.dir, 'root', 'admin.json'), 'utf8')) as Credential)
  }

  /** Nodes join the clusters evenly, in processes of their own. How long that took, in milliseconds. */
  async join(nodes: number): Promise<number> {
    const newcomers = await this.#newcomers(nodes)
    const crowds: (typeof newcomers)[] = []
    for (let at = 0; at < nodes; at += NODES_A_PROCESS) crowds.push(newcomers.slice(at, at + NODES_A_PROCESS))
    const children = crowds.map(() => this.#life.use(Child.start<CrowdCalls>('crowd', this.#program, this.#profile)))
    this.crowds.push(...children)
    await Promise.all(children.map((child) => child.call('isUp')))
    const startedAt = performance.now()
    await Promise.all(children.map((child, i) => child.call('join', crowds[i] ?? [], { memoryMb: MEMORY_MB })))
    return performance.now() - startedAt
  }

  /** An agent as it is, as a node of the first cluster. */
  async startAgent(name: string, offer: { memoryMb?: number } = {}): Promise<Child<AgentCalls>> {
    const [cluster] = this.clusters
    const child = this.#life.use(Child.start<AgentCalls>('agent', this.#program, this.#profile))
    this.agents.push(child)
    const [token = ''] = (await cluster?.child.call('tokens', 1)) ?? []
    const listen = `127.0.0.1:${await freePort()}`
    await child.call('start', { dir: join(this.dir, `agent-${name}`), name, token, listen, ...offer })
    return child
  }

  /** A program that accepts whatever checks it; its port. */
  async openOrigin(): Promise<number> {
    const server = createServer((socket) => socket.on('error', () => undefined).resume())
    await new Promise<void>((resolve) => server.listen({ host: '127.0.0.1', port: 0, backlog: 4_096 }, resolve))
    this.#life.defer(() => void server.close())
    return (server.address() as AddressInfo).port
  }

  /** The root is killed and started again at once. */
  async restartRoot(): Promise<void> {
    await this.#root.kill()
    this.#root = Child.start<RootCalls>('root', this.#program, this.#profile)
    await this.#startRoot()
  }

  /** The longest block of the event loops that are watched since the last call, in milliseconds. */
  async blocks(): Promise<{ root: number; cluster: number; agent: number }> {
    const clusters = await Promise.all(this.clusters.map(({ child }) => child.call('longestBlockMs')))
    const agents = await Promise.all(this.agents.map((child) => child.call('longestBlockMs')))
    return {
      root: await this.#root.call('longestBlockMs'),
      cluster: Math.max(...clusters),
      agent: Math.max(0, ...agents),
    }
  }

  /** What each part has used so far; of a root that was killed nothing counts. */
  cpuSeconds(): Cpu {
    const of = (children: readonly { pid: number }[]) => sum(children.map(({ pid }) => cpuSeconds(pid)))
    return { root: of([this.#root]), clusters: of(this.clusters.map(({ child }) => child)), nodes: of(this.crowds) }
  }

  async running(): Promise<number> {
    return sum(await Promise.all(this.crowds.map((crowd) => crowd.call('running'))))
  }

  async assigned(): Promise<number> {
    return sum(await Promise.all(this.crowds.map((crowd) => crowd.call('assigned'))))
  }

  /** Instances that run for all that the root knows. */
  async knownToRun(): Promise<number> {
    return (await this.states())['running'] ?? 0
  }

  /** How many instances the root knows, by state. */
  async states(): Promise<Readonly<Record<string, number>>> {
    return (await this.api.call<{ instances: Record<string, number> }>('GET', '/status')).instances
  }

  async #newcomers(nodes: number) {
    const each = this.clusters.map(({ child }, i) =>
      child.call('tokens', Math.floor(nodes / this.clusters.length) + (i < nodes % this.clusters.length ? 1 : 0)),
    )
    const tokens = (await Promise.all(each)).flat()
    return tokens.map((token, i) => ({ name: `n${i + 1}`, token }))
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }

  #startRoot(): Promise<void> {
    return this.#root.call('start', { dir: join(this.dir, 'root'), port: this.#rootPort })
  }

  async #startCluster(name: string): Promise<void> {
    const child = this.#life.use(Child.start<ClusterCalls>('cluster', this.#program, this.#profile))
    const token = await this.#root.call('clusterToken', name)
    const isWatched = this.clusters.length < WATCHED_CLUSTERS
    const { port } = await child.call('start', { dir: join(this.dir, name), name, token, isWatched })
    this.clusters.push({ name, port, child })
  }
}

/** Waits for a fact; fails with its name. */
export async function until(fact: () => Promise<boolean>, what: string, limitMs = 300_000, lookMs = 25): Promise<void> {
  const end = performance.now() + limitMs
  while (!(await fact())) {
    if (performance.now() > end) throw new Error(`after ${Math.round(limitMs / 1_000)} s still not true: ${what}`)
    await sleep(lookMs)
  }
}

function sum(counts: readonly number[]): number {
  return counts.reduce((all, count) => all + count, 0)
}
