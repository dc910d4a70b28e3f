import type { ChoiceKey } from '../core/model/choice.ts'
import type { Coordinate } from '../core/model/coordinate.ts'
import type { InstanceId, NodeId, ServiceId } from '../core/model/ids.ts'
import type { InstanceState } from '../core/model/instance.ts'
import type { LabelRule } from '../core/model/label-rule.ts'
import type { AllowRule } from '../core/model/service.ts'

/** What an SLA document says after parsing: every default filled in, every name lower-case. */
export interface AppSpec {
  app: string
  namespace: string
  description: string
  /** Where it is another than that of the document. */
  customer?: string
  services: ServiceSpec[]
}

export interface PortSpec {
  /** The port callers use on the VIP. */
  port: number
  /** The port on which the program listens by itself (the container port); see `fixedPorts`. */
  target: number
  protocol: 'tcp' | 'udp'
  name?: string
  /** Every connection begins with a PROXY protocol header; TCP only. */
  proxyProtocol?: 'v2'
  /** The instance is reached on this port of its node, too, by whoever reaches the node. */
  hostPort?: number
}

/** A file of an instance, in memory; by `path` in a container, below $HEDGEROW_FILES for a program. One of the other two is there. */
export interface FileSpec {
  path: string
  content?: string
  /** A secret of its app. */
  secret?: string
}

/** A folder of a container that outlives it. */
export interface VolumeSpec {
  /** Within the app, on one node. */
  name: string
  path: string
  readOnly?: true
  /** A folder of the node that its operator allows, instead of one that the engine keeps. */
  hostPath?: string
}

export interface CheckSpec {
  kind: 'tcp' | 'http'
  /** The service port that is checked; the first TCP port by default. */
  port: number
  /** For `http`. */
  path: string
  intervalMs: number
  timeoutMs: number
}

/** A check that an instance must not fail for long: then it hangs, and is started again. */
export interface LivenessSpec extends CheckSpec {
  /** From when it was first ready to the first check. */
  initialDelayMs: number
  /** So many failures in a row mean that it hangs. */
  failures: number
}

/** What instances are kept apart by, or spread over. */
export const TOPOLOGIES = ['node', 'area', 'cluster'] as const
export type Topology = (typeof TOPOLOGIES)[number]

export const CONSTRAINT_TYPES = [
  'direct',
  'clusters',
  'addons',
  'labels',
  'latency',
  'geo',
  'anti-affinity',
  'spread',
] as const

/** Those that are built in; a module that the configuration of root and clusters names may add others. */
export const STRATEGY_WORDS = ['best-fit', 'spread', 'latency-and-location', 'cheapest'] as const

export interface Constraint {
  type: (typeof CONSTRAINT_TYPES)[number]
  /** direct: one of these nodes (empty: any) in this cluster (absent: any). */
  cluster?: string
  nodes?: string[]
  allowed?: string[]
  needs?: string[]
  /** labels: all of these must hold on the node. */
  match?: LabelRule[]
  /** anti-affinity, spread: where two instances count as together. */
  over?: Topology
  /** spread: how many instances more than the emptiest may have; without it the constraint is a preference. */
  maxSkew?: number
  area?: string
  location?: { lat: number; lon: number }
  /**
   * latency: measured to the nearest instance of this service. anti-affinity: the service to stay away from, the instance's own when
   * absent. A service id or an interest key.
   */
  service?: string
  /** ms (latency) or km (geo). */
  threshold?: number
  rigidness?: number
  convergenceSeconds?: number
}

/** A service that calls this one and must be near it: wherever it can be, this one is placed within so many ms of it, too. */
export interface NearWish extends Constraint {
  type: 'latency'
  service: string
  threshold: number
}

/** How an update of a service goes; a default is used for what is absent (root/rollout.ts). */
export interface UpdateSpec {
  /** How many instances more than `replicas` may be there meanwhile. */
  maxSurge?: number
  /** The same as a share of `replicas`, rounded up; keys of their own, so that earlier versions understand the rest. */
  maxSurgePercent?: number
  /** How many may not answer because of the update. */
  maxUnavailable?: number
  /** The same as a share of `replicas`, rounded down. */
  maxUnavailablePercent?: number
  /** Without progress for this long, the update has failed. */
  progressSeconds?: number
  /** One that has failed is taken back by itself. */
  autoRollback?: true
}

/** How a job is run; a default is used for what is absent (worker/job.ts). */
export interface JobSpec {
  /** How often it is tried again when it fails. */
  retries?: number
  /** Before the first of these; each further wait is up to twice as long. */
  backoffSeconds?: number
  /** With all of its tries it must have ended after this long. */
  deadlineSeconds?: number
}

/** When a job is run again and again (root/jobs). */
export interface ScheduleSpec {
  /** As in crontab(5), in UTC. */
  cron: string
  /** A run that is due ends the one before; without it, is skipped while that has not ended. */
  concurrency?: 'replace' | 'allow'
  /** What could not start for so long is skipped. */
  startWithinSeconds?: number
}

export interface ServiceSpec {
  id: ServiceId
  app: string
  appNamespace: string
  name: string
  namespace: string
  /** `process`, `external`, `docker`, or another that a node offers (`unikernel`, `runsc`, …). */
  runtime: string
  /** Image for containers, `host:port` for `external`, a directory or file (may be empty) for `process`. */
  code: string
  cmd: string[]
  /** `KEY=value` */
  environment: string[]
  workdir?: string
  ports: PortSpec[]
  /** process runtime: true if the program listens on `target` itself (one instance per node), false if it gets a free port in `PORT`. */
  fixedPorts: boolean
  /** Which proxy variables the program gets; `http` when absent. */
  proxy?: 'socks' | 'none'
  /** Its limit of open files; when absent a soft one of 1,024 (of a container: the engine's). */
  openFiles?: number
  /** How many processes and threads it may have; 4,096 when absent. */
  pids?: number
  /** Secrets of its app that it gets as files. */
  secrets?: string[]
  /** A program shares /tmp with the machine. */
  isolation?: 'none'
  files?: FileSpec[]
  volumes?: VolumeSpec[]
  /** When the image is pulled; `missing` when absent. */
  pull?: 'always' | 'never'
  /** The secret of its app with which the image is pulled: `user:password`. */
  registrySecret?: string
  /** The container has the rights of the machine's root. */
  privileged?: true
  /** It reaches VIPs and the name server only, and `egressTo`; everything when absent. */
  egress?: 'none'
  /** What it reaches besides, with `egress: none`: core/model/egress.ts. */
  egressTo?: string[]
  memoryMb: number
  vcpus: number
  vgpus: number
  vtpus: number
  storageMb: number
  bandwidthInKbit: number
  bandwidthOutKbit: number
  arch: string[]
  replicas: number
  oneShot: boolean
  job?: JobSpec
  schedule?: ScheduleSpec
  strategy: string
  allow: AllowRule[]
  /** The paths its flows may take (core/model/path-rule.ts); any when absent. */
  paths?: string
  check?: CheckSpec
  /** Instead of the rule that a program which was ready must not stop answering for a minute. */
  liveness?: LivenessSpec
  /** How many seconds a stopping instance may take to finish its flows. */
  drainSeconds: number
  /**
   * It never runs twice: it ends where its node has not heard from its cluster for so long, and is placed elsewhere only then. Without it
   * an instance runs on for as long as its node is cut off.
   */
  leaseSeconds?: number
  update?: UpdateSpec
  constraints: Constraint[]
  prefersNear?: NearWish[]
  /** Services that this one calls, as service ids or interest keys: the node fetches them before the first call. */
  connectivity: string[]
  /** Its first instances wait until those of its app are ready (sla/start-order.ts). */
  startsAfterConnectivity?: true
  /** Requested VIPs by choice, as IPv4 text inside 10.16.0.0/12. */
  addresses: Partial<Record<ChoiceKey, string>>
}

/** Every secret that a service needs: as files, and to pull its image. */
export function secretsOf({ secrets = [], files = [], registrySecret }: ServiceSpec): string[] {
  const named = [...secrets, ...files.map(({ secret }) => secret), registrySecret]
  return [...new Set(named.filter((name) => name !== undefined))]
}

/** A secret on its way to a node; `name` is that within the app. */
export interface SecretValue {
  name: string
  value: Buffer
}

/** What registries take: `registry:5000/folder/name:tag` or `…@sha256:…`. */
export function isImageReference(code: string): boolean {
  return /^[A-Za-z0-9][\w.:/-]{0,500}(?:@[\w+.-]+:[0-9A-Fa-f]{32,})?$/.test(code) && !/\/\/|\.\./.test(code)
}

/** A node's resources, in the units of a ServiceSpec. */
export interface Capacity {
  memoryMb: number
  vcpus: number
  vgpus: number
  vtpus: number
  storageMb: number
  /** kbit/s. Absent where it is not known, and in messages of earlier versions. */
  bandwidthInKbit?: number
  bandwidthOutKbit?: number
}

/** What a node reports of itself in its hello, and when it changes. */
export interface NodeFacts {
  id: NodeId
  capacity: Capacity
  runtimes: string[]
  arch: string
  addresses: string[]
  /** Relays at which it listens, the nearest first. */
  relays?: string[]
  coordinate?: Coordinate
  labels: Record<string, string>
  location?: { lat: number; lon: number }
  area?: string
  /** What an hour of the whole node costs, in whatever currency the operator counts. */
  costPerHour?: number
  version: string
}

/** One instance, for one node. */
export interface Assignment {
  instance: InstanceId
  ordinal: number
  spec: ServiceSpec
  /** Grows when running instances must be restarted: a worker restarts an instance only for a newer generation. */
  generation: number
  /** Grows with every other change that a running instance takes over; absent in messages of earlier versions. */
  revision?: number
  /** What services of other documents ask of this one, as of when the root told its cluster (scheduling/asked-by-others.ts). */
  asked?: { constraints: readonly Constraint[]; prefersNear: readonly NearWish[] }
  /** Grows when the cluster replaces the run although the document is the same: a restart, or a move. 0 when absent. */
  epoch?: number
}

/** Which run of an instance: two of one number are there while one replaces the other. */
export type RunKey = Pick<Assignment, 'generation' | 'epoch'>

export function isSameRun(a: RunKey, b: RunKey): boolean {
  return a.generation === b.generation && (a.epoch ?? 0) === (b.epoch ?? 0)
}

export function isNewerRun(a: RunKey, than: RunKey): boolean {
  if (a.generation !== than.generation) return a.generation > than.generation
  return (a.epoch ?? 0) > (than.epoch ?? 0)
}

/** Whether a report is about this run. */
export function isReportOf({ generation, epoch }: RunKey, run: RunKey): boolean {
  return isSameRun({ generation, epoch: epoch ?? run.epoch ?? 0 }, run)
}

/**
 * How a newer run takes the place of the one that is there: `beside` starts while the other serves, which then drains; or it is
 * stopped first, and nothing answers meanwhile.
 */
export const REPLACEMENTS = ['beside', 'stop-first'] as const
export type Replacement = (typeof REPLACEMENTS)[number]

/** Who may want an instance to be elsewhere. */
export const MOVERS = ['user', 'cluster'] as const
/** Why an instance moves; for people. */
export interface MoveCause {
  by: (typeof MOVERS)[number]
  why: string
}

/** A worker's report on one instance. `detail` is for people: exit code, reason of a refusal, error of a check. */
export interface InstanceReport {
  instance: InstanceId
  generation: number
  /** Of the document that it follows. */
  revision?: number
  state: InstanceState
  detail?: string
  restarts: number
  /** It ended by itself again and again: how long its worker still waits before the next start. */
  retryInMs?: number
  pid?: number
  /** Absent in reports of earlier versions, which know of generations only. */
  epoch?: number
  /** While a newer run starts beside the one that serves, which is what the rest is about. */
  successor?: SuccessorReport
}

/** A run that is to take the place of the one that serves. */
export interface SuccessorReport {
  generation: number
  epoch?: number
  state: InstanceState
  detail?: string
  restarts: number
}
