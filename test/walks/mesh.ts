import { Resolver } from 'node:dns/promises'
import { mkdirSync } from 'node:fs'

import { createServer, request, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { Relay } from '../../proxy/relay/server.ts'
import { Agent } from '../../src/agent/agent.ts'
import { defaults } from '../../src/config/defaults.ts'
import type { AgentConfig } from '../../src/config/schema.ts'
import { Lifetime } from '../../src/core/kit/lifetime.ts'
import { openLog, silentLog } from '../../src/core/kit/log.ts'
import { askAgent } from '../../src/agent/local-api.ts'
import { openMetrics } from '../../src/core/metrics.ts'
import type { FlowReport, PeerReport, ResolveReport, StatusReport, TraceReport } from '../../src/client/reports.ts'
import { mesh as controlPlane, type World } from '../orchestrator/mesh.ts'
import { until } from '../support/until.ts'

const log = process.env['TEST_LOG'] === undefined ? silentLog : openLog('debug')

/** A whole mesh in this process, on loopback: real root, cluster, relay and agents; each agent on a prefix of its own. */
export async function wholeMesh(nodes: readonly string[], config: Partial<AgentConfig> = {}): Promise<Mesh> {
  const life = new Lifetime()
  const relay = life.use(Relay.create({}, log, openMetrics('cluster')))
  const control = await controlPlane({ cluster: { onRelay: (...upgrade) => relay.upgrade(...upgrade) } })
  const mesh = new Mesh(life, control)
  for (const name of nodes) await mesh.start(name, config)
  return mesh
}

export class Mesh implements AsyncDisposable {
  readonly control: World
  readonly #life: Lifetime
  readonly #nodes = new Map<string, Node>()

  constructor(life: Lifetime, control: World) {
    this.#life = life
    this.control = control
  }

  node(name: string): Node {
    const node = this.#nodes.get(name)
    if (node === undefined) throw new Error(`there is no node ${name}`)
    return node
  }

  /** Starts an agent, or starts it again in its old state directory. */
  async start(name: string, config: Partial<AgentConfig> = {}, { isCutOff = false } = {}): Promise<Node> {
    const dir = join(this.control.dir, `agent-${name}`)
    mkdirSync(dir, { recursive: true })
    const isNew = !this.#nodes.has(name)
    const agent = await Agent.start(
      {
        dir,
        config: { ...defaults(name).agent, name, listen: '127.0.0.1:0', drainSeconds: 0.5, ...config },
        version: '0.0.0',
        ...(isNew ? { token: this.control.cluster().nodeToken() } : {}),
      },
      log,
    )
    const node = await Node.of(agent, dir)
    this.#nodes.set(name, node)
    if (!isCutOff) await until(async () => (await node.status()).controlLink === 'up', `${name} is linked`)
    return node
  }

  async stop(name: string): Promise<void> {
    await this.node(name).agent[Symbol.asyncDispose]()
  }

  /** Submits services of app `shop`, namespace `acme`; waits until so many instances run. */
  async apply(services: readonly object[], running?: number): Promise<void> {
    await this.control.api.call('POST', '/apps', sla(services))
    if (running !== undefined) await this.control.running(running)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { agent } of this.#nodes.values()) await agent[Symbol.asyncDispose]()
    await this.control[Symbol.asyncDispose]()
    await this.#life.close()
  }
}

/** One agent, and what programs on its node do: ask its resolver, open connections, ask the local socket. */
export class Node {
  readonly agent: Agent
  readonly #socket: string
  readonly #resolver: Resolver

  private constructor(agent: Agent, socket: string, resolver: Resolver) {
    this.agent = agent
    this.#socket = socket
    this.#resolver = resolver
  }

  static async of(agent: Agent, dir: string): Promise<Node> {
    const socket = join(dir, 'agent.sock')
    const status = (await askAgent(socket, '/status')) as StatusReport
    const resolver = new Resolver({ timeout: 2_000, tries: 1 })
    resolver.setServers([status.resolver])
    return new Node(agent, socket, resolver)
  }

  get dns(): Resolver {
    return this.#resolver
  }

  status(): Promise<StatusReport> {
    return askAgent(this.#socket, '/status') as Promise<StatusReport>
  }

  resolve(name: string): Promise<ResolveReport> {
    return askAgent(this.#socket, '/resolve', { name }) as Promise<ResolveReport>
  }

  trace(target: string): Promise<TraceReport> {
    return askAgent(this.#socket, '/trace', { target }) as Promise<TraceReport>
  }

  peers(): Promise<PeerReport[]> {
    return askAgent(this.#socket, '/peers') as Promise<PeerReport[]>
  }

  flows(): Promise<FlowReport[]> {
    return askAgent(this.#socket, '/flows', { recent: 'true' }) as Promise<FlowReport[]>
  }

  proxies(): Promise<Record<string, string>> {
    return askAgent(this.#socket, '/proxy-environment') as Promise<Record<string, string>>
  }

  /** GET on a new connection, the name looked up at this node's resolver, as a program on the node would. */
  async get(name: string, port = 8080): Promise<Reply> {
    const [address = ''] = await this.#resolver.resolve4(name)
    return get({ host: address, port, name })
  }
}

export interface Reply {
  status: number
  body: string
}

export function get({ host, port, name }: { host: string; port: number; name: string }): Promise<Reply> {
  return new Promise((resolve, reject) => {
    const asking = request({ host, port, agent: false, headers: { host: name }, timeout: 10_000 }, (response) => {
      let body = ''
      response.setEncoding('utf8').on('data', (chunk: string) => (body += chunk))
      response.on('end', () => resolve({ status: response.statusCode ?? 0, body }))
      response.on('error', reject)
    })
    asking.on('timeout', () => asking.destroy(new Error('no answer in 10 s')))
    asking.on('error', reject)
    asking.end()
  })
}

/** A web server in the test, which an `external` service stands for. */
export class Origin implements AsyncDisposable {
  readonly port: number
  readonly #server: Server

  private constructor(server: Server) {
    this.#server = server
    this.port = (server.address() as AddressInfo).port
  }

  static start(body: string): Promise<Origin> {
    const server = createServer((request, response) => response.end(`${body} for ${request.socket.remoteAddress}`))
    return new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(new Origin(server))))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections()
    await new Promise((resolve) => this.#server.close(resolve))
  }
}

/** An external service on a node: `origin` as `<name>.prod`, port 8080. */
export function external(name: string, origin: Origin, node: string, more: object = {}): object {
  return {
    microservice_name: name,
    microservice_namespace: 'prod',
    virtualization: 'external',
    code: `127.0.0.1:${origin.port}`,
    port: `8080:${origin.port}`,
    constraints: [{ type: 'direct', cluster: 'edge', node }],
    ...more,
  }
}

/** Replicas of a small program that answers with its own instance id. */
export function program(name: string, replicas: number, more: object = {}): object {
  const text =
    "require('http').createServer((q,r)=>r.end(process.env.HEDGEROW_INSTANCE)).listen(process.env.PORT,'127.0.0.1')"
  return {
    microservice_name: name,
    microservice_namespace: 'prod',
    virtualization: 'process',
    cmd: [process.execPath, '-e', text],
    port: '8080',
    replicas,
    code: '',
    ...more,
  }
}

export function sla(microservices: readonly object[], app = 'shop'): object {
  return {
    sla_version: 'v2.0',
    customerID: 'Admin',
    applications: [{ applicationID: '', application_name: app, application_namespace: 'acme', microservices }],
  }
}
