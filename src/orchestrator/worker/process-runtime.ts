import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { accessSync, close, constants, fchownSync, fstatSync, readFileSync, statSync } from 'node:fs'
import { delimiter, resolve } from 'node:path'
import { systemClock, type Clock } from '../../core/kit/clock.ts'
import { explain, MeshError } from '../../core/errors.ts'
import { bootId, descendants, endGroup, isAlive, signalGroup, statOf } from './process-group.ts'
import { isFree, PortPool } from './ports.ts'
import { environmentOf, programOf, type Program } from './program.ts'
import { Separation, type Own } from './separation.ts'
import { barrierFor, checkAccess } from './user-access.ts'
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
  /** What runs have to themselves; by default nothing. */
  separation?: Separation
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
  readonly #separation: Separation

  constructor({
    node,
    inherited = {},
    ports = new PortPool(),
    clock = systemClock,
    separation = Separation.none('not asked for'),
  }: ProcessOptions) {
    this.#node = node
    this.#inherited = inherited
    this.#ports = ports
    this.#clock = clock
    this.#separation = separation
  }

  async launch(launch: Launch): Promise<Running> {
    const endpoints = await this.#endpoints(launch)
    const run = randomBytes(8).toString('hex')
    let own: Own = {}
    try {
      own = this.#separation.take(run)
      const { assignment, environment: given } = launch
      const facts = { assignment, endpoints, node: this.#node, run, inherited: this.#inherited, given, own }
      const program = await programOf(assignment.spec, environmentOf(facts), own)
      launch.onTrace(traceOf(run, own)) // a crash from here on leaves something that carries the mark
      const started = await begin(program, launch, { run, own, setpriv: this.#separation.setpriv })
      return this.#running({ run, own, endpoints, ...started })
    } catch (error) {
      this.#release(endpoints)
      await this.#separation.release(own)
      throw error
    }
  }

  async adopt(launch: Launch, trace: Trace): Promise<Running | undefined> {
    const { run, boot, pid, startTime } = trace
    if (boot !== bootId() || typeof run !== 'string') return undefined // the machine was started again: nothing is left
    const own = this.#separation.keep(trace)
    if (typeof pid !== 'number' || typeof startTime !== 'number' || !isAlive(pid, startTime)) {
      await endGroup({ ...own, mark: run, graceMs: 0, sleep: (ms) => this.#clock.sleep(ms) })
      await this.#separation.release(own)
      return undefined
    }
    for (const port of launch.assignment.spec.ports) {
      const endpoint = launch.endpoints[endpointKey(port)]
      if (endpoint !== undefined && !launch.assignment.spec.fixedPorts) this.#ports.keep(port.protocol, endpoint.port)
    }
    launch.onTrace(trace)
    const watching = new AbortController()
    const exited = this.#watchAdopted(pid, startTime, watching.signal)
    return this.#running({
      pid,
      startTime,
      run,
      own,
      endpoints: launch.endpoints,
      exited,
      unref: () => watching.abort(),
    })
  }

  async tidy(traces: readonly Trace[]): Promise<void> {
    await this.#separation.tidy(traces, (ms) => this.#clock.sleep(ms))
  }

  /** A free port for each, the last one if it is still free; or the program's own, when it insists on them. */
  async #endpoints({ assignment: { spec }, endpoints }: Launch): Promise<Endpoints> {
    const found: Record<string, Endpoint> = {}
    for (const { port, protocol, target } of spec.ports) {
      const key = endpointKey({ port, protocol })
      if (spec.fixedPorts) this.#checkMayBind(protocol, target)
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

  /** @throws MeshError RUNTIME_FAILED for a port that is root's, when the instance is to have a user of its own */
  #checkMayBind(protocol: string, port: number): void {
    if (this.#separation.users === undefined || port >= firstUnprivilegedPort()) return
    throw new MeshError('RUNTIME_FAILED', {
      reason: `the instance's own user may not listen on ${protocol} port ${port}`,
      remedy: `Leave out fixed_port and listen on PORT, or permit it on this node: sysctl net.ipv4.ip_unprivileged_port_start=${port}, or agent.instanceUsers: agent.`,
    })
  }

  #release(endpoints: Endpoints): void {
    for (const [key, { port }] of Object.entries(endpoints))
      this.#ports.release(key.startsWith('udp') ? 'udp' : 'tcp', port)
  }

  #running({ pid, startTime, run, own, endpoints, exited, unref }: Group): Running {
    const { cgroup } = own
    const sleep = (ms: number) => this.#clock.sleep(ms)
    let isOurs = true
    let leaving: Promise<void> | undefined
    const leave = (graceMs: number) => {
      leaving ??= endGroup({ leader: pid, mark: run, ...own, graceMs, sleep }).finally(() => {
        isOurs = false // the group is empty: its number may be given to somebody else
      })
      return leaving
    }
    // Whatever the program left behind would hold its ports, and is nobody's once the leader is gone.
    const ended = exited.then(async (how) => {
      if (isOurs) await leave(LEFT_BEHIND_MS)
      this.#release(endpoints)
      await this.#separation.release(own)
      return how
    })
    return {
      endpoints,
      pid,
      ended,
      isWhole: cgroup !== undefined,
      pids: () => cgroup?.pids() ?? (isAlive(pid, startTime) ? descendants(pid) : []),
      stop: async (graceMs) => {
        await leave(graceMs)
        await ended
      },
      kill: () => {
        if (isOurs) signalGroup(pid, 'SIGKILL')
        if (isOurs) cgroup?.kill()
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
  own: Own
  endpoints: Endpoints
  exited: Promise<Ended>
  unref: () => void
}

function traceOf(run: string, { uid, cgroup }: Own): Trace {
  return {
    run,
    boot: bootId(),
    ...(uid === undefined ? {} : { uid }),
    ...(cgroup === undefined ? {} : { cgroup: cgroup.path }),
  }
}

/** Below it only root may listen. */
function firstUnprivilegedPort(): number {
  try {
    return Number(readFileSync('/proc/sys/net/ipv4/ip_unprivileged_port_start', 'latin1'))
  } catch {
    return 1_024
  }
}

/**
 * Node raises its soft limit of open files to the hard one, and children inherit that. Programs get the usual limit: some close every
 * descriptor they may have, and select(2) breaks beyond 1,024.
 */
const OPEN_FILES = 1_024
/** Waits until it is in its control group, and does nothing if the agent ends before. */
const STARTED = 'read -r go || exit 125; ulimit -Sn "$0" 2>/dev/null; exec "$@" < /dev/null'

/** Where the program is, as the shell looks for it; `undefined` where it is not, and then spawn says so. */
function fileOf(file: string, { cwd, path }: { cwd: string; path: string }, uid: number | undefined) {
  const candidates = file.includes('/')
    ? [resolve(cwd, file)]
    : path.split(delimiter).map((dir) => resolve(cwd, dir, file))
  const found = candidates.filter((candidate) => {
    try {
      accessSync(candidate, constants.X_OK)
      return statSync(candidate).isFile()
    } catch {
      return false
    }
  })
  return found.find((candidate) => uid === undefined || barrierFor(uid, candidate) === undefined) ?? found[0]
}

interface Start {
  run: string
  own: Own
  setpriv: string | undefined
}

async function begin(
  { argv: [file, ...args], cwd, environment, openFiles = OPEN_FILES }: Program,
  { output, onTrace }: Launch,
  { run, own, setpriv }: Start,
): Promise<Omit<Group, 'run' | 'own' | 'endpoints'>> {
  const { uid, cgroup } = own
  const found = fileOf(file, { cwd, path: environment['PATH'] ?? '' }, uid)
  if (found !== undefined && uid !== undefined) await checkAccess(uid, found, 'execute')
  const fd = await output()
  try {
    const wrapped =
      uid === undefined || setpriv === undefined ? [file, ...args] : [setpriv, '--no-new-privs', file, ...args]
    const [program, argv] =
      found === undefined ? [file, args] : ['/bin/sh', ['-c', STARTED, String(openFiles), ...wrapped]]
    if (uid !== undefined) giveOutput(fd, uid)
    // `detached` is setsid(2): a session and group of its own. With a uid Node also drops all other groups (setgroups).
    const user = uid === undefined ? {} : { uid, gid: uid }
    const child = spawn(program, argv, { cwd, env: environment, detached: true, stdio: ['pipe', fd, fd], ...user })
    const exited = new Promise<Ended>((resolve) => child.once('exit', (code, signal) => resolve(endedBy(code, signal))))
    const { pid } = child
    const startTime = pid === undefined ? 0 : (statOf(pid)?.startTime ?? 0)
    if (pid !== undefined) {
      onTrace({ ...traceOf(run, own), pid, startTime })
      cgroup?.add(pid)
    }
    child.stdin?.on('error', () => undefined) // it has ended already
    child.stdin?.end('\n')
    await once(child, 'spawn')
    return { pid: pid as number, startTime, exited, unref: () => child.unref() }
  } catch (error) {
    throw new MeshError('RUNTIME_FAILED', { reason: whyNot(error, file), program: file }, { cause: error })
  } finally {
    close(fd, () => undefined)
  }
}

/** Programs open /dev/stdout anew: that is permitted to the owner of the pipe. */
function giveOutput(fd: number, uid: number): void {
  if (fstatSync(fd).isFIFO()) fchownSync(fd, uid, uid)
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
