import type { ChoiceKey } from '../core/model/choice.ts'
import type { Coordinate } from '../core/model/coordinate.ts'
import type { InstanceId, NodeId, ServiceId } from '../core/model/ids.ts'
import type { InstanceState } from '../core/model/instance.ts'
import type { AllowRule } from '../core/model/service.ts'

/** What an SLA document says, after the door: every default filled in, every name lower-case. */
export interface AppSpec {
  app: string
  namespace: string
  description: string
  services: ServiceSpec[]
}

export interface PortSpec {
  /** The port callers use on the VIP. */
  port: number
  /** The port the program would listen on by itself (the container port); see `fixedPorts`. */
  target: number
  protocol: 'tcp' | 'udp'
  name?: string
  /** The program reads the PROXY protocol's header before each connection; TCP only. */
  proxyProtocol?: 'v2'
}

export interface CheckSpec {
  kind: 'tcp' | 'http'
  /** Which service port is probed; the first TCP port by default. */
  port: number
  /** For `http`. */
  path: string
  intervalMs: number
  timeoutMs: number
}

export const STRATEGY_WORDS = ['best-fit', 'spread', 'latency-and-location'] as const
export type Strategy = (typeof STRATEGY_WORDS)[number]

export interface Constraint {
  type: 'direct' | 'clusters' | 'addons' | 'latency' | 'geo'
  /** direct: one of these nodes (empty: any) in this cluster (absent: any). */
  cluster?: string
  nodes?: string[]
  allowed?: string[]
  needs?: string[]
  area?: string
  location?: { lat: number; lon: number }
  /** latency: measured to the nearest instance of this service; a service id or an interest key. */
  service?: string
  /** ms (latency) or km (geo). */
  threshold?: number
  rigidness?: number
  convergenceSeconds?: number
}

export interface ServiceSpec {
  id: ServiceId
  app: string
  appNamespace: string
  name: string
  namespace: string
  /** `process`, `external`, `docker`, or another word a node may offer (`unikernel`, `runsc`, …). */
  runtime: string
  /** Image for containers, `host:port` for `external`, a directory or file (may be empty) for `process`. */
  code: string
  cmd: string[]
  /** `KEY=value` */
  environment: string[]
  workdir?: string
  ports: PortSpec[]
  /** process runtime: true = the program listens on `target` itself, so one instance a node; false = it gets a free port in `PORT`. */
  fixedPorts: boolean
  /** Which proxy variables the program gets; `http` when absent. */
  proxy?: 'socks' | 'none'
  /** Its soft limit of open files; 1,024 when absent. */
  openFiles?: number
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
  strategy: Strategy
  allow: AllowRule[]
  /** Which ways its flows may take (model/path-rule.ts); any when absent. */
  paths?: string
  check?: CheckSpec
  /** How long a stopping instance may finish its flows. */
  drainSeconds: number
  constraints: Constraint[]
  /** Services this one will call: the node asks for them before the first question. Service ids or interest keys. */
  connectivity: string[]
  /** VIPs asked for, by choice, as IPv4 text inside 10.16.0.0/12. */
  addresses: Partial<Record<ChoiceKey, string>>
}

/** What a node can give. Counted in the same units as a ServiceSpec. */
export interface Capacity {
  memoryMb: number
  vcpus: number
  vgpus: number
  vtpus: number
  storageMb: number
}

/** What a node says of itself when it joins and with each heartbeat. */
export interface NodeFacts {
  id: NodeId
  capacity: Capacity
  runtimes: string[]
  arch: string
  addresses: string[]
  /** Relays it listens at, the nearest first. */
  relays?: string[]
  coordinate?: Coordinate
  labels: Record<string, string>
  location?: { lat: number; lon: number }
  area?: string
  version: string
}

/** Work for one node. */
export interface Assignment {
  instance: InstanceId
  ordinal: number
  spec: ServiceSpec
  /** Grows when the spec changes: a worker restarts an instance only for a newer generation. */
  generation: number
}

/** What a worker tells about an instance. `detail` is for people: exit code, refusal, probe error. */
export interface InstanceReport {
  instance: InstanceId
  generation: number
  state: InstanceState
  detail?: string
  restarts: number
  pid?: number
}
