import { isDeepStrictEqual } from 'node:util'
import type { ServiceSpec } from '../spec.ts'

/**
 * What a change of a field means for instances that run.
 *
 *     restart   they were started with it: started again, one after the other
 *     place     taken over by those whose node still meets the document; the others move, one after the other
 *     live      taken over at once
 *     none      it concerns callers, or how many there are
 */
export type Effect = 'restart' | 'place' | 'live' | 'none'

/** `keys`: those of the SLA document that the field is made from. The table in docs/sla.md is generated from this. */
interface Field {
  effect: Effect
  keys: readonly string[]
  /** Keys that are read into the value of `keys`, which is what a difference names: `target_node` is a constraint there. */
  shorthands: readonly string[]
}

const field = (effect: Effect, ...keys: string[]): Field => ({ effect, keys, shorthands: [] })

export const FIELDS: Readonly<Record<keyof ServiceSpec, Field>> = {
  id: field('restart'),
  app: field('restart'),
  appNamespace: field('restart'),
  name: field('restart'),
  namespace: field('restart'),
  runtime: field('restart', 'virtualization', 'runtime'),
  code: field('restart', 'code'),
  cmd: { effect: 'restart', keys: ['cmd'], shorthands: ['args'] },
  environment: field('restart', 'environment'),
  proxy: field('restart', 'proxy'),
  openFiles: field('restart', 'open_files'),
  leaseSeconds: field('restart', 'lease_seconds'),
  workdir: field('restart', 'workdir'),
  pids: field('restart', 'pids'),
  secrets: field('restart', 'secrets'),
  isolation: field('restart', 'isolation'),
  files: field('restart', 'files'),
  volumes: field('restart', 'volumes'),
  pull: field('restart', 'pull'),
  registrySecret: field('restart', 'registry_secret'),
  privileged: field('restart', 'privileged'),
  egress: field('restart', 'egress'),
  egressTo: field('restart', 'egress'),
  ports: field('restart', 'port', 'ports', 'proxyProtocol'),
  fixedPorts: field('restart', 'fixed_port'),
  oneShot: field('restart', 'one_shot'),
  memoryMb: field('place', 'memory'),
  vcpus: field('place', 'vcpus'),
  vgpus: field('place', 'vgpus'),
  vtpus: field('place', 'vtpus'),
  storageMb: field('place', 'storage'),
  bandwidthInKbit: field('place', 'bandwidth_in'),
  bandwidthOutKbit: field('place', 'bandwidth_out'),
  arch: field('place', 'arch'),
  constraints: { effect: 'place', keys: ['constraints'], shorthands: ['target_node'] },
  prefersNear: field('live', 'connectivity'),
  check: field('live', 'check'),
  liveness: field('live', 'livenessProbe'),
  job: field('live', 'job'),
  schedule: field('none', 'schedule'),
  drainSeconds: field('live', 'drain_seconds'),
  connectivity: field('live', 'connectivity'),
  strategy: field('live', 'strategy'),
  startsAfterConnectivity: field('none', 'start_after_connectivity'),
  update: field('none', 'update'),
  replicas: field('none', 'replicas'),
  allow: field('none', 'allow'),
  paths: field('none', 'paths'),
  addresses: field('none', 'addresses'),
}

/** These runtimes change the limits of what runs, or have none; another may have started the instance with a limit. */
const LIVE_LIMITS = new Set(['process', 'external'])
const RESOURCES: ReadonlySet<keyof ServiceSpec> = new Set([
  'memoryMb',
  'vcpus',
  'vgpus',
  'vtpus',
  'storageMb',
  'bandwidthInKbit',
  'bandwidthOutKbit',
])

/** The fields that are different. */
export function changedFields(before: ServiceSpec, after: ServiceSpec): (keyof ServiceSpec)[] {
  return (Object.keys(FIELDS) as (keyof ServiceSpec)[]).filter(
    (key) => !isDeepStrictEqual(valueOf(before, key), valueOf(after, key)),
  )
}

/** The gravest effect of all that is different. */
export function effectOf(before: ServiceSpec, after: ServiceSpec): Effect {
  const effects = new Set(
    changedFields(before, after).map((key) =>
      RESOURCES.has(key) && !LIVE_LIMITS.has(after.runtime) ? 'restart' : FIELDS[key].effect,
    ),
  )
  return (['restart', 'place', 'live'] as const).find((effect) => effects.has(effect)) ?? 'none'
}

/** As the store returns it: without keys whose value is `undefined`. The name of a port is for callers alone. */
function valueOf(spec: ServiceSpec, key: keyof ServiceSpec): unknown {
  const value = key === 'ports' ? spec.ports.map((port) => ({ ...port, name: undefined })) : spec[key]
  return value === undefined ? undefined : JSON.parse(JSON.stringify(value))
}
