import { execFileSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import PQueue from 'p-queue'
import { Lifetime } from '../../../src/core/kit/lifetime.ts'
import type { PeerReport } from '../../../src/client/reports.ts'
import type { Host } from '../../../src/lab/host.ts'
import { text } from '../../../src/lab/program.ts'
import { CLUSTER, LabMesh, type LabMeshOptions, until } from '../lab-mesh.ts'
import { type At, ORIGIN_PORT, Station } from './station.ts'

export { CLUSTER, until } from '../lab-mesh.ts'

/** A mesh in a lab with a station beside each agent, and one service for each node. */
const APP = 'nat'
/** In every service's name and on every node the same. */
export const SERVICE_PORT = 80
/** Nodes that are being started; a start is mostly processor time, with waiting between. */
const AT_ONCE = 3

export interface WorldOptions extends LabMeshOptions {
  /** Hosts of the lab that are nodes. */
  nodes: readonly string[]
  /** Public hosts of the lab on which a stand-alone relay runs. */
  relays?: readonly string[]
  /** Services beside one for each node: their names, and whose station they are. */
  services?: Readonly<Record<string, string>>
}

export class World extends LabMesh {
  readonly #say: (line: string) => void
  readonly #stations = new Map<string, Station>()
  readonly #certificate: string

  private constructor(life: Lifetime, net: Awaited<ReturnType<typeof LabMesh.lab>>, options: WorldOptions) {
    super(life, net, options)
    this.#say = options.say
    this.#certificate = makeCertificate(this.dir)
  }

  static start(options: WorldOptions): Promise<World> {
    const { nodes, services = {}, say } = options
    return Lifetime.open(async (life) => {
      const world = new World(life, await LabMesh.lab(life, options), options)
      say('root and cluster')
      await world.startRoot()
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
    this.#say(`node ${node}`)
    await this.startAgent(node, await this.token('node'))
    this.#stations.set(node, this.life.use(await Station.start(this.lab.host(node), this.env, this.#certificate)))
  }

  station(node: string): Station {
    const station = this.#stations.get(node)
    if (station === undefined) throw new Error(`no station ${node}`)
    return station
  }

  /** Where a program on `from` finds the service of a node, or another by its own name: it asks its name server. */
  async at(from: string, service: string): Promise<At> {
    const { resolver: server } = await this.status(from)
    const { address } = await this.station(from).ask({ ask: 'name', name: nameOf(service), server })
    return { host: address, port: SERVICE_PORT }
  }

  /** What the agent of one node says of its session with another's. */
  async peer(from: string, to: string): Promise<PeerReport | undefined> {
    const peers = await this.askAgent<PeerReport[]>(from, '/peers')
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
}

/** Key and certificate of the origins that speak TLS without a mesh: P-256, as the mesh's own. */
function makeCertificate(dir: string): string {
  const file = join(dir, 'origin.pem')
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-keyout', file]
  execFileSync('openssl', ['req', '-x509', ...key, '-subj', '/CN=origin', '-out', `${file}.crt`], { stdio: 'ignore' })
  execFileSync('sh', ['-c', `cat ${file}.crt >> ${file}`])
  return file
}

interface InstanceRow {
  id: string
  state: string
}

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

/** Runs a command in a namespace that is no host of the lab's own list, as a router's. */
export function inside({ namespace }: Pick<Host, 'namespace'>, argv: readonly string[]): Promise<string> {
  return text(['ip', 'netns', 'exec', namespace, ...argv])
}
