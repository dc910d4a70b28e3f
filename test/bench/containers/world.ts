import { writeFileSync } from 'node:fs'
import { text, type Program } from '../../../src/lab/program.ts'
import { eventually, Machines } from '../../cli/program.ts'
import { Engine } from '../../docker-engine.ts'
import { sla } from '../../walks/mesh.ts'

/** A network of the engine alone, without the agent. */
export const PLAIN = { name: 'bench', gateway: '172.29.0.1', at: (host: number) => `172.29.0.${host}` }
/** Of services. */
export const PORT = 8080
/** busybox and nothing else. */
export const BUSY = 'busy:1'
const LIMIT_MS = 600_000

/** An engine, and a root, a cluster and one agent, each a process of its own. */
export class World implements AsyncDisposable {
  readonly #engine: Engine
  readonly #machines: Machines
  agent!: Program
  #again!: () => Promise<Program>

  private constructor(engine: Engine, machines: Machines) {
    this.#engine = engine
    this.#machines = machines
  }

  static async start(): Promise<World> {
    await text(['ip', 'link', 'set', 'lo', 'up'])
    const engine = await Engine.start()
    await engine.busybox(BUSY, 'ENTRYPOINT ["/busybox"]')
    const world = new World(engine, await Machines.make())
    await world.#begin()
    await text(['docker', 'network', 'create', '--subnet', `${PLAIN.at(0)}/24`, PLAIN.name])
    return world
  }

  async #begin(): Promise<void> {
    const token = async (file: string, ...role: string[]) => {
      const made = await this.json<{ token: string }>('token', 'create', ...role)
      writeFileSync(this.#machines.path(file), made.token)
      return ['--token-file', this.#machines.path(file)]
    }
    const ops = ['--ops-listen', '127.0.0.1:0']
    await this.#machines.start('root', 'root', '--listen', '127.0.0.1:7470', ...ops)
    const asCluster = await token('cluster.token', '--role', 'cluster')
    await this.#machines.start('cluster', 'cluster', '--listen', '127.0.0.1:7471', ...ops, ...asCluster)
    const asNode = await token('n1.token')
    const config = this.#machines.path('config.yaml')
    writeFileSync(config, `agent: { keepInstances: true, containers: { engine: ${this.#engine.path} } }\n`)
    const capacity = ['--memory-mb', '32000', '--vcpus', '64', '--upstream', '127.0.0.1:9']
    const how = ['--name', 'n1', '--mode', 'host', '--listen', '127.0.0.1:0', '--config', config]
    this.#again = async () => (await this.#machines.start('n1', 'agent', ...how, ...capacity, ...asNode)).program
    this.agent = await this.#again()
  }

  json<T>(...argv: string[]): Promise<T> {
    return this.#machines.json<T>('root', ...argv)
  }

  /** Its instances run when this resolves; `rest` is awaited before each look whether they do. */
  async apply(app: string, services: readonly Service[], rest = async () => undefined as void): Promise<void> {
    const all = services.map(({ name, ...more }) => ({
      microservice_name: name,
      microservice_namespace: 'prod',
      runtime: 'docker',
      code: BUSY,
      memory: 64,
      ...more,
    }))
    const count = services.reduce((sum, { replicas = 1 }) => sum + replicas, 0)
    writeFileSync(this.#machines.path(`${app}.json`), JSON.stringify(sla(all, app)))
    await this.json('apply', '-f', this.#machines.path(`${app}.json`))
    const run = async () => {
      await rest()
      const found = await this.json<{ state: string }[]>('get', 'instances', `${app}.`)
      return found.filter(({ state }) => state === 'running').length === count
    }
    await eventually(run, `${count} instances of ${app} run`, LIMIT_MS)
  }

  async remove(app: string): Promise<void> {
    await this.json('delete', 'app', `${app}.acme`)
    await eventually(async () => (await this.containers(`${app}.`)).length === 0, `${app} is gone`, LIMIT_MS)
  }

  /** Ids of containers of instances whose names begin so. */
  async containers(prefix: string): Promise<string[]> {
    const argv = ['docker', 'ps', '--filter', 'label=hedgerow.agent', '--format', '{{.ID}} {{.Names}}']
    const lines = (await text(argv)).split('\n').map((line) => line.split(' '))
    return lines.flatMap(([id = '', name = '']) => (name.startsWith(`hedgerow-${prefix}`) ? [id] : []))
  }

  async killAgent(): Promise<void> {
    this.agent.signal('SIGKILL')
    await this.agent.exited
  }

  async startAgentAgain(): Promise<void> {
    this.agent = await this.#again()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#machines[Symbol.asyncDispose]()
    await this.#engine[Symbol.asyncDispose]()
  }
}

interface Service {
  name: string
  code?: string
  cmd?: readonly string[]
  port?: string
  memory?: number
  replicas?: number
}
