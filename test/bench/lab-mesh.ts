import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { MARK } from '../../examples/demo/marked.ts'
import { askAgent } from '../../src/agent/local-api.ts'
import type { StatusReport } from '../../src/client/reports.ts'
import type { Lifetime } from '../../src/core/kit/lifetime.ts'
import { type Lab, lab, type LabSpec } from '../../src/lab/lab.ts'
import { Program } from '../../src/lab/program.ts'
import { scratch, sweepBench } from './testbed.ts'

/**
 * A mesh of real processes in a lab, as people start it:
 *
 *     root, edge (the cluster, and its relay on 443, IPv4 and IPv6)        public hosts
 *     agents                                                              in sites, or public hosts
 *
 * The cluster is known by name, so that a network with one address family finds it at the address it can use.
 */
export const CLUSTER = 'edge'
const READY_MS = 60_000

export interface LabMeshOptions {
  /** What starts `hedgerow`. */
  hedgerow: readonly string[]
  /** `root` and `edge` are added to its public hosts. */
  lab: LabSpec
  /** Flags of single agents. */
  flags?: Readonly<Record<string, readonly string[]>>
  /** Environment of single roles, by host. */
  env?: Readonly<Record<string, NodeJS.ProcessEnv>>
  say: (line: string) => void
  signal: AbortSignal
}

export class LabMesh implements AsyncDisposable {
  readonly lab: Lab
  /** Scratch space; the state directories of all roles are in it. */
  readonly dir: string
  protected readonly life: Lifetime
  readonly #options: LabMeshOptions
  readonly #programs = new Map<string, Program>()

  protected constructor(life: Lifetime, { net, dir }: { net: Lab; dir: string }, options: LabMeshOptions) {
    this.life = life
    this.lab = net
    this.dir = dir
    this.#options = options
  }

  /** The empty lab, for the constructor. */
  static async lab(life: Lifetime, { lab: spec }: LabMeshOptions): Promise<{ net: Lab; dir: string }> {
    await sweepBench()
    const dir = scratch(life)
    return { dir, net: life.use(await lab({ ...spec, publics: ['root', CLUSTER, ...(spec.publics ?? [])] })) }
  }

  /** What runs on a host: `root`, `edge`, or a node's agent. */
  program(host: string): Program {
    const program = this.#programs.get(host)
    if (program === undefined) throw new Error(`nothing runs on ${host}`)
    return program
  }

  status(node: string): Promise<StatusReport> {
    return this.askAgent<StatusReport>(node, '/status')
  }

  /** What an agent answers on its socket. */
  askAgent<T>(node: string, path: string): Promise<T> {
    return askAgent(join(this.state(node), 'agent', 'agent.sock'), path) as Promise<T>
  }

  /** The agent of a node ends, and begins again with nothing but its state: no session, no carrier. */
  async restartAgent(node: string): Promise<void> {
    await this.program(node).stop()
    await this.startAgent(node)
  }

  /** A `hedgerow` command with the credential of the root. */
  cli(argv: readonly string[]): Promise<string> {
    return this.cliOn('root', argv)
  }

  /** A `hedgerow` command as somebody on that host gives it. */
  cliOn(host: string, argv: readonly string[]): Promise<string> {
    const all = [...this.#options.hedgerow, '--state', this.state(host), ...argv]
    return this.lab.host(host).text(all, { timeoutMs: READY_MS, env: this.env })
  }

  async token(role: 'cluster' | 'node' | 'relay'): Promise<string> {
    const argv = ['token', 'create', '--role', role, '--cluster', CLUSTER, '-o', 'json']
    return (JSON.parse(await this.cli(argv)) as { token: string }).token
  }

  startRoot(): Promise<void> {
    return this.startRole('root', ['root', '--listen', `${this.lab.host('root').address}:7470`])
  }

  startCluster(token?: string): Promise<void> {
    const listen = ['--listen', '[::]:443', '--public-url', `https://${CLUSTER}:443`]
    return this.startRole(CLUSTER, ['cluster', '--name', CLUSTER, ...listen], token)
  }

  async startAgent(node: string, token?: string): Promise<void> {
    await this.startAgentAlone(node, token)
    try {
      await until(async () => (await this.status(node)).controlLink === 'up', `the agent of ${node} is linked`)
    } catch (cause) {
      const status = JSON.stringify(await this.status(node).catch(String))
      const said = this.program(node).lines.slice(-10).join('\n')
      throw new Error(`${String(cause)}; its status: ${status}; it said: ${said}`, { cause })
    }
  }

  /** Waits for no cluster. */
  async startAgentAlone(node: string, token?: string, ...more: readonly string[]): Promise<void> {
    const host = this.lab.host(node)
    const site = this.lab.sites.find(({ hosts }) => hosts.includes(host))
    const flags = this.#options.flags?.[node] ?? []
    const listen = host.address6 === undefined ? [] : ['--listen', '[::]:7472']
    const proxy = site?.proxy === undefined ? {} : { HTTPS_PROXY: site.proxy }
    await this.startRole(node, ['agent', '--name', node, ...listen, ...flags, ...more], token, proxy)
  }

  /** Starts a role, or starts it again, and waits until it says that it runs. The token goes by environment. */
  async startRole(name: string, argv: readonly string[], token?: string, more: NodeJS.ProcessEnv = {}): Promise<void> {
    const { hedgerow, signal, env: given } = this.#options
    signal.throwIfAborted()
    const ready = Promise.withResolvers<void>()
    const all = [...hedgerow, '--state', this.state(name), ...argv, '--log-level', LOG_LEVEL, '-o', 'json']
    const secret = token === undefined ? {} : { HEDGEROW_TOKEN: token }
    const env = { ...this.env, ...given?.[name], ...more, ...secret }
    const onLine = (line: string) => {
      if (line === '}') ready.resolve()
    }
    const program = this.life.use(Program.start(this.lab.host(name).argv(all), { env, onLine }))
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
    return this.life.close()
  }

  /** Of everything that is started here. */
  protected get env(): NodeJS.ProcessEnv {
    return { ...CLEAN, [MARK]: this.dir }
  }

  state(name: string): string {
    return join(this.dir, name)
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

/** `TEST_LOG=debug` keeps more in the last lines of each program. */
const LOG_LEVEL = process.env['TEST_LOG'] ?? 'warn'

/** Asks every 100 ms until it is true: most ask by a command, which takes half a second itself. @throws after the limit */
export async function until(ask: () => Promise<boolean>, what: string, limitMs = READY_MS): Promise<void> {
  const limit = Date.now() + limitMs
  while (!(await ask().catch(() => false))) {
    if (Date.now() > limit) throw new Error(`not within ${limitMs / 1_000} s: ${what}`)
    await sleep(100)
  }
}
