import { execFileSync } from 'node:child_process'
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import PQueue from 'p-queue'
import { Lifetime } from '../../../src/core/kit/lifetime.ts'
import { Program, text } from '../../../src/lab/program.ts'
import { CLUSTER, LabMesh, type LabMeshOptions, until } from '../lab-mesh.ts'
import type { Calls, Pace, Samples } from './load.ts'

/**
 * Six machines: a client that calls by a semantic name, and what it calls on others.
 *
 *     client ──┐                      ┌── one ──── instance
 *              ├────[ internet ]──────┼── two ──── instance
 *     root ────┤                      └── three    (room for what is placed again)
 *     edge ────┘  the cluster
 *
 * The state directories of all of them are on one small disk, which can be filled.
 */
export const CLIENT = 'client'
export const SERVERS = ['one', 'two', 'three'] as const
export const APP = 'shop'
const SERVICE = 'target'
const NAME = `${APP}.bench.${SERVICE}.bench.any.rr.local`
const PORT = 8_080
const DISK = 'disk'
const DISK_MIB = 256
const AT_ONCE = 2

/** Answers with what it is. Ends by itself with `VERSION=bad`. */
const PROGRAM = `
const { HEDGEROW_INSTANCE, PORT, HOST, VERSION } = process.env
if (VERSION === 'bad') process.exit(1)
const answer = HEDGEROW_INSTANCE + ' ' + VERSION + ' ' + process.pid + '\\n'
require('http').createServer((request, response) => response.end(answer)).listen(PORT, HOST)`

export interface Deployment {
  replicas: number
  /** `bad` ends as soon as it is started. */
  version: string
  /** The check of the document; the default one without it. */
  check?: object
}

export interface InstanceRow {
  id: string
  state: string
  node?: string
}

/** The first instance that is called. */
export interface Victim {
  id: string
  /** As its host is called. */
  node: string
  pid: number
}

export class FailureWorld extends LabMesh {
  #versions = 0

  static start(options: Omit<LabMeshOptions, 'lab' | 'env'>): Promise<FailureWorld> {
    const { say } = options
    const nodes = [CLIENT, ...SERVERS]
    return Lifetime.open(async (life) => {
      const env: Record<string, NodeJS.ProcessEnv> = {}
      const all = { ...options, env, lab: { publics: nodes } }
      const net = await LabMesh.lab(life, all)
      const preload = `--import=${join(import.meta.dirname, 'step-clock.ts')}`
      for (const role of ['root', CLUSTER, ...nodes]) {
        env[role] = { NODE_OPTIONS: preload, CLOCK_STEP_FILE: join(net.dir, `clock-${role}`) }
      }
      const world = new FailureWorld(life, net, all)
      world.#mountDisk()
      say('root and cluster')
      await world.startRoot()
      await world.startCluster(await world.token('cluster'))
      const starting = new PQueue({ concurrency: AT_ONCE })
      const start = async (node: string) => {
        say(`node ${node}`)
        await world.startAgent(node, await world.token('node'))
      }
      await starting.addAll(nodes.map((node) => () => start(node)))
      return world
    })
  }

  /** Of a file beside the small disk. */
  path(name: string): string {
    return join(this.dir, name)
  }

  override state(name: string): string {
    return join(this.dir, DISK, name)
  }

  // ── what is called ──

  /** Of a good program, which no other fault is about. */
  nextVersion(): string {
    this.#versions += 1
    return `good${this.#versions}`
  }

  /** Submits the service; resolves when the root has it. */
  async apply({ replicas, version, check }: Deployment): Promise<void> {
    const service = {
      microservice_name: SERVICE,
      microservice_namespace: 'bench',
      virtualization: 'process',
      cmd: [process.execPath, '-e', PROGRAM],
      environment: [`VERSION=${version}`],
      code: '',
      port: String(PORT),
      replicas,
      constraints: [{ type: 'direct', cluster: CLUSTER, node: SERVERS.join(';') }],
      ...(check === undefined ? {} : { check }),
    }
    await this.applyApp(APP, [service])
  }

  async applyApp(app: string, microservices: readonly object[]): Promise<void> {
    const file = join(this.dir, `${app}.json`)
    const application = { applicationID: '', application_name: app, application_namespace: 'bench', microservices }
    writeFileSync(file, JSON.stringify({ sla_version: 'v2.0', customerID: 'Admin', applications: [application] }))
    await this.cli(['apply', '-f', file])
  }

  async instances(app = APP): Promise<InstanceRow[]> {
    const rows = JSON.parse(await this.cli(['get', 'instances', `${app}.`, '-o', 'json'])) as InstanceRow[]
    return rows.toSorted((a, b) => (a.id < b.id ? -1 : 1))
  }

  /** Resolves when exactly so many instances run, and nothing else is left of the app. */
  running(app: string, count: number): Promise<void> {
    return until(async () => {
      const rows = await this.instances(app)
      return rows.length === count && rows.every(({ state }) => state === 'running')
    }, `${count} instances of ${app} run`)
  }

  /** Resolves when so many processes of this version run, no other version does, and the root says the same. */
  async serves(version: string, count: number): Promise<void> {
    await until(async () => {
      const processes = await this.#processes()
      return processes.length === count && processes.every((one) => one.version === version)
    }, `${count} processes of ${version} run`)
    await this.running(APP, count)
  }

  /** Resolves when no instance runs on the node any more. */
  isEmpty(node: string): Promise<void> {
    return until(async () => (await this.#processes()).every((one) => one.node !== node), `no instance runs on ${node}`)
  }

  /** The first instance: where it is, and its process. */
  async victim(): Promise<Victim> {
    const [first] = (await this.#processes()).toSorted((a, b) => (a.id < b.id ? -1 : 1))
    if (first === undefined) throw new Error('no instance runs')
    return first
  }

  async #processes(): Promise<(Victim & { version: string })[]> {
    const all = await Promise.all(
      SERVERS.map(async (node) => {
        const pids = await text(['ip', 'netns', 'pids', this.lab.host(node).namespace])
        return pids.split('\n').flatMap((pid) => {
          const { HEDGEROW_INSTANCE: id, VERSION: version } = environmentOf(pid)
          return id === undefined || version === undefined ? [] : [{ id, node, pid: Number(pid), version }]
        })
      }),
    )
    return all.flat()
  }

  /** The client's requests, from now until the function returned is called. */
  async load(pace: Pace): Promise<() => Promise<Samples>> {
    const { resolver: server } = await this.status(CLIENT)
    const calls: Calls = { ...pace, name: NAME, port: PORT, server }
    const argv = [process.execPath, join(import.meta.dirname, 'load.ts'), JSON.stringify(calls)]
    const program = this.life.use(Program.start(this.lab.host(CLIENT).argv(argv), { env: this.env }))
    await until(async () => program.lines.includes('started'), 'the client has started')
    return async () => {
      program.signal('SIGTERM')
      const how = await program.exited
      const last = program.lines.at(-1) ?? ''
      if (!last.startsWith('{')) throw new Error(`the client ended with ${how}: ${last}`)
      return JSON.parse(last) as Samples
    }
  }

  // ── what happens to the machines ──

  /** SIGKILL for a role; what it started lives on. */
  async kill(host: string): Promise<void> {
    this.program(host).signal('SIGKILL')
    await this.program(host).exited
  }

  /** All processes of a machine at once, and no packet tells anybody. */
  async losePower(host: string): Promise<void> {
    await this.lab.host(host).lose()
  }

  async powerOn(host: string): Promise<void> {
    await this.lab.host(host).heal()
    await this.startAgent(host)
  }

  /** The wall clock of a role, from the true time. */
  setClock(host: string, stepMs: number): void {
    writeFileSync(join(this.dir, `clock-${host}`), String(stepMs))
  }

  /** Until what it returns is called, not a byte can be written in any state directory. */
  fillDisk(): () => void {
    const path = join(this.dir, DISK, 'filler')
    for (const size of [1 << 20, 65_536, 4_096, 512, 1]) {
      try {
        for (;;) writeFileSync(path, Buffer.alloc(size), { flag: 'a' })
      } catch {
        // this size no longer fits
      }
    }
    return () => rmSync(path)
  }

  #mountDisk(): void {
    const dir = join(this.dir, DISK)
    mkdirSync(dir)
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${DISK_MIB}m`, 'tmpfs', dir])
  }
}

/** Empty for a process that has ended. */
function environmentOf(pid: string): Record<string, string | undefined> {
  try {
    const entries = readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0')
    return Object.fromEntries(
      entries.map((entry) => [entry.split('=', 1)[0] ?? '', entry.slice(entry.indexOf('=') + 1)]),
    )
  } catch {
    return {}
  }
}
