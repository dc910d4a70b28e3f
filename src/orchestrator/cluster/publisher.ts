import { isMeshError } from '../../core/errors.ts'
import type { Clock } from '../../core/kit/clock.ts'
import { Paced } from '../../core/kit/paced.ts'
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
  clock: Clock
}

/** `dropIdle` is called this often. */
export const IDLE_CHECK_MS = 60_000
/** After this many checks, an hour, without any interest a service is forgotten. */
const IDLE_CHECKS = 60

/** Services in one batch, and in one turn. Smaller sends more messages, larger holds up what else waits. */
const AT_ONCE = 100
/** Between two batches. Smaller sends more messages while much changes, larger tells later what changed after something else did. */
const EVERY_MS = 20

/**
 * Turns what changed into numbered batches, and sends them to the nodes that asked. What no node follows waits until one does: most services
 * of a mesh are called from few of its nodes.
 *
 *     touched ─▶ followed ─▶ published at the end of the turn, or soon after the batch before
 *        └─────▶ by nobody ─▶ published when a node asks for it or resumes (`flush`)
 */
export class Publisher {
  readonly #parts: PublisherParts
  readonly #changed = new Map<InterestKey, Set<ServiceId>>()
  /** Of the keys that changed, those that a node follows. */
  readonly #due = new Set<InterestKey>()
  readonly #paced: Paced
  /** For how many checks in a row a key has been of no interest. */
  readonly #idleChecks = new Map<InterestKey, number>()
  #isClosed = false

  constructor(parts: PublisherParts) {
    this.#parts = parts
    this.#paced = new Paced({
      name: 'publishing of changes to nodes',
      work: () => this.#publishSome(),
      everyMs: EVERY_MS,
      clock: parts.clock,
    })
    // what an earlier process had not published
    for (const service of parts.changeLog.services()) this.touch(service)
  }

  /** Marks a service as changed. */
  touch(service: ServiceId): void {
    if (this.#isClosed) return
    const key = interestOf(service)
    const services = this.#changed.get(key)
    if (services === undefined) this.#changed.set(key, new Set([service]))
    else services.add(service)
    if (!this.#parts.nodes.followers.wants(key)) return
    this.#due.add(key)
    this.#paced.due()
  }

  /**
   * Before the root is told what changed: whoever reads there that an instance runs may call it at once, by a node that follows it. Of very
   * many changes only the first are published here; a full disk leaves all for later.
   */
  beforeReports(): void {
    try {
      if (this.#due.size > 0) this.#publishSome()
    } catch (error) {
      if (!isMeshError(error, 'DISK_FULL')) throw error
    }
  }

  #publishSome(): void {
    this.#publish([...this.#due].slice(0, AT_ONCE))
    if (this.#due.size > 0) this.#paced.due()
  }

  /** Publishes at once what nodes follow, or what is under these keys, for a caller that needs an up-to-date answer about them. */
  flush(keys: Iterable<InterestKey> = this.#due): void {
    const changed = [...keys].filter((key) => this.#changed.has(key))
    if (changed.length > 0) this.#publish(changed)
  }

  #publish(keys: readonly InterestKey[]): void {
    if (this.#isClosed) return
    const { changeLog, nodes, entryCache, assignments } = this.#parts
    // gone when the root said so; about a service that the root has not mentioned yet there is nothing to publish
    const known = keys.filter((key) => entryCache.get(key) !== undefined)
    const changed = known.flatMap((key) =>
      Array.from(this.#changed.get(key) ?? [], (id): readonly [ServiceId, UnversionedEntry | undefined] => {
        const entry = entryCache.service(id, key)
        return [id, entry && mergeEntry(entry, assignments.of(id), this.#parts)]
      }),
    )
    const { epoch } = changeLog
    const changes = changeLog.publish(changed) // throws when the disk is full: all of it waits for the next time
    for (const key of keys) this.#due.delete(key)
    for (const key of known) this.#changed.delete(key)
    nodes.followers.publish(epoch, changes, (seq, of) => changeLog.resume({ epoch, seq, keys: [...of] }).changes)
  }

  /** Forgets the services that no node here has wanted for an hour and that nothing here runs. Returns their keys. */
  dropIdle(): InterestKey[] {
    const { entryCache, nodes, assignments, changeLog } = this.#parts
    const running = new Set(Array.from(assignments.all(), ({ assignment }) => assignment.spec.id))
    return entryCache.keys().filter((key) => {
      const isUsed =
        nodes.followers.wants(key) || (entryCache.get(key) ?? []).some(({ service }) => running.has(service.id))
      const checks = isUsed ? 0 : (this.#idleChecks.get(key) ?? 0) + 1
      if (checks < IDLE_CHECKS) {
        this.#idleChecks.set(key, checks)
        return false
      }
      this.#idleChecks.delete(key)
      entryCache.drop(key)
      changeLog.drop(key)
      this.#changed.delete(key)
      return true
    })
  }

  close(): void {
    try {
      this.flush()
    } catch (error) {
      if (!isMeshError(error, 'DISK_FULL')) throw error // else the next process publishes it
    }
    this.#isClosed = true
    this.#paced[Symbol.dispose]()
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
