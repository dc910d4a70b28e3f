import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { accessSync, close, constants, statSync } from 'node:fs'
import { delimiter, resolve } from 'node:path'
import { systemClock, type Clock } from '../../core/kit/clock.ts'
import { explain, MeshError } from '../../core/errors.ts'
import { bootId, descendants, endGroup, isAlive, signalGroup, statOf } from './process-group.ts'
import { isFree, PortPool } from './ports.ts'
import { environmentOf, programOf, type Program } from './program.ts'
import {
  endpointKey,
  type Ended,
  type Endpoint,
  type Endpoints,
  type Launch,
  type Running,
  type Runtime,
  type Trace,
} from './runtime.ts'

export interface ProcessOptions {
  /** The node's id, for HEDGEROW_NODE. */
  node: string
  /** The host's environment, of which a few variables are kept; without a PATH, the usual one. */
  inherited?: Readonly<Record<string, string | undefined>>
  ports?: PortPool
  clock?: Clock
}

/** How often an adopted process is looked for: it is not our child, so nobody tells us when it ends. */
const ADOPTED_LOOK_MS = 250
/** What outlives its leader gets this long to end. */
const LEFT_BEHIND_MS = 1_000

/**
 * Runs programs of this node as process groups of their own. Memory and CPU are counted by the scheduler, not limited.
 * An instance outlives a crash of the agent and is adopted by the next one.
 */
export class ProcessRuntime implements Runtime {
  readonly name = 'process'
  readonly #node: string
  readonly #inherited: Readonly<Record<string, string | undefined>>
  readonly #ports: PortPool
  readonly #clock: Clock

  constructor({ node, inherited = {}, ports = new PortPool(), clock = systemClock }: ProcessOptions) {
    this.#node = node
    this.#inherited = inherited
    this.#ports = ports
    this.#clock = clock
  }

  async launch(launch: Launch): Promise<Running> {
    const endpoints = await this.#endpoints(launch)
    try {
      const run = randomBytes(8).toString('hex')
      const { assignment, environment: given } = launch
      const environment = environmentOf({
        assignment,
        endpoints,
        node: this.#node,
        run,
        inherited: this.#inherited,
        given,
      })
      const program = await programOf(assignment.spec, environment)
      launch.onTrace({ run, boot: bootId() }) // a crash from here on leaves something that carries the mark
      return this.#running({ run, endpoints, ...(await begin(program, launch, run)) })
    } catch (error) {
      this.#release(endpoints)
      throw error
    }
  }

  async adopt(launch: Launch, trace: Trace): Promise<Running | undefined> {
    const { run, boot, pid, startTime } = trace
    if (boot !== bootId() || typeof run !== 'string') return undefined // the machine was started again: nothing is left
    if (typeof pid !== 'number' || typeof startTime !== 'number' || !isAlive(pid, startTime)) {
      await endGroup({ leader: undefined, mark: run, graceMs: 0, sleep: (ms) => this.#clock.sleep(ms) })
      return undefined
    }
    for (const port of launch.assignment.spec.ports) {
      const endpoint = launch.endpoints[endpointKey(port)]
      if (endpoint !== undefined && !launch.assignment.spec.fixedPorts) this.#ports.keep(port.protocol, endpoint.port)
    }
    launch.onTrace(trace)
    const watching = new AbortController()
    const exited = this.#watchAdopted(pid, startTime, watching.signal)
    return this.#running({ pid, startTime, run, endpoints: launch.endpoints, exited, unref: () => watching.abort() })
  }

  /** A free port for each, the last one if it is still free; or the program's own, when it insists on them. */
  async #endpoints({ assignment: { spec }, endpoints }: Launch): Promise<Endpoints> {
    const found: Record<string, Endpoint> = {}
    for (const { port, protocol, target } of spec.ports) {
      const key = endpointKey({ port, protocol })
      if (!spec.fixedPorts) {
        // tcp 53 and udp 53 are one number for the program, too, where it is to be had
        const beside = found[endpointKey({ port, protocol: protocol === 'tcp' ? 'udp' : 'tcp' })]
        const preferred = endpoints[key]?.port ?? beside?.port
        found[key] = { host: '127.0.0.1', port: await this.#ports.take(protocol, preferred) }
      } else if (await isFree(protocol, target)) found[key] = { host: '127.0.0.1', port: target }
      else throw new MeshError('RUNTIME_FAILED', { reason: `${protocol} port ${target} is taken on this node` })
    }
    return found
  }

  #release(endpoints: Endpoints): void {
    for (const [key, { port }] of Object.entries(endpoints))
      this.#ports.release(key.startsWith('udp') ? 'udp' : 'tcp', port)
  }

  #running({ pid, startTime, run, endpoints, exited, unref }: Group): Running {
    const sleep = (ms: number) => this.#clock.sleep(ms)
    let isOurs = true
    let leaving: Promise<void> | undefined
    const leave = (graceMs: number) => {
      leaving ??= endGroup({ leader: pid, mark: run, graceMs, sleep }).finally(() => {
        isOurs = false // the group is empty: its number may be given to somebody else
      })
      return leaving
    }
    // Whatever the program left behind would hold its ports, and is nobody's once the leader is gone.
    const ended = exited.then(async (how) => {
      if (isOurs) await leave(LEFT_BEHIND_MS)
      this.#release(endpoints)
      return how
    })
    return {
      endpoints,
      pid,
      ended,
      pids: () => (isAlive(pid, startTime) ? descendants(pid) : []),
      stop: async (graceMs) => {
        await leave(graceMs)
        await ended
      },
      kill: () => {
        if (isOurs) signalGroup(pid, 'SIGKILL')
      },
      letGo: () => {
        isOurs = false
        unref()
      },
    }
  }

  /** Never settles when it is aborted: then another agent watches. */
  async #watchAdopted(pid: number, startTime: number, signal: AbortSignal): Promise<Ended> {
    while (!signal.aborted && isAlive(pid, startTime)) await this.#clock.sleep(ADOPTED_LOOK_MS, signal)
    if (signal.aborted) return new Promise(() => undefined)
    return { detail: 'ended; the exit code is not known, because the agent was restarted meanwhile' }
  }
}

interface Group {
  pid: number
  startTime: number
  run: string
  endpoints: Endpoints
  exited: Promise<Ended>
  unref: () => void
}

/**
 * Node raises its soft limit of open files to the hard one, and children inherit that. Programs get the usual limit: some close every
 * descriptor they may have, and select(2) breaks beyond 1,024.
 */
const OPEN_FILES = 1_024
const LIMITED = 'ulimit -Sn "$0" 2>/dev/null; exec "$@"'

function isExecutable(file: string, { cwd, path }: { cwd: string; path: string }): boolean {
  const candidates = file.includes('/')
    ? [resolve(cwd, file)]
    : path.split(delimiter).map((dir) => resolve(cwd, dir, file))
  return candidates.some((candidate) => {
    try {
      accessSync(candidate, constants.X_OK)
      return statSync(candidate).isFile()
    } catch {
      return false
    }
  })
}

async function begin(
  { argv: [file, ...args], cwd, environment, openFiles = OPEN_FILES }: Program,
  { output, onTrace }: Launch,
  run: string,
): Promise<Omit<Group, 'run' | 'endpoints'>> {
  const fd = await output()
  try {
    const [program, argv] = isExecutable(file, { cwd, path: environment['PATH'] ?? '' })
      ? ['/bin/sh', ['-c', LIMITED, String(openFiles), file, ...args]]
      : [file, args] // the error of spawn says what is wrong
    // `detached` is setsid(2): a session and group of its own.
    const child = spawn(program, argv, { cwd, env: environment, detached: true, stdio: ['ignore', fd, fd] })
    const exited = new Promise<Ended>((resolve) => child.once('exit', (code, signal) => resolve(endedBy(code, signal))))
    const { pid } = child
    const startTime = pid === undefined ? 0 : (statOf(pid)?.startTime ?? 0)
    if (pid !== undefined) onTrace({ run, boot: bootId(), pid, startTime })
    await once(child, 'spawn')
    return { pid: pid as number, startTime, exited, unref: () => child.unref() }
  } catch (error) {
    throw new MeshError('RUNTIME_FAILED', { reason: whyNot(error, file), program: file }, { cause: error })
  } finally {
    close(fd, () => undefined)
  }
}

function whyNot(error: unknown, file: string): string {
  const { code } = error as NodeJS.ErrnoException
  if (code === 'ENOENT') return `${file} is not on this node`
  return code === 'EACCES' ? `${file} may not be executed` : explain(error)
}

function endedBy(code: number | null, signal: NodeJS.Signals | null): Ended {
  if (code !== null) return { code, detail: `exited with code ${code}` }
  return { detail: `ended by ${signal ?? 'a signal'}` }
}
