import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { askAgent } from '../../src/agent/local-api.ts'
import { Lifetime } from '../../src/core/kit/lifetime.ts'
import type { Host } from '../../src/lab/host.ts'
import { lab } from '../../src/lab/lab.ts'
import type { Program, Result } from '../../src/lab/program.ts'
import { HEDGEROW } from '../support/launcher.ts'

/**
 * One machine with a mesh on the kernel fast path, in a network namespace of its own (needs root, ip, nft):
 *
 *     await using machine = await FastPathMachine.start()
 *     const web = await machine.web()                  // an HAProxy that answers from memory, as an external service
 *     await compareWeb(machine, web, { rounds: 5, seconds: 3 })
 */

const READY_MS = 40_000

export interface FastPathOptions {
  /** For all programs on the machine. */
  env?: NodeJS.ProcessEnv
  /** Beside `up --mode host --fast-path`. */
  args?: readonly string[]
}

export class FastPathMachine implements AsyncDisposable {
  readonly host: Host
  /** The state directory. */
  readonly state: string
  readonly #life: Lifetime
  readonly #options: FastPathOptions
  #agent: Program

  private constructor(life: Lifetime, host: Host, state: string, options: FastPathOptions) {
    this.#life = life
    this.host = host
    this.state = state
    this.#options = options
    this.#agent = this.#spawn()
  }

  /** Resolves when the agent says that it is ready. */
  static start(options: FastPathOptions = {}): Promise<FastPathMachine> {
    return Lifetime.open(async (life) => {
      const net = life.use(await lab({ publics: ['machine'], nameserver: '10.30.0.53' }))
      const dir = await mkdtemp(join(tmpdir(), 'hedgerow-fast-'))
      life.defer(() => rm(dir, { recursive: true, force: true }))
      const machine = new FastPathMachine(life, net.host('machine'), join(dir, 'state'), options)
      life.defer(() => machine.#agent.stop(15_000))
      await machine.ready()
      return machine
    })
  }

  get agent(): Program {
    return this.#agent
  }

  /** `hedgerow …` there, to its end. */
  hedgerow(...args: string[]): Promise<Result> {
    const { env } = this.#options
    return this.host.exec([...HEDGEROW, '--state', this.state, ...args], {
      timeoutMs: 30_000,
      ...(env === undefined ? {} : { env }),
    })
  }

  /** What a command prints as JSON. @throws when it fails */
  async json<T>(...args: string[]): Promise<T> {
    const { code, stdout, stderr } = await this.hedgerow(...args, '-o', 'json')
    if (code !== 0 && stdout === '') throw new Error(`hedgerow ${args.join(' ')}: code ${code}: ${stderr}`)
    return JSON.parse(stdout) as T
  }

  /** What the agent answers on its socket: half a second less processor time than a command. */
  #ask<T>(path: string, query?: Record<string, string>): Promise<T> {
    return askAgent(join(this.state, 'agent', 'agent.sock'), path, query) as Promise<T>
  }

  /** Starts the agent again, as after a crash; another configuration if there are `args`. */
  async restart(args?: readonly string[]): Promise<void> {
    this.#agent.signal('SIGKILL')
    await this.#agent.exited
    if (args !== undefined) this.#options.args = args
    this.#agent = this.#spawn()
    await this.ready()
  }

  /** SIGTERM, and until it has ended. */
  stop(): Promise<void> {
    return this.#agent.stop(15_000)
  }

  /** Submits services of app `shop`, namespace `acme`, and waits until so many instances run. */
  async apply(microservices: readonly object[], running: number): Promise<void> {
    const application = { application_name: 'shop', application_namespace: 'acme', microservices }
    const file = `${this.state}.json`
    await writeFile(file, JSON.stringify({ sla_version: 'v2.0', customerID: 'Admin', applications: [application] }))
    await this.json('apply', '-f', file)
    await until(async () => {
      const rows = await this.json<Array<{ state: string }>>('get', 'instances')
      return rows.filter(({ state }) => state === 'running').length === running
    }, `${running} instances run`).catch((error: Error) => {
      throw new Error([error.message, ...this.#agent.lines.slice(-30)].join('\n'), { cause: error.cause })
    })
  }

  /** The IPv4 address of a name, which the agent now follows. */
  async vip(name: string): Promise<string> {
    return (await this.#ask<{ ipv4: string }>('/resolve', { name })).ipv4
  }

  /** Waits until flows to the name and port take this path. */
  async path(target: string, path: 'kernel' | 'user space'): Promise<string> {
    let what = ''
    await until(async () => {
      const { steps } = await this.#ask<{ steps: Array<{ step: string; what: string }> }>('/trace', { target })
      what = steps.find(({ step }) => step === 'fast path')?.what ?? ''
      return what.startsWith(path)
    }, `${target} takes the ${path} path`).catch((error: Error) => {
      throw new Error(`${error.message}: ${what}`)
    })
    return what
  }

  /** An HAProxy that answers from memory, and the addresses under which it is reached: its own, and its VIP. */
  async web(port = 9_100): Promise<{ direct: string; fast: string; pid: number }> {
    const file = `${this.state}.haproxy`
    await writeFile(
      file,
      `global\n  maxconn 4000\n  nbthread 1\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 1m\n  timeout server 1m\nfrontend web\n  bind 127.0.0.1:${port}\n  http-request return status 200 content-type text/plain string "hedgerow bench"\n`,
    )
    const haproxy = this.host.spawn(['haproxy', '-db', '-f', file])
    this.#life.defer(() => haproxy.stop())
    await this.apply(
      [
        {
          microservice_name: 'web',
          microservice_namespace: 'bench',
          virtualization: 'external',
          code: `127.0.0.1:${port}`,
          port: String(port),
        },
      ],
      1,
    )
    const name = 'shop.acme.web.bench.any.rr.local'
    const vip = await this.vip(name)
    await this.path(`${name}:${port}`, 'kernel')
    return { direct: `http://127.0.0.1:${port}/`, fast: `http://${vip}:${port}/`, pid: haproxy.pid }
  }

  /** The counters of the metrics page whose lines begin so, added up. */
  async metric(name: string, ...labels: string[]): Promise<number> {
    const { ops } = await this.#ask<{ ops: string }>('/status')
    const page = await this.host.text(['curl', '-s', `${ops}/metrics`])
    const lines = page
      .split('\n')
      .filter((line) => line.startsWith(name) && labels.every((label) => line.includes(label)))
    return lines.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' '))), 0)
  }

  async ready(): Promise<void> {
    await until(async () => {
      if (this.#agent.exit !== undefined) throw new Error(this.#agent.lines.join('\n'))
      return this.#agent.lines.some((line) => line.startsWith('HEDGEROW'))
    }, 'the agent is ready').catch((error: Error) => {
      throw new Error([error.message, ...this.#agent.lines.slice(-30)].join('\n'))
    })
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }

  #spawn(): Program {
    const { env, args = ['--fast-path'] } = this.#options
    const up = [
      'up',
      '--name',
      'n1',
      '--listen',
      '127.0.0.1:7470',
      '--mode',
      'host',
      '--upstream',
      '127.0.0.1:9',
      ...args,
    ]
    return this.host.spawn([...HEDGEROW, '--state', this.state, ...up], env === undefined ? {} : { env })
  }
}

export interface WebFigures {
  /** Requests a second, one figure a round. */
  direct: number[]
  fast: number[]
  /** Processor time of load generator and server for one request, in microseconds. */
  directCpu: number[]
  fastCpu: number[]
}

/** Requests over keep-alive connections, straight to the server and through the fast path, in turns. */
export async function compareWeb(
  machine: FastPathMachine,
  web: { direct: string; fast: string; pid: number },
  { rounds = 5, seconds = 3, connections = 64 }: { rounds?: number; seconds?: number; connections?: number } = {},
): Promise<WebFigures> {
  const figures: WebFigures = { direct: [], fast: [], directCpu: [], fastCpu: [] }
  for (let round = 0; round < rounds; round += 1) {
    const lanes = ['direct', 'fast'] as const
    for (const lane of round % 2 === 0 ? lanes : lanes.toReversed()) {
      const before = await cpuSeconds(web.pid)
      const wrk = ['wrk', '-t1', `-c${connections}`, `-d${seconds}s`, web[lane]]
      const timed = ['bash', '-c', 'TIMEFORMAT="cpu %U %S"; time "$@"', 'bash', ...wrk]
      const { stdout, stderr } = await machine.host.exec(timed, { timeoutMs: (seconds + 20) * 1_000 })
      const [, user, system] = /cpu ([\d.]+) ([\d.]+)/.exec(stderr) ?? []
      const spent = (await cpuSeconds(web.pid)) - before + Number(user) + Number(system)
      figures[lane].push(Number(/Requests\/sec: +([\d.]+)/.exec(stdout)?.[1]))
      figures[`${lane}Cpu`].push((spent / Number(/(\d+) requests in/.exec(stdout)?.[1])) * 1e6)
    }
  }
  return figures
}

const run = promisify(execFile)

async function cpuSeconds(pid: number): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8')
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  const { stdout } = await run('getconf', ['CLK_TCK'])
  return (Number(fields[11]) + Number(fields[12])) / Number(stdout)
}

async function until(attempt: () => Promise<boolean>, what: string): Promise<void> {
  const limit = Date.now() + READY_MS
  let last: unknown
  while (Date.now() < limit) {
    try {
      if (await attempt()) return
    } catch (error) {
      last = error
    }
    await sleep(100)
  }
  throw new Error(`not within ${READY_MS / 1_000} s: ${what}`, { cause: last })
}
