import type { ServiceEntry } from '../../core/model/change.ts'
import { clusterOf, interestOf, type InterestKey, type NodeId, type ServiceId } from '../../core/model/ids.ts'
import type { Instance } from '../../core/model/instance.ts'
import type { NodeReach } from '../../core/model/node.ts'
import { MOST_ALSO } from '../link/schemas.ts'
import { alsoOn, type AssignmentRecord, type Assignments } from './assignments.ts'
import type { ChangeLog } from './change-log.ts'
import type { EntryCache } from './entry-cache.ts'
import type { Nodes } from './nodes.ts'

/** An entry as it is handed to the change log, which adds the version. */
type UnversionedEntry = Omit<ServiceEntry, 'version'>

export interface PublisherParts {
  cluster: string
  changeLog: ChangeLog
  entryCache: EntryCache
  assignments: Assignments
  nodes: Nodes
  reachOf: (node: NodeId) => NodeReach | undefined
}

/** `dropIdle` is called this often. */
export const IDLE_CHECK_MS = 60_000
/** After this many checks, an hour, without any interest a service is forgotten. */
const IDLE_CHECKS = 60

/** Services in one batch, and in one turn. Smaller sends more messages, larger holds up what else waits. */
const AT_ONCE = 100

/** Turns what changed in one turn of the event loop into one numbered batch, and sends it to the nodes that asked. */
export class Publisher {
  readonly #parts: PublisherParts
  readonly #changed = new Set<ServiceId>()
  /** For how many checks in a row a key has been of no interest. */
  readonly #idleChecks = new Map<InterestKey, number>()
  #isClosed = false

  constructor(parts: PublisherParts) {
    this.#parts = parts
  }

  /** Marks a service as changed; it is published at the end of this turn. */
  touch(service: ServiceId): void {
    if (this.#isClosed) return
    if (this.#changed.size === 0) setImmediate(() => this.#flushSome())
    this.#changed.add(service)
  }

  #flushSome(): void {
    this.#publish([...this.#changed].slice(0, AT_ONCE))
    if (this.#changed.size > 0) setImmediate(() => this.#flushSome())
  }

  /** Publishes at once, for a caller that needs an up-to-date answer about these keys, or about everything. */
  flush(keys?: ReadonlySet<InterestKey>): void {
    const changed = [...this.#changed]
    this.#publish(keys === undefined ? changed : changed.filter((service) => keys.has(interestOf(service))))
  }

  #publish(services: readonly ServiceId[]): void {
    if (services.length === 0 || this.#isClosed) return
    const { changeLog, nodes, entryCache, assignments } = this.#parts
    for (const service of services) this.#changed.delete(service)
    const changes = changeLog.publish(
      services.flatMap((id): Array<readonly [ServiceId, UnversionedEntry | undefined]> => {
        const entry = entryCache.service(id, interestOf(id))
        if (entry !== undefined) return [[id, mergeEntry(entry, assignments.of(id), this.#parts)]]
        // gone when the root said so; about a service that the root has not mentioned yet there is nothing to publish
        return entryCache.get(interestOf(id)) === undefined ? [] : [[id, undefined]]
      }),
    )
    const { epoch } = changeLog
    nodes.publish(epoch, changes, (seq, keys) => changeLog.resume({ epoch, seq, keys: [...keys] }).changes)
  }

  /** Forgets the services that no node here has wanted for an hour and that nothing here runs. Returns their keys. */
  dropIdle(): InterestKey[] {
    const { entryCache, nodes, assignments, changeLog } = this.#parts
    const running = new Set(Array.from(assignments.all(), ({ assignment }) => assignment.spec.id))
    return entryCache.keys().filter((key) => {
      const isUsed = nodes.wants(key) || (entryCache.get(key) ?? []).some(({ service }) => running.has(service.id))
      const checks = isUsed ? 0 : (this.#idleChecks.get(key) ?? 0) + 1
      if (checks < IDLE_CHECKS) {
        this.#idleChecks.set(key, checks)
        return false
      }
      this.#idleChecks.delete(key)
      entryCache.drop(key)
      changeLog.drop(key)
      return true
    })
  }

  close(): void {
    this.flush()
    this.#isClosed = true
  }
}

/**
 * One service as the nodes of this cluster see it. The root is believed about the service itself and about other clusters,
 * our own records about what runs here: so a failure in this cluster reaches our nodes without the root.
 */
export function mergeEntry(
  fromRoot: ServiceEntry,
  records: readonly AssignmentRecord[],
  { cluster, reachOf }: Pick<PublisherParts, 'cluster' | 'reachOf'>,
): UnversionedEntry {
  const here = new Map<string, Instance>()
  /** They are called here, wherever else they run. */
  const own = new Set<string>()
  /** Nodes of other clusters with a run of it: it moves there, or from there. */
  const foreign = new Map(
    fromRoot.instances.map(({ id, also = [] }) => [id, also.filter((node) => clusterOf(node) !== cluster)]),
  )
  for (const record of records) {
    const { assignment, node, state } = record
    const { instance, ordinal, spec } = assignment
    if (record.wanted && state === 'running') own.add(instance)
    const also = [...alsoOn(record), ...(foreign.get(instance) ?? [])].slice(0, MOST_ALSO)
    if (node !== undefined)
      here.set(instance, {
        id: instance,
        service: spec.id,
        ordinal,
        node,
        state,
        ...(also.length === 0 ? {} : { also }),
      })
  }
  // one that moves to another cluster, or from there, is called where it runs
  const elsewhere = fromRoot.instances.filter(
    ({ id, node, state }) => clusterOf(node) !== cluster && (!here.has(id) || (state === 'running' && !own.has(id))),
  )
  for (const { id } of elsewhere) here.delete(id)
  const instances = [...here.values(), ...elsewhere].sort((a, b) => a.ordinal - b.ordinal)
  const reach = new Map(fromRoot.nodes.map((node) => [node.id, node]))
  const used = [...new Set(instances.map(({ node }) => node))]
  return {
    service: fromRoot.service,
    instances,
    nodes: used.flatMap((node) => (clusterOf(node) === cluster ? reachOf(node) : reach.get(node)) ?? []),
  }
}
