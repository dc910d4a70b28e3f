import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { askAgent } from '../../src/agent/local-api.ts'
import type { PeerReport, ResolveReport, StatusReport } from '../../src/client/reports.ts'
import type { Program } from '../../src/lab/program.ts'
import { type Testbed, type Side, until } from './testbed.ts'
import type { Address } from './loads/iperf3.ts'

/**
 * Ours, as a user starts it: `hedgerow root`, `hedgerow cluster` and two agents, a process each, with all that is on by default:
 * mutual TLS, policies, metrics, and a line in the log for each flow (into a file).
 *
 *     a: root, cluster, agent a            b: agent b
 */
const CLUSTER = 'edge'

export interface ServiceSpec {
  readonly name: string
  readonly side: Side
  /** Where it listens, on 127.0.0.1 of its side. */
  readonly target: number
  readonly replicas?: number
  readonly isUdpToo?: boolean
}

/** What starts `hedgerow`, and what its environment has besides. */
export interface Command {
  readonly argv: readonly string[]
  readonly env: NodeJS.ProcessEnv
}

export class BenchMesh {
  readonly #testbed: Testbed
  readonly #hedgerow: Command
  readonly #label: string
  readonly #programs: Program[] = []
  readonly #agents = new Map<Side, Program>()
  #apps = 0
  #running = 0

  private constructor(testbed: Testbed, hedgerow: Command, label: string) {
    this.#testbed = testbed
    this.#hedgerow = hedgerow
    this.#label = label
  }

  /** `label` tells the folders of several meshes on one testbed apart. */
  static async start(testbed: Testbed, hedgerow: Command, label = ''): Promise<BenchMesh> {
    const mesh = new BenchMesh(testbed, hedgerow, label)
    const [host, rootPort, clusterPort] = [testbed.address('a'), await testbed.port(), await testbed.port()]
    const ops = async () => ['--ops-listen', `127.0.0.1:${await testbed.port()}`]
    await mesh.#start('a', 'root', ['root', '--listen', `${host}:${rootPort}`, ...(await ops())])
    const listen = ['--listen', `${host}:${clusterPort}`, ...(await ops())]
    await mesh.#start('a', 'cluster', ['cluster', '--name', CLUSTER, ...listen], await mesh.#token('cluster'))
    for (const side of ['a', 'b'] as const) {
      await mesh.#startAgent(side, await mesh.#token('node'))
    }
    return mesh
  }

  /** Submits services as one app; resolves when all their instances run. Their names, in the same order. */
  async serve(services: readonly ServiceSpec[], limitMs = 60_000): Promise<string[]> {
    const app = `app${this.#apps++}`
    const file = this.#testbed.path(`${this.#label}${app}.json`)
    const microservices = await Promise.all(services.map((service) => this.#slaOf(service)))
    const application = { applicationID: '', application_name: app, application_namespace: 'bench', microservices }
    writeFileSync(file, JSON.stringify({ sla_version: 'v2.0', customerID: 'Admin', applications: [application] }))
    await this.#cli(['apply', '-f', file], limitMs)
    this.#running += services.reduce((sum, { replicas = 1 }) => sum + replicas, 0)
    await until(async () => (await this.#instancesThere()) >= this.#running, `${app} runs`, limitMs)
    return services.map(({ name }) => `${app}.bench.${name}.bench.any.rr.local`)
  }

  /** Where a program on side a finds a service. */
  async place(name: string): Promise<Address> {
    const { ipv4, ports } = (await askAgent(this.#socket('a'), '/resolve', { name })) as ResolveReport
    const [port] = ports
    if (port === undefined) throw new Error(`${name} has no port`)
    return { host: ipv4, port: port.port }
  }

  /** The name server of side a. */
  async resolver(): Promise<Address> {
    const [host = '', port] = (await this.status('a')).resolver.split(':')
    return { host, port: Number(port ?? 53) }
  }

  status(side: Side): Promise<StatusReport> {
    return askAgent(this.#socket(side), '/status') as Promise<StatusReport>
  }

  /** What agent a says of its session with agent b. */
  async peer(): Promise<PeerReport | undefined> {
    return ((await askAgent(this.#socket('a'), '/peers')) as PeerReport[])[0]
  }

  pid(side: Side): number {
    return (this.#agents.get(side) as Program).pid
  }

  /** Stops an agent, lets its saved table be changed, and starts it again. */
  async restart<T>(side: Side, change: (savedTable: string) => T): Promise<T> {
    await (this.#agents.get(side) as Program).stop(10_000)
    const changed = change(join(this.#state(side), 'agent', 'table.json'))
    await this.#startAgent(side)
    return changed
  }

  /** Ends its processes before the testbed does. */
  async stop(): Promise<void> {
    for (const program of this.#programs.toReversed()) await program.stop()
  }

  #state(name: string): string {
    return this.#testbed.path(`${this.#label}state-${name}`)
  }

  #socket(side: Side): string {
    return join(this.#state(side), 'agent', 'agent.sock')
  }

  /** Both agents together: those that are placed on a node are told by its status. */
  async #instancesThere(): Promise<number> {
    const here = await Promise.all([this.status('a'), this.status('b')])
    if (here.reduce((sum, { instancesHere }) => sum + instancesHere, 0) < this.#running) return 0
    const instances = JSON.parse(await this.#cli(['get', 'instances', '-o', 'json'])) as Array<{ state: string }>
    return instances.filter(({ state }) => state === 'running').length
  }

  async #slaOf({ name, side, target, replicas = 1, isUdpToo = false }: ServiceSpec): Promise<object> {
    const port = await this.#testbed.port()
    return {
      microservice_name: name,
      microservice_namespace: 'bench',
      virtualization: 'external',
      code: `127.0.0.1:${target}`,
      port: isUdpToo ? `${port}:${target}/tcp;${port}:${target}/udp` : `${port}:${target}`,
      replicas,
      // Checked at once and then rarely: a check is a connection, which a load tool's receiver would take for a caller.
      check: { type: 'tcp', interval_ms: 600_000 },
      constraints: [{ type: 'direct', cluster: CLUSTER, node: side }],
    }
  }

  async #token(role: 'cluster' | 'node'): Promise<string> {
    const argv = ['token', 'create', '--role', role, '--cluster', CLUSTER, '-o', 'json']
    return (JSON.parse(await this.#cli(argv)) as { token: string }).token
  }

  #cli(argv: readonly string[], timeoutMs = 60_000): Promise<string> {
    return this.#testbed.text('a', [...this.#hedgerow.argv, '--state', this.#state('root'), ...argv], timeoutMs)
  }

  async #startAgent(side: Side, token?: string): Promise<void> {
    const tunnel = ['--listen', `${this.#testbed.address(side)}:${await this.#testbed.port()}`]
    const program = await this.#start(side, side, ['agent', '--name', side, ...tunnel], token)
    this.#agents.set(side, program)
    await until(async () => (await this.status(side)).controlLink === 'up', `agent ${side} is linked`)
  }

  /** Starts a role and waits for the summary it prints once it runs. The token goes by environment, which others cannot read. */
  async #start(side: Side, name: string, argv: readonly string[], token?: string): Promise<Program> {
    const file = `${this.#label}${name}-${this.#programs.length}.log`
    const state = ['--state', this.#state(name)]
    const env = { ...this.#hedgerow.env, ...(token === undefined ? {} : { HEDGEROW_TOKEN: token }) }
    const program = this.#testbed.start(side, [...this.#hedgerow.argv, ...state, ...argv, '-o', 'json'], { file, env })
    this.#programs.push(program)
    await until(() => {
      const said = existsSync(this.#testbed.path(file)) ? readFileSync(this.#testbed.path(file), 'utf8') : ''
      if (program.exit !== undefined) throw new Error(`hedgerow ${argv[0]}: ${program.exit}: ${said.slice(-500)}`)
      return /^}$/m.test(said)
    }, `hedgerow ${argv[0]} runs`)
    return program
  }
}
