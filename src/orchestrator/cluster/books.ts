import { join } from 'node:path'
import { type Collection, Store } from '../../kit/store.ts'
import type { InstanceId, NodeId, ServiceId } from '../../model/ids.ts'
import type { InstanceState } from '../../model/instance.ts'
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
export interface WorkRecord {
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
export class Books implements Disposable {
  readonly store: Store
  readonly nodes: Collection<NodeRecord>
  readonly revoked: Collection<RevokedNode>
  readonly relays: Collection<RelayRecord>
  readonly works: Works

  private constructor(store: Store) {
    this.store = store
    this.nodes = store.collection('nodes')
    this.revoked = store.collection('revoked')
    this.relays = store.collection('relays')
    this.works = new Works(store.collection('work'))
  }

  static open(dir: string): Books {
    return new Books(Store.open(join(dir, 'cluster.db')))
  }

  [Symbol.dispose](): void {
    this.store.close()
  }
}

/** What this cluster runs, by instance; every write goes to disk first. */
export class Works {
  readonly #kept: Collection<WorkRecord>
  readonly #all: Map<InstanceId, WorkRecord>

  constructor(kept: Collection<WorkRecord>) {
    this.#kept = kept
    this.#all = new Map(kept.list().map((record) => [record.assignment.instance, record]))
  }

  get(id: InstanceId): WorkRecord | undefined {
    return this.#all.get(id)
  }

  all(): Iterable<WorkRecord> {
    return this.#all.values()
  }

  of(service: ServiceId): WorkRecord[] {
    return [...this.#all.values()].filter(({ assignment }) => assignment.spec.id === service)
  }

  on(node: NodeId): WorkRecord[] {
    return [...this.#all.values()].filter((record) => record.node === node)
  }

  put(record: WorkRecord): void {
    this.#kept.put(record.assignment.instance, record)
    this.#all.set(record.assignment.instance, record)
  }

  delete(id: InstanceId): void {
    this.#kept.delete(id)
    this.#all.delete(id)
  }
}
