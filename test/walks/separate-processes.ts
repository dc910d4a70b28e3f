import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import type { FlowReport, ResolveReport } from '../../src/client/reports.ts'
import type { Program } from '../../src/lab/program.ts'
import { freeBase } from '../../src/lab/system-tools.ts'
import { eventually, FIRST_PORT, Machines } from '../cli/program.ts'
import { sla } from './mesh.ts'

const ECHO_TCP =
  "require('net').createServer({allowHalfOpen:true},s=>s.on('error',()=>{}).pipe(s)).listen(process.env.PORT,process.env.HOST)"
const ECHO_UDP =
  "const u=require('dgram').createSocket('udp4');u.on('message',(m,r)=>u.send(m,r.port,r.address)).bind(process.env.PORT,process.env.HOST)"
/** Of the machine, in the order of the nodes. */
const PREFIXES = ['127.144.0.0/12', '127.160.0.0/12', '127.176.0.0/12', '127.192.0.0/12']

/** Root, cluster (with its relay) and agents, each a process of its own on loopback. */
export class SeparateProcesses implements AsyncDisposable {
  readonly machines: Machines
  readonly #base: number
  #root: Program | undefined
  #cluster: Program | undefined
  readonly #agents = new Map<string, Program>()

  private constructor(machines: Machines, base: number) {
    this.machines = machines
    this.#base = base
  }

  /** `extra`: flags of each agent. */
  static async start(nodes: readonly string[], config: string, ...extra: string[]): Promise<SeparateProcesses> {
    const machines = await Machines.make()
    const mesh = new SeparateProcesses(machines, await freeBase(FIRST_PORT + 5_000))
    try {
      writeFileSync(machines.path('config.yaml'), config)
      await mesh.startRoot()
      await mesh.#token('cluster', '--role', 'cluster')
      await mesh.startCluster()
      for (const node of nodes) await mesh.startAgent(node, ...extra)
      return mesh
    } catch (error) {
      await machines[Symbol.asyncDispose]()
      throw error
    }
  }

  get clusterPort(): number {
    return this.#base + 1
  }

  async startRoot(): Promise<void> {
    const listen = ['--listen', `127.0.0.1:${this.#base}`, '--ops-listen', '127.0.0.1:0']
    this.#root = (await this.machines.start('root', 'root', ...listen)).program
  }

  /** Without a word, as when its machine loses power. */
  async killRoot(): Promise<void> {
    this.#root?.signal('SIGKILL')
    await this.#root?.exited
  }

  async killAgent(node: string): Promise<void> {
    this.#agents.get(node)?.signal('SIGKILL')
    await this.#agents.get(node)?.exited
  }

  /** One more cluster, with one node. */
  async addCluster(name: string, node: string): Promise<void> {
    await this.#token(name, '--role', 'cluster', '--cluster', name)
    const listen = ['--listen', `127.0.0.1:${await freeBase(this.#base + 10)}`, '--ops-listen', '127.0.0.1:0']
    const token = ['--token-file', this.machines.path(`token-${name}`)]
    await this.machines.start(name, 'cluster', '--name', name, ...listen, ...token)
    await this.#token(node, '--cluster', name)
    await this.startAgent(node)
  }

  async startCluster(): Promise<void> {
    const listen = ['--listen', `127.0.0.1:${this.#base + 1}`, '--ops-listen', '127.0.0.1:0']
    const token = ['--token-file', this.machines.path('token-cluster')]
    this.#cluster = (await this.machines.start('cluster', 'cluster', ...listen, ...token)).program
  }

  /** Without a word, as when its machine loses power. */
  async killCluster(): Promise<void> {
    this.#cluster?.signal('SIGKILL')
    await this.#cluster?.exited
  }

  /** `--take-over` replaces the one that runs. */
  async startAgent(node: string, ...extra: string[]): Promise<Program> {
    const { machines } = this
    const prefix = PREFIXES[Number(node.slice(1)) % PREFIXES.length]!
    if (!existsSync(machines.path(`token-${node}`))) await this.#token(node)
    const args = ['--name', node, '--listen', '127.0.0.1:0', '--prefix', prefix]
    args.push('--token-file', machines.path(`token-${node}`), '--config', machines.path('config.yaml'))
    args.push('--memory-mb', '2000', '--vcpus', '4', '--upstream', '127.0.0.1:9', ...extra)
    const { program } = await machines.start(node, 'agent', ...args)
    const former = this.#agents.get(node)
    this.#agents.set(node, program)
    return former ?? program
  }

  /** An agent that joins, and has its control link, through another port. */
  async startAgentThrough(port: number, node: string): Promise<void> {
    await this.#token(node)
    const path = this.machines.path(`token-${node}`)
    const [prefix, body] = readFileSync(path, 'utf8').split('.') as [string, string]
    const token = JSON.parse(Buffer.from(body, 'base64url').toString()) as { url: string }
    token.url = token.url.replace(`:${this.clusterPort}`, `:${port}`)
    writeFileSync(path, `${prefix}.${Buffer.from(JSON.stringify(token)).toString('base64url')}`)
    await this.startAgent(node)
  }

  /** Services `tcp` and `udp` of an application on a node, each an echo. */
  async serveEchoes(node: string, app = 'shop'): Promise<void> {
    const service = (name: string, script: string, port: string) => ({
      microservice_name: name,
      microservice_namespace: 'prod',
      virtualization: 'process',
      cmd: [process.execPath, '-e', script],
      port,
      code: '',
      constraints: [{ type: 'direct', cluster: 'edge', node }],
    })
    const document = sla([service('tcp', ECHO_TCP, '8080'), service('udp', ECHO_UDP, '8080/udp')], app)
    writeFileSync(this.machines.path(`${app}.json`), JSON.stringify(document))
    await this.machines.json('root', 'apply', '-f', this.machines.path(`${app}.json`))
    let all: Array<{ state: string }> = []
    const areRunning = async () => {
      all = await this.machines.json<Array<{ state: string }>>('root', 'get', 'instances')
      return all.length >= 2 && all.every(({ state }) => state === 'running')
    }
    await eventually(areRunning, 'both instances run').catch((error: Error) => {
      throw new Error(`${error.message}: ${JSON.stringify(all)}`)
    })
  }

  async addressOf(node: string, service: 'tcp' | 'udp', app = 'shop'): Promise<string> {
    return (await this.machines.json<ResolveReport>(node, 'resolve', `${app}.acme.${service}.prod.any.rr.local`)).ipv4
  }

  flows(node: string): Promise<FlowReport[]> {
    return this.machines.json<FlowReport[]>(node, 'flows', '--recent')
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.machines[Symbol.asyncDispose]()
  }

  async #token(file: string, ...role: string[]): Promise<void> {
    const { token } = await this.machines.json<{ token: string }>('root', 'token', 'create', ...role)
    writeFileSync(this.machines.path(`token-${file}`), token)
  }
}

/** A TCP flow that stays open. */
export class EchoedFlow {
  readonly #socket: Socket
  #heard = ''
  /** When and why it ended. */
  ended: { at: number; why: string } | undefined

  private constructor(host: string) {
    this.#socket = connect({ host, port: 8080 })
    this.#socket.setEncoding('latin1').on('data', (text: string) => (this.#heard += text))
    this.#socket.on('error', ({ message }) => (this.ended ??= { at: performance.now(), why: message }))
    this.#socket.on('close', () => (this.ended ??= { at: performance.now(), why: 'closed' }))
  }

  static async open(host: string): Promise<EchoedFlow> {
    const flow = new EchoedFlow(host)
    await flow.says('first')
    return flow
  }

  /** Says something, and waits until it has come back. @throws any error when the flow ends before */
  async says(word: string, limitMs = 60_000): Promise<void> {
    this.#socket.write(`${word}\n`)
    await eventually(
      async () => {
        if (this.ended !== undefined) throw new Error(`"${word}" did not come back: ${this.ended.why}`)
        return this.#heard.includes(`${word}\n`)
      },
      `"${word}" comes back`,
      limitMs,
    )
  }

  close(): void {
    this.#socket.destroy()
  }
}
