import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import type { Controller } from '../../core/kit/cgroup-controls.ts'
import { systemClock, type Clock } from '../../core/kit/clock.ts'
import { inStep } from '../../core/kit/in-step.ts'
import { explain, MeshError } from '../../core/errors.ts'
import { egressRules } from '../../core/model/egress.ts'
import type { Assignment, ServiceSpec } from '../spec.ts'
import { bootId, descendants, endGroup, isAlive, isInUse, signalGroup } from './process-group.ts'
import { execBeside, type Circumstances } from './exec-process.ts'
import { limitsOf, unheldText, withMemory } from './limits.ts'
import { refusalOfPorts } from './host-ports.ts'
import { filesOf, secretsOfFolder } from './instance-files.ts'
import { namedInTmp } from './own-mounts.ts'
import { isFree, PortPool } from './ports.ts'
import type { ProgramGuard } from './program-guard.ts'
import { environmentOf, programOf } from './program.ts'
import {
  endpointKey,
  type Ended,
  type Endpoint,
  type Endpoints,
  type Launch,
  type Running,
  type Runtime,
  type RuntimeVolumes,
  type Trace,
} from './runtime.ts'
import { Separation, type Own } from './separation.ts'
import { begin, type Started, traceOf } from './start-process.ts'
import { usageOfProcesses } from './usage.ts'

export interface ProcessOptions {
  /** The node's id, for HEDGEROW_NODE. */
  node: string
  /** The host's environment, of which a few variables are kept; without a PATH, the usual one. */
  inherited?: Readonly<Record<string, string | undefined>>
  ports?: PortPool
  clock?: Clock
  /** What runs have to themselves; by default nothing. */
  separation?: Separation
  /** The ports of this machine that documents may ask for, `first-last`, or `off`. */
  hostPorts?: string
  /** Keeps the rules for programs that stay in the mesh; absent: there can be none. */
  guard?: ProgramGuard | undefined
}

/** Controllers that hold a program to its document. */
const LIMITS: readonly Controller[] = ['memory', 'cpu', 'pids']
/** How often an adopted process is looked for: it is not our child, so nobody tells us when it ends. */
const ADOPTED_LOOK_MS = 250
/** Of so many looks one asks who has the number, which costs ten times as much. Larger: one who got it meanwhile is noticed later. */
const LOOKS_A_STAT = 4
/** What outlives its leader gets this long to end. */
const LEFT_BEHIND_MS = 1_000

/**
 * Runs programs of this node as process groups of their own, held to the limits of their documents where they have control groups.
 * An instance outlives a crash of the agent and is adopted by the next one.
 */
export class ProcessRuntime implements Runtime {
  readonly name = 'process'
  readonly #node: string
  readonly #inherited: Readonly<Record<string, string | undefined>>
  readonly #ports: PortPool
  readonly #clock: Clock
  readonly #separation: Separation
  readonly #hostPorts: string
  readonly #guard: ProgramGuard | undefined

  constructor({
    node,
    inherited = {},
    ports = new PortPool(),
    clock = systemClock,
    separation = Separation.none('not asked for'),
    hostPorts = 'off',
    guard,
  }: ProcessOptions) {
    this.#guard = guard
    this.#hostPorts = hostPorts
    this.#node = node
    this.#inherited = inherited
    this.#ports = ports
    this.#clock = clock
    this.#separation = separation
  }

  get volumes(): RuntimeVolumes | undefined {
    return this.#separation.volumes
  }

  refuses({ ports, egress }: ServiceSpec): string | undefined {
    const whyOpen = egress === undefined ? undefined : this.#whyOpen()
    if (whyOpen !== undefined) return `egress of programs cannot be kept on this node: ${whyOpen}`
    return refusalOfPorts(ports, this.#hostPorts)
  }

  /** Why nothing keeps a program in the mesh; `undefined`: something does. */
  #whyOpen(): string | undefined {
    if (this.#separation.users === undefined)
      return `they have no users of their own (${this.#separation.reason ?? 'not asked for'})`
    return this.#guard === undefined ? 'there are no rules for them' : this.#guard.reason
  }

  async launch(launch: Launch): Promise<Running> {
    const endpoints = await this.#endpoints(launch)
    const run = randomBytes(8).toString('hex')
    let own: Own = {}
    try {
      own = await this.#separation.take(run)
      const { assignment, environment: given } = launch
      const values = await launch.secrets()
      const { spec } = assignment
      if (spec.isolation !== 'none' && namedInTmp(spec) === undefined) own = this.#separation.withOwnTmp(own)
      own = this.#separation.give(run, own, { secrets: secretsOfFolder(spec, values), files: filesOf(spec, values) })
      own = await this.#separation.giveVolumes(own, spec)
      if (spec.egress !== undefined) await this.#close(assignment, own)
      const facts = { assignment, endpoints, node: this.#node, run, inherited: this.#inherited, given, own }
      const program = await programOf(assignment.spec, environmentOf(facts), own)
      launch.onTrace(traceOf(run, own)) // a crash from here on leaves something that carries the mark
      const unheld = own.cgroup?.limit(limitsOf(assignment.spec)) ?? LIMITS
      const shortcoming = this.#shortcoming(assignment.spec, unheld)
      const started = await begin(program, launch, { run, own, setpriv: this.#separation.setpriv })
      return this.#running({ run, own, endpoints, spec: assignment.spec, known: program, shortcoming, ...started })
    } catch (error) {
      this.#release(endpoints)
      // a shell that could not be moved into its group still waits to be told to go on
      await endGroup({ ...own, mark: run, graceMs: 0, sleep: (ms) => this.#clock.sleep(ms) })
      await this.#free(own)
      throw error
    }
  }

  /** Keeps a program in the mesh, before it starts. @throws MeshError RUNTIME_FAILED */
  async #close({ instance, spec }: Assignment, { uid }: Own): Promise<void> {
    const whyOpen = this.#whyOpen()
    if (uid === undefined || this.#guard === undefined || whyOpen !== undefined)
      throw new MeshError('RUNTIME_FAILED', {
        reason: `egress of programs cannot be kept on this node: ${whyOpen ?? 'it has no user of its own'}`,
      })
    try {
      await this.#guard.admit({ uid, instance, egressTo: egressRules(spec.egressTo) })
    } catch (cause) {
      throw new MeshError(
        'RUNTIME_FAILED',
        { reason: `the rules for its egress cannot be set: ${explain(cause)}` },
        { cause },
      )
    }
  }

  /** Nothing of the run is left. */
  async #free(own: Own): Promise<void> {
    if (own.uid !== undefined) await this.#guard?.release(own.uid)
    await this.#separation.release(own)
  }

  async adopt(launch: Launch, trace: Trace): Promise<Running | undefined> {
    const { run, boot, pid, startTime } = trace
    if (boot !== bootId() || typeof run !== 'string') return undefined // the machine was started again: nothing is left
    const own = this.#separation.keep(trace)
    if (typeof pid !== 'number' || typeof startTime !== 'number' || !isAlive(pid, startTime)) {
      await endGroup({ ...own, mark: run, graceMs: 0, sleep: (ms) => this.#clock.sleep(ms) })
      await this.#free(own)
      return undefined
    }
    const { instance, spec } = launch.assignment
    if (spec.egress !== undefined && own.uid !== undefined)
      this.#guard?.adopt({ uid: own.uid, instance, egressTo: egressRules(spec.egressTo) })
    for (const port of launch.assignment.spec.ports) {
      const endpoint = launch.endpoints[endpointKey(port)]
      const isGiven = !launch.assignment.spec.fixedPorts && port.hostPort === undefined
      if (endpoint !== undefined && isGiven) this.#ports.keep(port.protocol, endpoint.port)
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
      spec: launch.assignment.spec,
      killsBefore: own.cgroup?.usage()?.oomKills,
      shortcoming: this.#shortcoming(
        launch.assignment.spec,
        LIMITS.filter((name) => own.cgroup?.controls[name] === undefined),
      ),
      exited,
      unref: () => watching.abort(),
    })
  }

  async tidy(traces: readonly Trace[]): Promise<void> {
    await this.#separation.tidy(traces, (ms) => this.#clock.sleep(ms))
    await this.#guard?.begin()
  }

  /** A free port for each, the last one if it is still free; or the program's own, when it insists on them. */
  async #endpoints({ assignment: { spec }, endpoints }: Launch): Promise<Endpoints> {
    const found: Record<string, Endpoint> = {}
    for (const { port, protocol, target, hostPort } of spec.ports) {
      const key = endpointKey({ port, protocol })
      const own = hostPort ?? (spec.fixedPorts ? target : undefined)
      if (own !== undefined) this.#checkMayBind(protocol, own)
      if (own === undefined) {
        // tcp 53 and udp 53 are one number for the program, too, where it is to be had
        const beside = found[endpointKey({ port, protocol: protocol === 'tcp' ? 'udp' : 'tcp' })]
        const preferred = endpoints[key]?.port ?? beside?.port
        found[key] = { host: '127.0.0.1', port: await this.#ports.take(protocol, preferred) }
      } else if (await isFree(protocol, own, hostPort === undefined ? '127.0.0.1' : '0.0.0.0')) {
        found[key] = { host: '127.0.0.1', port: own }
      } else {
        const what = hostPort === undefined ? `${protocol} port ${own}` : `host_port ${own}/${protocol}`
        throw new MeshError('RUNTIME_FAILED', { reason: `${what} is taken on this node` })
      }
    }
    return found
  }

  /** @throws MeshError RUNTIME_FAILED for a port that is root's, when the instance is to have a user of its own */
  #checkMayBind(protocol: string, port: number): void {
    if (this.#separation.users === undefined || port >= firstUnprivilegedPort()) return
    throw new MeshError('RUNTIME_FAILED', {
      reason: `the instance's own user may not listen on ${protocol} port ${port} (leave out fixed_port and host_port and listen on PORT, or permit it on this node: sysctl net.ipv4.ip_unprivileged_port_start=${port}, or agent.instanceUsers: agent)`,
    })
  }

  #shortcoming(spec: ServiceSpec, unheld: readonly Controller[]): string | undefined {
    return unheldText(spec, unheld, this.#separation.limitReason)
  }

  #release(endpoints: Endpoints): void {
    for (const [key, { port }] of Object.entries(endpoints))
      this.#ports.release(key.startsWith('udp') ? 'udp' : 'tcp', port)
  }

  #running(group: Group): Running {
    const { pid, startTime, run, own, endpoints, spec, known, shortcoming, killsBefore = 0, exited, unref } = group
    const { cgroup } = own
    const sleep = (ms: number) => this.#clock.sleep(ms)
    let isOurs = true
    let isLetGo = false
    let isAsked = false
    let { memoryMb } = spec
    const pids = () => cgroup?.pids() ?? (isAlive(pid, startTime) ? descendants(pid) : [])
    let leaving: Promise<void> | undefined
    const leave = (graceMs: number) => {
      leaving ??= endGroup({ leader: pid, mark: run, ...own, graceMs, sleep }).finally(() => {
        isOurs = false // the group is empty: its number may be given to somebody else
      })
      return leaving
    }
    // Whatever the program left behind would hold its ports, and is nobody's once the leader is gone.
    const ended = exited.then(async (how) => {
      const usage = cgroup?.usage()
      if (isOurs) await leave(LEFT_BEHIND_MS)
      this.#release(endpoints)
      if (!isLetGo) await this.#free(own)
      const kills = (usage?.oomKills ?? 0) - killsBefore
      return { ...(isAsked ? how : withMemory(how, kills, memoryMb)), usage }
    })
    return {
      endpoints,
      pid,
      ended,
      isWhole: cgroup !== undefined,
      shortcoming,
      pids,
      usage: async () => cgroup?.usage() ?? usageOfProcesses(pids()),
      exec: (cmd) => {
        const { setpriv, mountTools } = this.#separation
        return execBeside({ pid, known, own, setpriv, mountTools, openFiles: spec.openFiles }, cmd)
      },
      adapt: (changed) => {
        memoryMb = changed.memoryMb
        cgroup?.limit(limitsOf(changed))
      },
      stop: async (graceMs) => {
        isAsked = true
        await leave(graceMs)
        await ended
      },
      kill: () => {
        if (isOurs) signalGroup(pid, 'SIGKILL')
        if (isOurs) cgroup?.kill()
      },
      letGo: () => {
        isOurs = false
        isLetGo = true
        unref()
      },
    }
  }

  /** Never settles when it is aborted: then another agent watches. */
  async #watchAdopted(pid: number, startTime: number, signal: AbortSignal): Promise<Ended> {
    for (let look = 0; !signal.aborted; look++) {
      if (!(look % LOOKS_A_STAT === 0 ? isAlive(pid, startTime) : isInUse(pid))) break
      await this.#clock.sleep(inStep(this.#clock.now(), ADOPTED_LOOK_MS), signal)
    }
    if (signal.aborted) return new Promise(() => undefined)
    return { detail: 'ended; the exit code is not known, because the agent was restarted meanwhile' }
  }
}

interface Group extends Started {
  run: string
  own: Own
  endpoints: Endpoints
  spec: ServiceSpec
  /** Absent when it was adopted. */
  known?: Circumstances
  shortcoming: string | undefined
  /** For want of memory, under an earlier agent. */
  killsBefore?: number | undefined
}

/** Below it only root may listen. */
function firstUnprivilegedPort(): number {
  try {
    return Number(readFileSync('/proc/sys/net/ipv4/ip_unprivileged_port_start', 'latin1'))
  } catch {
    return 1_024
  }
}
