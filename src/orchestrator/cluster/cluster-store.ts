import { join } from 'node:path'
import { type Collection, Store } from '../../core/kit/store.ts'
import type { InstanceId, NodeId, ServiceId } from '../../core/model/ids.ts'
import type { InstanceState } from '../../core/model/instance.ts'
import type { Assignment, NodeFacts } from '../spec.ts'

export interface NodeRecord {
  name: string
  enrolledAt: number
  /** What it said last. */
  facts?: NodeFacts
}

export interface RelayRecord {
  name: string
  /** `wss://host:port/relay`, once it has said so. */
  url?: string
  seenAt: number
}

/** One instance that this cluster answers for. */
export interface AssignmentRecord {
  assignment: Assignment
  /** False: it drains, and the record goes when it has ended. */
  wanted: boolean
  node?: NodeId
  state: InstanceState
  detail?: string
  restarts: number
}

export interface RevokedNode {
  node: NodeId
  until: number
}

/** The cluster's state on disk. Work is also kept in memory: placement looks at all of it, often. */
export class ClusterStore implements Disposable {
  readonly database: Store
  readonly nodes: Collection<NodeRecord>
  readonly revoked: Collection<RevokedNode>
  readonly relays: Collection<RelayRecord>
  readonly assignments: Assignments

  private constructor(database: Store) {
    this.database = database
    this.nodes = database.collection('nodes')
    this.revoked = database.collection('revoked')
    this.relays = database.collection('relays')
    this.assignments = new Assignments(database.collection('work'))
  }

  static open(dir: string): ClusterStore {
    return new ClusterStore(Store.open(join(dir, 'cluster.db')))
  }

  [Symbol.dispose](): void {
    this.database.close()
  }
}

/** What this cluster runs, by instance; every write goes to disk first. */
export class Assignments {
  readonly #kept: Collection<AssignmentRecord>
  readonly #all: Map<InstanceId, AssignmentRecord>

  constructor(kept: Collection<AssignmentRecord>) {
    this.#kept = kept
    this.#all = new Map(kept.list().map((record) => [record.assignment.instance, record]))
  }

  get(id: InstanceId): AssignmentRecord | undefined {
    return this.#all.get(id)
  }

  all(): Iterable<AssignmentRecord> {
    return this.#all.values()
  }

  of(service: ServiceId): AssignmentRecord[] {
    return [...this.#all.values()].filter(({ assignment }) => assignment.spec.id === service)
  }

  on(node: NodeId): AssignmentRecord[] {
    return [...this.#all.values()].filter((record) => record.node === node)
  }

  put(record: AssignmentRecord): void {
    this.#kept.put(record.assignment.instance, record)
    this.#all.set(record.assignment.instance, record)
  }

  delete(id: InstanceId): void {
    this.#kept.delete(id)
    this.#all.delete(id)
  }
}
