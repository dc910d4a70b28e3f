import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { cpSync, mkdtempSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { RootClient, type Credential } from '../../src/client/root-client.ts'
import { MeshError } from '../../src/core/errors.ts'
import type { HeldIdentity } from '../../src/core/identity/held.ts'
import { Lifetime } from '../../src/core/kit/lifetime.ts'
import { systemClock } from '../../src/core/kit/clock.ts'
import { openLog, silentLog } from '../../src/core/kit/log.ts'
import { openMetrics, type Metrics } from '../../src/core/metrics.ts'
import type { Coordinate } from '../../src/core/model/coordinate.ts'
import type { InstanceId } from '../../src/core/model/ids.ts'
import { Cluster, type ClusterOptions } from '../../src/orchestrator/cluster/cluster.ts'
import { Root } from '../../src/orchestrator/root/root.ts'
import type { RootOptions } from '../../src/orchestrator/root/root-options.ts'
import { freePort } from '../../src/lab/system-tools.ts'
import type { Assignment, InstanceReport, Replacement } from '../../src/orchestrator/spec.ts'
import { enrolNode } from '../../src/orchestrator/worker/join.ts'
import { NodeVolumes } from '../../src/orchestrator/worker/node-volumes.ts'
import type { Runtime, RuntimeVolumes } from '../../src/orchestrator/worker/runtime.ts'
import { Uplink } from '../../src/orchestrator/worker/uplink.ts'
import { until } from '../support/until.ts'

const log = process.env['TEST_LOG'] === undefined ? silentLog : openLog('debug')
const loopback = { host: '127.0.0.1', port: 0 }

/** A control plane on loopback, real TLS, real stores, and workers that only pretend to run things. */
export async function mesh(
  options: { clusters?: string[]; root?: Partial<RootOptions>; cluster?: Partial<ClusterOptions> } = {},
) {
  const life = new Lifetime()
  const dir = mkdtempSync(join(tmpdir(), 'hedgerow-control-'))
  life.defer(() => rmSync(dir, { recursive: true, force: true }))
  const world = new World(dir, life, options)
  await world.startRoot()
  for (const name of options.clusters ?? ['edge']) await world.startCluster(name)
  return world
}

/** Of programs, each of 4096 bytes. */
function volumesIn(names: Set<string>): RuntimeVolumes {
  return {
    list: async () => [...names],
    sizes: async (asked) => new Map(asked.map((name) => [name, 4_096])),
    remove: async (name, isFree) => {
      isFree()
      if (!names.delete(name)) throw new MeshError('VOLUME_UNKNOWN', { volume: name })
    },
  }
}

export class World implements AsyncDisposable {
  readonly dir: string
  readonly #life: Lifetime
  readonly #options: { root?: Partial<RootOptions>; cluster?: Partial<ClusterOptions> }
  readonly #clusters = new Map<string, Cluster>()
  readonly #ports = new Map<string, number>()
  readonly #nodes = new Set<FakeNode>()
  readonly #metrics = new Map<string, Metrics>()
  #root: Root | undefined

  constructor(
    dir: string,
    life: Lifetime,
    options: { root?: Partial<RootOptions>; cluster?: Partial<ClusterOptions> },
  ) {
    this.dir = dir
    this.#life = life
    this.#options = options
  }

  get root(): Root {
    if (this.#root === undefined) throw new Error('the root is down')
    return this.#root
  }

  cluster(name = 'edge'): Cluster {
    const cluster = this.#clusters.get(name)
    if (cluster === undefined) throw new Error(`cluster ${name} is down`)
    return cluster
  }

  async startRoot(): Promise<Root> {
    const listen = { ...loopback, port: this.#ports.get('root') ?? (await freePort()) }
    this.#root = await Root.start(
      { dir: join(this.dir, 'root'), listen, clusterReturnMs: 0, ...this.#options.root },
      log,
      openMetrics('root'),
    )
    this.#ports.set('root', Number(new URL(this.#root.url).port))
    return this.#root
  }

  async stopRoot(): Promise<void> {
    await this.#root?.[Symbol.asyncDispose]()
    this.#root = undefined
  }

  async startCluster(name = 'edge'): Promise<Cluster> {
    const metrics = openMetrics('cluster')
    this.#metrics.set(name, metrics)
    const cluster = await Cluster.start(
      {
        dir: join(this.dir, name),
        listen: { ...loopback, port: this.#ports.get(name) ?? (await freePort()) },
        onRelay: (_request, socket) => socket.destroy(),
        nodeGraceMs: 200,
        nodeReturnMs: 0,
        ...(this.#ports.has(name) ? {} : { token: this.root.clusterToken(name) }),
        ...this.#options.cluster,
      },
      log,
      metrics,
    )
    this.#ports.set(name, Number(new URL(cluster.url).port))
    this.#clusters.set(name, cluster)
    if (this.#root !== undefined) await until(() => cluster.isLinked, `${name} is linked`)
    return cluster
  }

  /** Messages that a cluster has sent, to nodes and to the root. */
  async messagesSent(name = 'edge'): Promise<number> {
    const { values } = (await this.#metrics.get(name)?.linkMessages.get()) ?? { values: [] }
    return values.find(({ labels }) => labels.direction === 'sent')?.value ?? 0
  }

  async stopCluster(name = 'edge'): Promise<void> {
    await this.#clusters.get(name)?.[Symbol.asyncDispose]()
    this.#clusters.delete(name)
  }

  /** As by kill -9: the next one finds what is on disk now. */
  async killCluster(name = 'edge'): Promise<void> {
    await this.#killed(name, () => this.stopCluster(name))
  }

  async killRoot(): Promise<void> {
    await this.#killed('root', () => this.stopRoot())
  }

  async #killed(name: string, stop: () => Promise<void>): Promise<void> {
    const dir = join(this.dir, name)
    cpSync(dir, `${dir}-left`, { recursive: true })
    await stop()
    rmSync(dir, { recursive: true })
    renameSync(`${dir}-left`, dir)
  }

  async node(
    name: string,
    options: FakeOptions & {
      cluster?: string
      dir?: string
      token?: string
      via?: string
      linkedWithinMs?: number
      /** False: its link need not be up. */
      isAwaited?: boolean
    } = {},
  ): Promise<FakeNode> {
    const cluster = options.cluster ?? 'edge'
    const dir = join(this.dir, options.dir ?? `node-${cluster}-${name}`)
    const isKnown = options.dir === undefined && [...this.#nodes].some((node) => node.id === `${cluster}/${name}`)
    const token = isKnown ? {} : { token: options.token ?? this.cluster(cluster).nodeToken() }
    const { identity, url } = await enrolNode({ dir, name, ...token }, AbortSignal.timeout(30_000))
    const node = new FakeNode(`${cluster}/${name}`, { identity, url: options.via ?? url }, options)
    this.#nodes.add(node)
    if (options.isAwaited !== false)
      await until(
        () => node.uplink.isUp,
        `${name} is linked`,
        undefined,
        options.linkedWithinMs === undefined ? {} : { limitMs: options.linkedWithinMs },
      )
    return node
  }

  /** Waits until the root counts every node started here: it chooses by what the clusters have told it. */
  async known(): Promise<void> {
    const wanted = new Map<string, number>()
    for (const id of new Set([...this.#nodes].map((node) => node.id))) {
      const cluster = id.slice(0, id.indexOf('/'))
      wanted.set(cluster, (wanted.get(cluster) ?? 0) + 1)
    }
    const counted = () => this.api.call<{ name: string; nodes?: number }[]>('GET', '/clusters')
    await until(
      async () => {
        const nodes = new Map((await counted()).map((row) => [row.name, row.nodes]))
        return [...wanted].every(([cluster, count]) => nodes.get(cluster) === count)
      },
      'the root knows every node',
      async () => JSON.stringify(await counted()),
    )
  }

  get credential(): Credential {
    return JSON.parse(readFileSync(join(this.dir, 'root', 'admin.json'), 'utf8')) as Credential
  }

  get api(): RootClient {
    return new RootClient(this.credential)
  }

  instances(): Promise<InstanceRow[]> {
    return this.api.call<InstanceRow[]>('GET', '/instances')
  }

  /** Waits until so many instances run. */
  async running(count: number): Promise<InstanceRow[]> {
    let rows: InstanceRow[] = []
    await until(
      async () => {
        rows = (await this.instances()).filter(({ state }) => state === 'running')
        return rows.length === count
      },
      `${count} running`,
      async () => JSON.stringify(await this.instances()),
    )
    return rows
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.#nodes].map((node) => node.stop()))
    for (const name of this.#clusters.keys()) await this.stopCluster(name)
    await this.stopRoot()
    await this.#life.close()
  }
}

export interface InstanceRow {
  id: InstanceId
  state: string
  node?: string
  cluster?: string
  detail?: string
  generation: number
}

export interface FakeOptions {
  /** What an earlier process of this node left running. */
  runs?: Iterable<Assignment>
  memoryMb?: number
  vcpus?: number
  /** Why the worker takes nothing. */
  refuses?: string
  /** Why it takes no second run beside one. */
  refusesBeside?: string
  addresses?: string[]
  /** Another process than the others of this test. */
  process?: string
  coordinate?: Coordinate
  labels?: Record<string, string>
  area?: string
}

type Joined = Awaited<ReturnType<typeof enrolNode>>

/** A node whose worker says "running" and does nothing else. */
export class FakeNode {
  readonly id: string
  readonly uplink: Uplink
  readonly identity: HeldIdentity
  readonly has = new Map<InstanceId, Assignment>()
  readonly volumes = new Set(['shop.acme.data', 'site.beta.data'])
  /** Every assignment, in order. */
  readonly assigned: Assignment[] = []
  /** Every instance that it was asked to end, and within how many seconds; `undefined`: within those of its document. */
  readonly withdrawn: [InstanceId, number | undefined][] = []
  /** Principals of the certificates that this node knows to be revoked. */
  readonly revoked = new Set<string>()
  refuses: string | undefined
  refusesBeside: string | undefined
  /** What is assigned starts, and runs only when the test says so. */
  isHolding = false
  /** What is withdrawn drains until this is false. */
  isDeaf = false
  /** How each assignment was to take the place of another. */
  readonly replacements: (Replacement | undefined)[] = []
  /** Said with the next facts. */
  coordinate: Coordinate | undefined
  readonly wishes = new Set<string>()

  constructor(id: string, { identity, url }: Joined, options: FakeOptions) {
    this.id = id
    this.identity = identity
    this.refuses = options.refuses
    this.refusesBeside = options.refusesBeside
    this.coordinate = options.coordinate
    for (const assignment of options.runs ?? []) this.has.set(assignment.instance, assignment)
    const { memoryMb = 4_096, vcpus = 4, addresses = ['127.0.0.1:1'], labels = {}, area } = options
    identity.revocations.onChanged((added) => {
      for (const { principal } of added) this.revoked.add(principal.replace(/^.*\/cluster\/([^/]+)\/node\//, '$1/'))
    })
    this.uplink = Uplink.start(
      {
        urls: [url],
        identity,
        limitMs: 300,
        ...(options.process === undefined ? {} : { process: options.process }),
        facts: () => ({
          id,
          capacity: { memoryMb, vcpus, vgpus: 0, vtpus: 0, storageMb: 10_000 },
          runtimes: ['process', 'docker'],
          arch: 'x64',
          addresses,
          labels,
          ...(area === undefined ? {} : { area }),
          version: '0.0.0',
          ...(this.coordinate === undefined ? {} : { coordinate: this.coordinate }),
        }),
        links: () => [{ node: id, peer: `${id}-peer`, path: 'relayed', rttMs: 12, bytesIn: 10, bytesOut: 20 }],
        onWish: (keys) => {
          for (const key of keys) this.wishes.add(key)
        },
        worker: {
          assign: (assignment, how) => {
            const isBeside = how === 'beside' && this.has.has(assignment.instance)
            const refusal = this.refuses ?? (isBeside ? this.refusesBeside : undefined)
            if (refusal !== undefined) throw new MeshError('UNPLACEABLE', { reason: refusal })
            this.replacements.push(how)
            this.assigned.push(assignment)
            this.has.set(assignment.instance, assignment)
            setImmediate(() => this.uplink.report(reportOf(assignment, this.isHolding ? 'starting' : 'running')))
          },
          withdraw: (instance, { drainSeconds } = {}) => {
            this.withdrawn.push([instance, drainSeconds])
            const assignment = this.has.get(instance)
            if (assignment === undefined) return false
            if (this.isDeaf) {
              setImmediate(() => this.uplink.report(reportOf(assignment, 'stopping')))
              return true
            }
            this.has.delete(instance)
            setImmediate(() => this.uplink.report(reportOf(assignment, 'stopped')))
            return true
          },
          cancel: () => undefined,
          keepOnly: (wanted) => {
            const keep = new Set(wanted)
            for (const instance of this.has.keys()) if (!keep.has(instance)) this.has.delete(instance)
          },
          reports: () => [...this.has.values()].map((assignment) => reportOf(assignment, 'running')),
          exec: async (_instance, [program = '', ...argv]) => {
            const child = spawn(program, argv)
            const ended = once(child, 'exit').then(([code]) => Number(code))
            return {
              stdin: child.stdin,
              stdout: child.stdout,
              stderr: child.stderr,
              ended,
              kill: () => child.kill('SIGKILL'),
            }
          },
          volumes: new NodeVolumes({
            runtimes: [{ name: 'process', volumes: volumesIn(this.volumes) } as Runtime],
            users: () => [...this.has.values()],
            clock: systemClock,
            signal: new AbortController().signal,
          }),
          usage: async () =>
            [...this.has.keys(), 'shop.acme.foreign.prod.0'].map((instance) => ({
              instance,
              cpu: 0.5,
              memoryMb: 12,
              throttled: 0,
              oomKills: 0,
            })),
          logs: async function* (instance, { tail }) {
            for (let line = 1; line <= tail; line++) yield `${instance} line ${line}`
          },
        },
      },
      log,
      openMetrics('agent'),
    )
  }

  say(instance: InstanceId, state: InstanceReport['state'], detail?: string): void {
    const assignment = this.has.get(instance)
    if (assignment === undefined) throw new Error(`${instance} is not on ${this.id}`)
    this.uplink.report({ ...reportOf(assignment, state), ...(detail === undefined ? {} : { detail }) })
  }

  async stop(): Promise<void> {
    await this.uplink[Symbol.asyncDispose]()
  }
}

function reportOf({ instance, generation, revision }: Assignment, state: InstanceReport['state']): InstanceReport {
  return { instance, generation, state, restarts: 0, ...(revision === undefined ? {} : { revision }) }
}

/** A document with one app, `shop.acme`, and these services. */
export function sla(...services: Array<Record<string, unknown>>) {
  return {
    sla_version: 'v2.0',
    customerID: 'Admin',
    applications: [
      {
        applicationID: '',
        application_name: 'shop',
        application_namespace: 'acme',
        application_desc: 'a shop',
        microservices: services.map((service) => ({
          microserviceID: '',
          microservice_namespace: 'prod',
          virtualization: 'process',
          code: '/bin',
          cmd: ['sleep', '1'],
          memory: 100,
          vcpus: 0,
          port: '8080',
          ...service,
        })),
      },
    ],
  }
}
