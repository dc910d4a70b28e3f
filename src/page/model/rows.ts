/** What the root's API says of each thing, as far as the page shows it. Keys that are not here are left alone. */

export interface Usage {
  /** Cores. */
  cpu: number
  memoryMb: number
  memoryLimitMb?: number
  vcpuLimit?: number
  throttled: number
  oomKills: number
}

export interface ServiceRow {
  id: string
  ports: { port: number; protocol: string; name?: string }[]
  runtime: string
  replicas: number
  running: number
  detail?: string
  /** How far its update is, while there is one. */
  update?: string
  /** Milliseconds since 1970. */
  retryAt?: number
  oneShot?: boolean
  schedule?: string
  nextRunAt?: number
  generation: number
  strategy: string
  allow: string | string[]
}

export interface InstanceRow {
  id: string
  service: string
  ordinal: number
  state: string
  outcome?: string
  detail?: string
  restarts: number
  generation: number
  epoch?: number
  cluster?: string
  node?: string
  retryAt?: number
  changedAt?: number
  successor?: { node?: string; state: string; detail?: string }
  mayAlsoRunOn?: string[]
  usage?: Usage
}

export interface Capacity {
  memoryMb?: number
  vcpus?: number
}

export interface NodeRow {
  id: string
  condition: 'alive' | 'lost' | 'away'
  instances: number
  asOf?: number
  runtimes: string[]
  addresses: string[]
  arch?: string
  labels: Record<string, unknown>
  area?: unknown
  version?: string
  capacity?: Capacity
  freeMemoryMb?: number
  freeVcpus?: number
  certificateUntil?: number
  cordon?: { at: number; reason?: string; drain?: { isForced?: true } }
  linksLost?: number
  dampedMs?: number
  duplicateAt?: number
  mayStillRun?: string[]
}

export interface ClusterRow {
  name: string
  condition: 'alive' | 'lost' | 'away'
  nodes: number
  instances: number
  version?: string
  url?: string
  free?: Capacity
  total?: Capacity
  asOf?: number
  certificateUntil?: number
}

export interface EventRow {
  number: number
  /** Milliseconds since 1970. */
  at: number
  what: string
  by: string
  service?: string
  instance?: string
  node?: string
  cluster?: string
  why?: string
}

/** How a thing is, as its colour says; the words say the same. */
export type Tone = 'good' | 'busy' | 'warn' | 'bad' | 'idle'
