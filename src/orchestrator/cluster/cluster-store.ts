import { join } from 'node:path'
import { type Collection, Store } from '../../core/kit/store.ts'
import type { KeptDecision } from '../scheduling/kept-decisions.ts'
import type { NodeFacts } from '../spec.ts'
import type { SavedDowns } from './flaps.ts'
import type { Holder } from './issued.ts'
import { Assignments, type AssignmentRecord } from './assignments.ts'

/** Somebody wants a node to take nothing new. */
export interface Cordon {
  /** Milliseconds since 1970. */
  at: number
  /** What that person wrote. */
  reason?: string
  /** What it runs is to move away, with `isForced` also what leaves something behind; `isOver`: nothing was left. */
  drain?: { isForced?: true; isOver?: true }
}

export interface NodeRecord extends Holder {
  name: string
  /** Milliseconds since 1970. */
  enrolledAt: number
  /** Its certificates belong to this enrolment; absent for a node that joined with an earlier version. */
  enrolment?: string
  /** What the node reported last. */
  facts?: NodeFacts
  /** It takes nothing new. */
  cordon?: Cordon
}

export interface RelayRecord extends Holder {
  name: string
  /** `wss://host:port/relay`; absent until the relay has reported it. */
  url?: string
  /** Milliseconds since 1970. */
  seenAt: number
  enrolment?: string
}

/** The cluster's state on disk. */
export class ClusterStore implements Disposable {
  readonly database: Store
  readonly nodes: Collection<NodeRecord>
  readonly relays: Collection<RelayRecord>
  readonly assignments: Assignments
  /** By instance: why it is on its node. */
  readonly decisions: Collection<KeptDecision>
  /** By node: how its link went down lately. */
  readonly downs: Collection<SavedDowns>

  private constructor(database: Store) {
    this.database = database
    this.nodes = database.keptCollection('nodes')
    this.relays = database.keptCollection('relays')
    this.assignments = new Assignments(database.collection<AssignmentRecord>('work'))
    this.decisions = database.collection('decisions')
    this.downs = database.collection('downs')
    database.onRollback(() => this.assignments.reload())
  }

  /** @throws MeshError STATE_UNREADABLE, STATE_CORRUPT */
  static open(dir: string): ClusterStore {
    return new ClusterStore(Store.open(join(dir, 'cluster.db')))
  }

  [Symbol.dispose](): void {
    this.database.close()
  }
}
