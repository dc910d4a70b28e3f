import type { InstanceState } from '../../core/model/instance.ts'
import { clusterOf, type NodeId } from '../../core/model/ids.ts'
import type { ServiceSpec } from '../spec.ts'
import type { AppRecord, KnownNodes, RootStore, InstanceRecord, ServiceRecord } from './root-store.ts'
import type { ApiContext } from './api-context.ts'
import { servingOf } from './former-place.ts'
import { jobText, outcomeOf, triesText } from './jobs/shown.ts'
import type { ShownNode } from './node-directory.ts'

/** Rows of the API's lists, one function for each kind. */

export function appRow({ app, namespace, description, customer }: AppRecord, store: RootStore) {
  const services = store.servicesOf({ app, namespace })
  const instances = services.flatMap(({ id }) => store.instancesOf(id))
  return {
    id: `${app}.${namespace}`,
    description,
    customer,
    services: services.length,
    instances: instances.length,
    running: running(instances),
  }
}

export function serviceRow(
  service: ServiceRecord,
  { store, vips, reconciler }: Pick<ApiContext, 'store' | 'vips' | 'reconciler'>,
) {
  const { id, spec, generation } = service
  const { ports, runtime, replicas, strategy, allow } = spec
  const vipTable = Object.fromEntries(vips.of(id))
  const instances = store.instancesOf(id)
  const update = reconciler.updates.textOf(service, instances)
  const trouble = troubleOf(instances, service)
  const { retryAt } = trouble
  const nextRunAt = reconciler.jobs.nextAt(service)
  const detail = [update, jobText(service, instances), trouble.detail].filter((text) => text !== undefined).join('; ')
  return {
    id,
    ports,
    runtime,
    replicas,
    running: running(instances),
    ...(detail === '' ? {} : { detail }),
    ...(update === undefined ? {} : { update }),
    ...(retryAt === undefined ? {} : { retryAt }),
    ...(spec.oneShot ? { oneShot: true as const } : {}),
    ...(spec.schedule === undefined ? {} : { schedule: spec.schedule.cron, nextRunAt }),
    generation,
    strategy,
    allow,
    ...(spec.connectivity.length === 0 ? {} : { calls: spec.connectivity.map((key) => callOf(key, spec.constraints)) }),
    vips: vipTable,
  }
}

function callOf(service: string, constraints: ServiceSpec['constraints']) {
  const { threshold } = constraints.find((each) => each.type === 'latency' && each.service === service) ?? {}
  return { service, ...(threshold === undefined ? {} : { latencyMs: threshold }) }
}

/**
 * Why most of those that do not run do not: `2 unplaceable: 6 nodes: 4 too little memory free, 2 no gpu`; and when the first of them is
 * started again, milliseconds since 1970.
 */
function troubleOf(
  instances: readonly InstanceRecord[],
  service: ServiceRecord,
): { detail?: string; retryAt?: number } {
  const ill = instances.filter(
    (record) =>
      ILL.has(record.state) || isWaiting(record) || retryOf(record) !== undefined || record.violation !== undefined,
  )
  const wordsOf = (record: InstanceRecord) => {
    const { state, detail = '', violation } = record
    if (outcomeOf(record, service) === 'failed') return `failed ${triesText(record)}`
    return state === 'running' ? `running, constraint violated: ${violation}` : `${state}: ${detail}`
  }
  const groups = [...Map.groupBy(ill, wordsOf)]
  const [most] = groups.toSorted(([, a], [, b]) => b.length - a.length)
  if (most === undefined) return {}
  const [text, records] = most
  const retries = records.flatMap((record) => retryOf(record) ?? [])
  const next = retries.length === 0 ? {} : { retryAt: Math.min(...retries) }
  return { detail: `${records.length} ${text}`, ...next }
}

/** Only of one that waits for its next start. */
function retryOf({ state, retryAt }: InstanceRecord): number | undefined {
  return state === 'starting' || state === 'failed' ? retryAt : undefined
}

/** For the services that it calls. */
function isWaiting({ state, detail }: InstanceRecord): boolean {
  return state === 'requested' && detail !== undefined
}

const ILL: ReadonlySet<InstanceState> = new Set(['unplaceable', 'failed', 'lost'])

/**
 * The nodes that were lost with an instance which has been placed elsewhere since, by instance; as their clusters said last. Only the
 * root knows of an instance that went to another cluster.
 */
export function leftBehind({ store, nodes }: Pick<ApiContext, 'store' | 'nodes'>): ReadonlyMap<string, string[]> {
  const found = new Map<string, string[]>()
  const add = (instance: string, node: string) => found.set(instance, [...(found.get(instance) ?? []), node])
  for (const { name } of store.clusters.list())
    for (const { id, mayStillRun = [] } of nodes.lastKnown(name)?.rows ?? [])
      for (const instance of mayStillRun) add(instance, id)
  for (const { id, cluster, leftOn = [], drainsOn } of store.instances.list())
    for (const left of leftOn) {
      const isElsewhere = clusterOf(left.node) !== cluster && (left.drains !== true || left.node === drainsOn)
      if (isElsewhere && isStillAway(left, nodes.lastKnown(clusterOf(left.node)))) add(id, left.node)
    }
  return found
}

/** A node that was listed as alive since then was told what to end; one that was not listed has been deleted. Where it drains its node was there. */
function isStillAway(
  { node, at, drains }: { node: NodeId; at: number; drains?: boolean },
  known: KnownNodes | undefined,
): boolean {
  if (known === undefined || known.at <= at) return drains !== true
  const row = known.rows.find(({ id }) => id === node)
  return row !== undefined && row.condition !== 'alive'
}

export function instanceRow(
  stored: InstanceRecord,
  left: ReadonlyMap<string, string[]>,
  { store, reconciler }: Pick<ApiContext, 'store' | 'reconciler'>,
) {
  const {
    node,
    former: _former,
    leftOn: _leftOn,
    drainsOn: _drainsOn,
    constraintMoves: _moves,
    servingGeneration,
    isIdle: _isIdle,
    isFurther: _isFurther,
    asked: _asked,
    movesTo: _movesTo,
    was: _was,
    ...record
  } = servingOf(stored)
  const service = store.services.get(stored.service)
  const outcome = outcomeOf(stored, service)
  const detail = whyBehind(record)
  const mayAlsoRunOn = left.get(record.id)
  const nextRunAt = service && reconciler.jobs.nextAt(service)
  return {
    ...(detail === undefined ? {} : { detail }),
    ...record,
    ...(outcome === undefined ? {} : { outcome }),
    ...(outcome === 'failed' ? { detail: triesText(record) } : {}),
    ...(nextRunAt === undefined ? {} : { nextRunAt }),
    generation: servingGeneration ?? record.generation,
    retryAt: retryOf(record),
    node: node?.id,
    ...hostPortsOf(service),
    ...(mayAlsoRunOn === undefined ? {} : { mayAlsoRunOn }),
  }
}

/** Those of its node on which it is reached from outside the mesh. */
function hostPortsOf(service: ServiceRecord | undefined): { hostPorts?: string[] } {
  const ports = service?.spec.ports.flatMap(({ hostPort, protocol }) =>
    hostPort === undefined ? [] : `${hostPort}/${protocol}`,
  )
  return ports === undefined || ports.length === 0 ? {} : { hostPorts: ports }
}

/** What is to be said of an instance that runs. */
function whyBehind({ unsuited, waits, successor, violation }: InstanceRecord): string | undefined {
  if (unsuited !== undefined) return `no node meets its new document, so it runs on as before: ${unsuited}`
  if (waits !== undefined) return `its update waits: ${waits}`
  if (violation !== undefined) return `constraint violated: ${violation}`
  if (successor === undefined) return undefined
  const { node, state, detail } = successor
  return `its successor${node === undefined ? '' : ` on ${node}`} is ${state}${detail === undefined ? '' : `: ${detail}`}`
}

/** With what the node may still run, although it has been placed elsewhere. */
export function nodeRow({ facts, free, ...row }: ShownNode, left: ReadonlyMap<string, readonly string[]>) {
  const mayStillRun = [...left].flatMap(([instance, nodes]) => (nodes.includes(row.id) ? [instance] : []))
  return {
    ...row,
    ...(mayStillRun.length === 0 ? {} : { mayStillRun }),
    runtimes: facts?.runtimes ?? [],
    addresses: facts?.addresses ?? [],
    arch: facts?.arch,
    labels: facts?.labels ?? {},
    area: facts?.area,
    version: facts?.version,
    capacity: facts?.capacity,
    freeMemoryMb: free?.memoryMb,
    freeVcpus: free?.vcpus,
  }
}

/** A cluster that is away is shown as it was known last, at `asOf`. */
export function clusterRows({ store, clusters, nodes: directory }: Pick<ApiContext, 'store' | 'clusters' | 'nodes'>) {
  return store.clusters.list().map(({ name, enrolledAt, issuers }) => {
    const certificateUntil = issuers.length === 0 ? undefined : Math.max(...issuers.map(({ until }) => until))
    const linked = clusters.linked(name)
    if (linked === undefined) {
      const known = directory.lastKnown(name)
      const condition = clusters.isLost(name) ? ('lost' as const) : ('away' as const)
      const instances = store.instances.list().filter(({ cluster }) => cluster === name).length
      return {
        name,
        condition,
        enrolledAt,
        nodes: known?.rows.length ?? 0,
        instances,
        asOf: known?.at,
        certificateUntil,
      }
    }
    const { summary, url, version } = linked
    const { nodes, instances, free, total } = summary
    return {
      name,
      condition: 'alive' as const,
      enrolledAt,
      url,
      version,
      nodes,
      instances,
      free,
      total,
      certificateUntil,
    }
  })
}

function running(instances: readonly InstanceRecord[]): number {
  return instances.filter((record) => servingOf(record).state === 'running').length
}
