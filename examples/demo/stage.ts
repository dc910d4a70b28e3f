import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import type { Host } from '../../src/lab/host.ts'
import { lab } from '../../src/lab/lab.ts'
import { Program, run, type Result } from '../../src/lab/program.ts'
import { freeBase } from '../../src/lab/system-tools.ts'
import { endMarked, MARK } from './marked.ts'

/** One machine of the demo: where its agent keeps its state, and how a command runs there. */
export interface Machine {
  readonly name: string
  readonly site: string
  readonly state: string
  /** What starts `argv` on this machine. */
  argv(argv: readonly string[]): string[]
  /** What starts `argv` so that it reaches semantic names: as it is where the agent is the resolver, else with its proxies. */
  exec(argv: readonly string[]): string[]
  dig(args: readonly string[]): Promise<string[]>
  /** The machine is lost: nothing on it says goodbye. */
  lose(): Promise<void>
}

/** The mesh of the demo, up and running: a root, a cluster, four nodes. */
export interface Stage extends AsyncDisposable {
  readonly kind: 'namespaces' | 'loopback'
  readonly state: string
  /** Where the root's credential is. */
  readonly admin: Machine
  readonly nodes: readonly Machine[]
  /** What ran so far, for when something fails. */
  readonly programs: readonly Program[]
}

export const REPOSITORY = resolve(import.meta.dirname, '../..')
/** The sources of this clone; with HEDGEROW_LAUNCHER=dist/src/hedgerow.js what `npm run build` made of them, which starts in half the time. */
export const HEDGEROW = [
  process.execPath,
  '--max-semi-space-size=2',
  '--single-threaded-gc',
  resolve(process.env['HEDGEROW_LAUNCHER'] ?? join(REPOSITORY, 'src/hedgerow.js')),
] as const
const READY_MS = 30_000

export type Progress = (sentence: string) => void

/**
 *     left: n1 n2 ─ router ─┐                  ┌─ root
 *     192.168.1.0/24        ├──── internet ────┤
 *     right: n3 n4 ─ router ┘                  └─ edge (the cluster, and the relay)
 *     192.168.1.0/24
 */
export function namespaceStage(progress: Progress, signal: AbortSignal): Promise<Stage> {
  return build('namespaces', signal, async (scene) => {
    progress('two private networks, their routers and an internet')
    const sites = { left: { hosts: ['n1', 'n2'] }, right: { hosts: ['n3', 'n4'] } }
    const net = scene.use(await lab({ sites, publics: ['root', 'edge'] }))
    const machine = (name: string, site: string) => hostMachine(net.host(name), site, join(scene.state, name))
    const [root, edge] = [machine('root', ''), machine('edge', '')]
    scene.admin = root

    progress('the root, on a public host')
    await scene.start(root, ['root', '--listen', `${net.host('root').address}:7470`])
    progress('the cluster, on another public host')
    const listen = `${net.host('edge').address}:7471`
    await scene.start(edge, ['cluster', '--name', 'edge', '--listen', listen], await scene.token('cluster'))
    for (const [site, { hosts }] of Object.entries(sites)) {
      for (const name of hosts) {
        progress(`the agent of ${name}, behind the router of the ${site} site`)
        const node = machine(name, site)
        await scene.start(node, ['agent', '--name', name], await scene.token('node'))
        scene.nodes.push(node)
      }
    }
  })
}

/** The same mesh without root: one network, every agent with its own loopback prefix. */
export function loopbackStage(progress: Progress, signal: AbortSignal): Promise<Stage> {
  return build('loopback', signal, async (scene) => {
    const machine = (name: string) => loopbackMachine(name, join(scene.state, name), scene)
    const first = machine('n1')
    scene.admin = first
    progress('root, cluster and the agent of n1 in one process')
    await scene.start(first, ['up', '--name', 'n1', '--listen', `127.0.0.1:${await freeBase()}`])
    scene.nodes.push(first)
    for (const name of ['n2', 'n3', 'n4']) {
      progress(`the agent of ${name}`)
      const node = machine(name)
      await scene.start(node, ['agent', '--name', name, '--listen', '127.0.0.1:0'], await scene.token('node'))
      scene.nodes.push(node)
    }
  })
}

/** Runs `hedgerow …` on a machine, with that machine's state. */
export function hedgerow(machine: Machine, args: readonly string[]): Promise<Result> {
  return run(machine.argv([...HEDGEROW, '--state', machine.state, ...args]), { timeoutMs: 60_000 })
}

/** The JSON a `hedgerow` command prints. @throws when it fails. */
export async function ask<T>(machine: Machine, args: readonly string[]): Promise<T> {
  const { code, stdout, stderr } = await hedgerow(machine, [...args, '-o', 'json'])
  if (code !== 0) throw new Error(`hedgerow ${args.join(' ')}: ${stderr.trim() || stdout.trim() || `code ${code}`}`)
  return JSON.parse(stdout) as T
}

class Scene implements Stage {
  readonly kind: Stage['kind']
  readonly state: string
  readonly nodes: Machine[] = []
  readonly programs: Program[] = []
  readonly #stack = new AsyncDisposableStack()
  readonly #signal: AbortSignal
  #admin: Machine | undefined

  constructor(kind: Stage['kind'], signal: AbortSignal, state: string) {
    this.kind = kind
    this.#signal = signal
    this.state = state
    this.#stack.defer(() => rm(state, { recursive: true, force: true }))
    this.#stack.defer(() => endMarked(state))
  }

  get admin(): Machine {
    if (this.#admin === undefined) throw new Error('nobody administers this mesh yet')
    return this.#admin
  }

  set admin(machine: Machine) {
    this.#admin = machine
  }

  use<T extends AsyncDisposable>(running: T): T {
    return this.#stack.use(running)
  }

  /** Starts a role and waits until it says that it runs. The token goes by environment, which others cannot read. */
  async start(machine: Machine, args: readonly string[], token?: string): Promise<Program> {
    this.#signal.throwIfAborted()
    const argv = machine.argv([...HEDGEROW, '--state', machine.state, ...args, '--log-level', 'warn', '-o', 'json'])
    const ready = Promise.withResolvers<void>()
    const onLine = (line: string) => {
      if (line === '{') ready.resolve()
    }
    const env = { [MARK]: this.state, ...(token === undefined ? {} : { HEDGEROW_TOKEN: token }) }
    const program = Program.start(argv, { cwd: REPOSITORY, env, onLine })
    this.programs.push(program)
    this.#stack.use(program)
    const aborted = () => ready.reject(this.#signal.reason)
    this.#signal.addEventListener('abort', aborted)
    const late = setTimeout(() => ready.reject(new Error(`not ready in ${READY_MS / 1_000} s`)), READY_MS)
    void program.exited.then((how) => ready.reject(new Error(`ended with ${how}`)))
    try {
      await ready.promise
    } catch (cause) {
      throw new Error(`hedgerow ${args.join(' ')}: ${program.lines.slice(-5).join('\n')}`, { cause })
    } finally {
      clearTimeout(late)
      this.#signal.removeEventListener('abort', aborted)
    }
    return program
  }

  async token(role: 'cluster' | 'node'): Promise<string> {
    return (await ask<{ token: string }>(this.admin, ['token', 'create', '--role', role, '--cluster', 'edge'])).token
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync()
  }
}

async function build(kind: Stage['kind'], signal: AbortSignal, make: (scene: Scene) => Promise<void>): Promise<Stage> {
  const scene = new Scene(kind, signal, await mkdtemp(join(tmpdir(), 'hedgerow-demo-')))
  try {
    await make(scene)
    return scene
  } catch (error) {
    await scene[Symbol.asyncDispose]()
    throw error
  }
}

function hostMachine(host: Host, site: string, state: string): Machine {
  return {
    name: host.name,
    site,
    state,
    argv: (argv) => host.argv(argv),
    exec: (argv) => [...argv],
    dig: async (args) => ['dig', ...args],
    lose: () => host.lose(),
  }
}

function loopbackMachine(name: string, state: string, scene: Scene): Machine {
  let nameServer: Promise<string> | undefined
  const machine: Machine = {
    name,
    site: '',
    state,
    argv: (argv) => [...argv],
    exec: (argv) => [...HEDGEROW, '--state', state, 'with-proxy', '--', ...argv],
    dig: async (args) => {
      nameServer ??= ask<{ agent: { resolver: string } }>(machine, ['status']).then(({ agent }) => agent.resolver)
      const [address = '', port = ''] = (await nameServer).split(':')
      return ['dig', `@${address}`, '-p', port, ...args]
    },
    lose: async () => {
      const agent = scene.programs.find(({ argv }) => argv.includes(state))
      agent?.signal('SIGKILL')
      await endMarked(scene.state, name)
    },
  }
  return machine
}
