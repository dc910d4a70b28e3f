import { execFileSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import PQueue from 'p-queue'
import { MARK } from '../../../examples/demo/marked.ts'
import { Lifetime } from '../../../src/core/kit/lifetime.ts'
import { askAgent } from '../../../src/agent/local-api.ts'
import type { PeerReport, StatusReport } from '../../../src/client/reports.ts'
import type { Host } from '../../../src/lab/host.ts'
import { type Lab, lab, type LabSpec } from '../../../src/lab/lab.ts'
import { Program, text } from '../../../src/lab/program.ts'
import { scratch, sweepBench } from '../testbed.ts'
import { type At, ORIGIN_PORT, Station } from './station.ts'

/**
 * A mesh of real processes in a lab, as people start it, and a station beside each agent:
 *
 *     root, edge (the cluster, and its relay on 443, IPv4 and IPv6)        public hosts
 *     agents, each behind its own network, with one service                in sites, or public hosts
 *
 * The cluster is known by name, so that a network with one address family finds it at the address it can use.
 */
export const CLUSTER = 'edge'
const APP = 'nat'
/** In every service's name and on every node the same. */
export const SERVICE_PORT = 80
const READY_MS = 60_000
/** Nodes that are being started; a start is mostly processor time, with waiting between. */
const AT_ONCE = 3

export interface WorldOptions {
  /** What starts `hedgerow`. */
  hedgerow: readonly string[]
  /** Hosts of the lab that are nodes; `root` and `edge` are added to its public hosts. */
  nodes: readonly string[]
  lab: LabSpec
  /** Public hosts of the lab on which a stand-alone relay runs. */
  relays?: readonly string[]
  /** Services beside one for each node: their names, and whose station they are. */
  services?: Readonly<Record<string, string>>
  /** Flags of single agents. */
  flags?: Readonly<Record<string, readonly string[]>>
  say: (line: string) => void
  signal: AbortSignal
}

export class World implements AsyncDisposable {
  readonly lab: Lab
  readonly dir: string
  readonly #life: Lifetime
  readonly #options: WorldOptions
  readonly #programs = new Map<string, Program>()
  readonly #stations = new Map<string, Station>()
  #certificate = ''

  private constructor(life: Lifetime, net: Lab, dir: string, options: WorldOptions) {
    this.#life = life
    this.lab = net
    this.dir = dir
    this.#options = options
  }

  static start(options: WorldOptions): Promise<World> {
    const { lab: spec, nodes, services = {}, say } = options
    return Lifetime.open(async (life) => {
      await sweepBench()
      const dir = scratch(life)
      const net = life.use(await lab({ ...spec, publics: ['root', CLUSTER, ...(spec.publics ?? [])] }))
      const world = new World(life, net, dir, options)
      world.#certificate = world.#makeCertificate()
      say('root and cluster')
      await world.startRole('root', ['root', '--listen', `${net.host('root').address}:7470`])
      await world.startCluster(await world.token('cluster'))
      for (const relay of options.relays ?? []) {
        say(`relay ${relay}`)
        const addresses = ['--listen', '[::]:443', '--public-url', `https://${relay}:443`]
        await world.startRole(relay, ['relay', '--name', relay, ...addresses], await world.token('relay'))
      }
      const starting = new PQueue({ concurrency: AT_ONCE })
      await starting.addAll(nodes.map((node) => () => world.#startNode(node)))
      const own = Object.fromEntries(nodes.map((node) => [serviceOf(node), node]))
      await world.apply(APP, { ...own, ...services })
      return world
    })
  }

  async #startNode(node: string): Promise<void> {
    this.#options.say(`node ${node}`)
    await this.startAgent(node, await this.token('node'))
    this.#stations.set(node, this.#life.use(await Station.start(this.lab.host(node), this.#env, this.#certificate)))
  }

  station(node: string): Station {
    const station = this.#stations.get(node)
    if (station === undefined) throw new Error(`no station ${node}`)
    return station
  }

  /** What runs on a host: `root`, `edge`, or a node's agent. */
  program(host: string): Program {
    const program = this.#programs.get(host)
    if (program === undefined) throw new Error(`nothing runs on ${host}`)
    return program
  }

  /** Where a program on `from` finds the service of a node, or another by its own name: it asks its name server. */
  async at(from: string, service: string): Promise<At> {
    const { resolver: server } = await this.status(from)
    const { address } = await this.station(from).ask({ ask: 'name', name: nameOf(service), server })
    return { host: address, port: SERVICE_PORT }
  }

  status(node: string): Promise<StatusReport> {
    return askAgent(this.#socket(node), '/status') as Promise<StatusReport>
  }

  /** What the agent of one node says of its session with another's. */
  async peer(from: string, to: string): Promise<PeerReport | undefined> {
    const peers = (await askAgent(this.#socket(from), '/peers')) as PeerReport[]
    return peers.find(({ node }) => node === `${CLUSTER}/${to}`)
  }

  /** Submits services, each of a node's station; resolves when all their instances run. */
  async apply(app: string, services: Readonly<Record<string, string>>): Promise<void> {
    await this.submit(app, services)
    const names = Object.keys(services)
    await until(async () => {
      const instances = JSON.parse(await this.cli(['get', 'instances', '-o', 'json'])) as InstanceRow[]
      const running = instances.filter(({ id, state }) => state === 'running' && id.startsWith(`${app}.`))
      return running.length === names.length
    }, `${app} runs`)
  }

  /** Resolves when the root has it. */
  async submit(app: string, services: Readonly<Record<string, string>>): Promise<void> {
    const file = join(this.dir, `${app}.json`)
    const microservices = Object.entries(services).map(([name, node]) => slaOf(name, node))
    const application = { applicationID: '', application_name: app, application_namespace: 'bench', microservices }
    writeFileSync(file, JSON.stringify({ sla_version: 'v2.0', customerID: 'Admin', applications: [application] }))
    await this.cli(['apply', '-f', file])
  }

  /** The agent of a node ends, and begins again with nothing but its state: no session, no carrier. */
  async restartAgent(node: string): Promise<void> {
    await this.program(node).stop()
    await this.startAgent(node)
  }

  /** A `hedgerow` command with the credential of the root. */
  cli(argv: readonly string[]): Promise<string> {
    const { hedgerow } = this.#options
    const all = [...hedgerow, '--state', this.#state('root'), ...argv]
    return this.lab.host('root').text(all, { timeoutMs: READY_MS, env: this.#env })
  }

  async token(role: 'cluster' | 'node' | 'relay'): Promise<string> {
    const argv = ['token', 'create', '--role', role, '--cluster', CLUSTER, '-o', 'json']
    return (JSON.parse(await this.cli(argv)) as { token: string }).token
  }

  startCluster(token?: string): Promise<void> {
    const listen = ['--listen', '[::]:443', '--public-url', `https://${CLUSTER}:443`]
    return this.startRole(CLUSTER, ['cluster', '--name', CLUSTER, ...listen], token)
  }

  async startAgent(node: string, token?: string): Promise<void> {
    const host = this.lab.host(node)
    const site = this.lab.sites.find(({ hosts }) => hosts.includes(host))
    const flags = this.#options.flags?.[node] ?? []
    const listen = host.address6 === undefined ? [] : ['--listen', '[::]:7472']
    const proxy = site?.proxy === undefined ? {} : { HTTPS_PROXY: site.proxy }
    await this.startRole(node, ['agent', '--name', node, ...listen, ...flags], token, proxy)
    await until(async () => (await this.status(node)).controlLink === 'up', `the agent of ${node} is linked`)
  }

  /** Starts a role, or starts it again, and waits until it says that it runs. The token goes by environment. */
  async startRole(name: string, argv: readonly string[], token?: string, more: NodeJS.ProcessEnv = {}): Promise<void> {
    const { hedgerow, signal } = this.#options
    signal.throwIfAborted()
    const ready = Promise.withResolvers<void>()
    const all = [...hedgerow, '--state', this.#state(name), ...argv, '--log-level', LOG_LEVEL, '-o', 'json']
    const env = { ...this.#env, ...more, ...(token === undefined ? {} : { HEDGEROW_TOKEN: token }) }
    const onLine = (line: string) => {
      if (line === '}') ready.resolve()
    }
    const program = this.#life.use(Program.start(this.lab.host(name).argv(all), { env, onLine }))
    this.#programs.set(name, program)
    void program.exited.then((how) => ready.reject(new Error(`ended with ${how}`)))
    const late = setTimeout(() => ready.reject(new Error(`not ready in ${READY_MS / 1_000} s`)), READY_MS)
    try {
      await ready.promise
    } catch (cause) {
      throw new Error(`hedgerow ${argv.join(' ')}: ${program.lines.slice(-5).join('\n')}`, { cause })
    } finally {
      clearTimeout(late)
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }

  get #env(): NodeJS.ProcessEnv {
    return { ...CLEAN, [MARK]: this.dir }
  }

  #state(name: string): string {
    return join(this.dir, name)
  }

  #socket(node: string): string {
    return join(this.#state(node), 'agent', 'agent.sock')
  }

  /** Key and certificate of the origins that speak TLS without a mesh: P-256, as the mesh's own. */
  #makeCertificate(): string {
    const file = join(this.dir, 'origin.pem')
    const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-keyout', file]
    execFileSync('openssl', ['req', '-x509', ...key, '-subj', '/CN=origin', '-out', `${file}.crt`], { stdio: 'ignore' })
    execFileSync('sh', ['-c', `cat ${file}.crt >> ${file}`])
    return file
  }
}

/** What this shell may have set is not the mesh's. */
const CLEAN = {
  HEDGEROW_STATE: undefined,
  HEDGEROW_TOKEN: undefined,
  HEDGEROW_CREDENTIAL: undefined,
  HTTPS_PROXY: undefined,
  https_proxy: undefined,
}

interface InstanceRow {
  id: string
  state: string
}

/** `TEST_LOG=debug` keeps more in the last lines of each program. */
const LOG_LEVEL = process.env['TEST_LOG'] ?? 'warn'

/** A service's name has no hyphen. */
export function serviceOf(node: string): string {
  return node.replaceAll('-', '')
}

export function nameOf(service: string, app = APP): string {
  return `${app}.bench.${serviceOf(service)}.bench.any.rr.local`
}

function slaOf(name: string, node: string): object {
  return {
    microservice_name: name,
    microservice_namespace: 'bench',
    virtualization: 'external',
    code: `127.0.0.1:${ORIGIN_PORT}`,
    port: `${SERVICE_PORT}:${ORIGIN_PORT}/tcp;${SERVICE_PORT}:${ORIGIN_PORT}/udp`,
    check: { type: 'tcp', interval_ms: 600_000 },
    constraints: [{ type: 'direct', cluster: CLUSTER, node }],
  }
}

/** Asks every 50 ms until it is true. @throws after the limit */
export async function until(ask: () => Promise<boolean>, what: string, limitMs = READY_MS): Promise<void> {
  const limit = Date.now() + limitMs
  while (!(await ask().catch(() => false))) {
    if (Date.now() > limit) throw new Error(`not within ${limitMs / 1_000} s: ${what}`)
    await sleep(50)
  }
}

/** Runs a command in a namespace that is no host of the lab's own list, as a router's. */
export function inside({ namespace }: Pick<Host, 'namespace'>, argv: readonly string[]): Promise<string> {
  return text(['ip', 'netns', 'exec', namespace, ...argv])
}
