import type { Readable, Writable } from 'node:stream'
import type { Assignment, PortSpec, SecretValue, ServiceSpec } from '../spec.ts'
import type { GroupUsage } from '../../core/kit/cgroup-controls.ts'

/** Where a service port of an instance really is, on or from this node. */
export interface Endpoint {
  host: string
  port: number
  /** A program of another network namespace, to which the VIPs of this node are known: it may be called from them. */
  seesVips?: boolean
}

/** By `endpointKey` of the service port. Plain JSON. */
export type Endpoints = Readonly<Record<string, Endpoint>>

/** What a run uses, by the kernel or the engine; counters are since its start. */
export type Usage = GroupUsage

/** How an instance ended by itself. */
export interface Ended {
  /** Absent when it is not known, or when a signal ended it. */
  code?: number
  /** What ended it, when that was a signal. */
  signal?: string
  /** It did not end: it is a job that takes longer than it may, and is ended for that. */
  isOverdue?: boolean
  /** It did not end: it no longer answers, and is ended for that. */
  isHung?: boolean
  /** For people: `exited with code 1`. */
  detail: string
  /** What it had used by then, where that is known. */
  usage?: Usage | undefined
}

/** What a runtime needs to find an instance again after the agent was restarted. Plain JSON, written down. */
export type Trace = Readonly<Record<string, string | number>>

export interface Launch {
  assignment: Assignment
  /** Those of the last run: kept where possible, so that an instance comes back where it was. */
  endpoints: Endpoints
  /** For the program, beside what the runtime sets itself. */
  environment: Readonly<Record<string, string>>
  /** A descriptor for the program's output; belongs to the launch and is closed by the runtime. */
  output: () => Promise<number>
  /** Those that its document names. @throws MeshError SECRET_UNKNOWN */
  secrets: () => Promise<readonly SecretValue[]>
  /** Called in the same turn in which something begins to exist that a crash of the agent would leave behind. */
  onTrace: (trace: Trace) => void
  /** What takes long before the start (an image) is over: resolves when it may still be started, or `signal` is aborted. */
  mayStart: () => Promise<void>
  /** Aborted when it is to stop, or is the next agent's: nothing is started then. */
  signal: AbortSignal
}

/** `signal` is aborted when the agent ends: what cannot be reached then is left for the next one. */
export type Adoption = Omit<Launch, 'mayStart' | 'secrets'>

/** One run of an instance. */
export interface Running {
  readonly endpoints: Endpoints
  readonly pid?: number
  /** Every process of the instance that is known now. */
  pids(): number[]
  /** `pids` leaves none out: the kernel keeps the list. */
  readonly isWhole: boolean
  /** Why it does not answer, by a check of its own; used where the document has none. */
  readonly check?: (() => Promise<string | undefined>) | undefined
  /** What of its document does not hold on this node, for people. */
  readonly shortcoming?: string | undefined
  /** What it uses now; `undefined` where that cannot be found out. */
  usage?(): Promise<Usage | undefined>
  /** Runs a command beside its program, with the rights and circumstances of that. @throws MeshError REQUEST_FAILED */
  exec?(cmd: readonly string[]): Promise<InstanceCommand>
  /** Its document has changed in what a run takes over: it is held to the new limits. */
  adapt?(spec: ServiceSpec): void
  /** When it ended by itself or was stopped; never rejects. */
  readonly ended: Promise<Ended>
  /** Asks it to end, insists after `graceMs`, and resolves when nothing of it is left. */
  stop(graceMs: number): Promise<void>
  /** At once and without waiting: the agent itself is ending. */
  kill(): void
  /** Leaves it running, for the next agent to adopt; nothing here looks after it any more. */
  letGo(): void
}

/** A command in an instance; it ends with the run at the latest. */
export interface InstanceCommand {
  readonly stdin: Writable
  readonly stdout: Readable
  readonly stderr: Readable
  /** Its exit code; as in a shell, 128 + n when signal n ended it. Never rejects. */
  readonly ended: Promise<number>
  /** Nobody waits for it any more. */
  kill(): void
}

/** A way to run instances. One suite, test/contracts/runtime.ts, holds for all. */
/** The volumes that a runtime keeps on its node, by `app.namespace.name`. */
export interface RuntimeVolumes {
  list(): Promise<string[]>
  /** Bytes of each, as far as they can be measured; it may take minutes. */
  sizes(names: readonly string[], signal: AbortSignal): Promise<ReadonlyMap<string, number>>
  /** `isFree` is asked in the step that takes it away. @throws MeshError VOLUME_UNKNOWN, VOLUME_IN_USE */
  remove(name: string, isFree: () => void): Promise<void>
}

export interface Runtime {
  /** The word an SLA uses for it. */
  readonly name: string
  /** Why a service cannot run here by this runtime, beside what the scheduler counts. */
  refuses?(spec: ServiceSpec): string | undefined
  /** @throws MeshError RUNTIME_FAILED when it cannot be started; trying again would not help. */
  launch(launch: Launch): Promise<Running>
  /** Takes over what a trace names, as a run; `undefined` when it is gone (and then nothing of it is left), or the signal aborted. */
  adopt(launch: Adoption, trace: Trace): Promise<Running | undefined>
  /** Ends what an earlier agent left and none of these traces names. */
  tidy?(traces: readonly Trace[]): Promise<void>
  /** `undefined`: it keeps none here. */
  readonly volumes?: RuntimeVolumes | undefined
}

export function endpointKey({ port, protocol }: Pick<PortSpec, 'port' | 'protocol'>): string {
  return `${protocol}/${port}`
}
