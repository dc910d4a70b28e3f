import type { Collection } from '../../core/kit/store.ts'
import type { InstanceId, NodeId, ServiceId } from '../../core/model/ids.ts'
import type { InstanceState } from '../../core/model/instance.ts'
import { type NodeView, portKey } from '../scheduling/candidate.ts'
import { demandOf, reserve } from '../scheduling/capacity.ts'
import type { Assignment } from '../spec.ts'
import type { LinkedNode, Nodes } from './nodes.ts'

/** One instance that this cluster is responsible for. */
export interface AssignmentRecord {
  assignment: Assignment
  /** False: it drains, and its record is deleted when it has stopped. */
  wanted: boolean
  /** No longer wanted because it runs elsewhere: it ends without draining. */
  atOnce?: true
  /** The node that runs it or was asked to; absent while it has no place. */
  node?: NodeId
  state: InstanceState
  detail?: string
  restarts: number
  /** Nodes that were lost while they ran it and have not been back: it may still run there. */
  mayRunOn?: NodeId[]
  /** Its node is lost, and no other node of this cluster can take it. */
  noOtherNode?: true
}

/** What this cluster runs, by instance. Kept in memory, since the scheduler reads all of it often; disk is written first. */
export class Assignments {
  readonly #saved: Collection<AssignmentRecord>
  readonly #all: Map<InstanceId, AssignmentRecord>

  constructor(saved: Collection<AssignmentRecord>) {
    this.#saved = saved
    this.#all = new Map(saved.list().map((record) => [record.assignment.instance, record]))
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

  /** Those that this lost node may still run, although they have been placed elsewhere. */
  leftOn(node: NodeId): AssignmentRecord[] {
    return [...this.#all.values()].filter((record) => isLeftOn(record, node))
  }

  put(record: AssignmentRecord): void {
    this.#saved.put(record.assignment.instance, record)
    this.#all.set(record.assignment.instance, record)
  }

  delete(id: InstanceId): void {
    this.#saved.delete(id)
    this.#all.delete(id)
  }
}

function isLeftOn({ node, mayRunOn = [] }: AssignmentRecord, lost: NodeId): boolean {
  return node !== undefined && node !== lost && mayRunOn.includes(lost)
}

/** True when the worker will not start it again by itself. */
export function hasGivenUp({ state, assignment }: AssignmentRecord): boolean {
  return !assignment.spec.oneShot && (state === 'failed' || state === 'stopped')
}

/** True for a one-shot job that has ended, successfully or not: it takes no capacity and is not placed again. */
export function isFinished({ state, assignment }: AssignmentRecord): boolean {
  return assignment.spec.oneShot && (state === 'stopped' || state === 'failed')
}

/** Every linked node as the scheduler sees it. */
export function nodeViews(nodes: Nodes, assignments: Assignments): NodeView[] {
  return Array.from(nodes.all(), (node) => viewOf(node, assignments.on(node.id)))
}

/** The node as if this instance were not there. */
export function viewWithout(node: LinkedNode, instance: InstanceId, assignments: Assignments): NodeView {
  return viewOf(
    node,
    assignments.on(node.id).filter(({ assignment }) => assignment.instance !== instance),
  )
}

function viewOf({ id, facts }: LinkedNode, records: readonly AssignmentRecord[]): NodeView {
  const busy = records.filter((record) => !isFinished(record))
  const perService = new Map<ServiceId, number>()
  for (const { assignment } of busy) perService.set(assignment.spec.id, (perService.get(assignment.spec.id) ?? 0) + 1)
  return {
    facts: { ...facts, id },
    condition: 'alive',
    free: busy.reduce((free, { assignment }) => reserve(free, demandOf(assignment.spec)), facts.capacity),
    portsTaken: busy.flatMap(({ assignment }) =>
      assignment.spec.fixedPorts ? assignment.spec.ports.map(portKey) : [],
    ),
    instances: busy.length,
    perService,
  }
}
