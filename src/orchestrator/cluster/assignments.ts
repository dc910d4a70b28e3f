import type { Collection } from '../../core/kit/store.ts'
import type { InstanceId, NodeId, ServiceId } from '../../core/model/ids.ts'
import type { InstanceState } from '../../core/model/instance.ts'
import { type NodeView, portsOfNode } from '../scheduling/candidate.ts'
import { demandOf, reserve } from '../scheduling/capacity.ts'
import type { Assignment, MoveCause, ServiceSpec } from '../spec.ts'
import { AssignmentIndex } from './assignment-index.ts'
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
  /** When its worker starts it again, or it is tried on another node, milliseconds since 1970; while that takes long. */
  retryAt?: number
  /** Nodes that were lost while they ran it and have not been back: it may still run there. */
  mayRunOn?: NodeId[]
  /** Its node is lost, and no other node of this cluster can take it. */
  noOtherNode?: true
  /** Which constraint it does not keep to, and what is done about it; for people. */
  violation?: string
  /** When it moved for its constraints, milliseconds since 1970, oldest first. */
  constraintMoves?: number[]
  /** Who wanted it to move to its node, and why. */
  cause?: MoveCause
  /** The run that is to take its place. */
  successor?: Successor
  /** It never runs twice: it ends on its node, and then starts on this one, or on another where that does not take it any more. */
  movesTo?: { node: NodeId; cause?: MoveCause }
  /** Nodes where a run that was replaced still drains. */
  leaving?: NodeId[]
}

/** A newer run of an instance, on its own node or on another, until it serves. */
export interface Successor {
  node: NodeId
  assignment: Assignment
  state: InstanceState
  detail?: string
  restarts: number
  cause?: MoveCause
}

/** What this cluster runs, by instance. Kept in memory, since the scheduler reads all of it often; disk is written first. */
export class Assignments {
  readonly #saved: Collection<AssignmentRecord>
  readonly #all = new Map<InstanceId, AssignmentRecord>()
  /** Those with more than one run. */
  readonly #replacing = new Set<InstanceId>()
  readonly #index = new AssignmentIndex<AssignmentRecord>()
  /** Their node was asked to take them and has not answered. */
  readonly asking = new Set<InstanceId>()

  constructor(saved: Collection<AssignmentRecord>) {
    this.#saved = saved
    this.reload()
  }

  /** What is in memory may no longer be what is saved. */
  reload(): void {
    this.#all.clear()
    this.#replacing.clear()
    this.#index.clear()
    for (const record of this.#saved.list()) this.#remember(record)
  }

  get(id: InstanceId): AssignmentRecord | undefined {
    return this.#all.get(id)
  }

  all(): Iterable<AssignmentRecord> {
    return this.#all.values()
  }

  of(service: ServiceId): AssignmentRecord[] {
    return this.#index.of(service)
  }

  /** Of a service id, or of all services under an interest key. */
  named(service: string): AssignmentRecord[] {
    return this.#index.named(service)
  }

  /** Services with an instance here that ask something of their connection to this one. */
  askers(service: ServiceId): ServiceSpec[] {
    return this.#index.asking(service).map(({ assignment }) => assignment.spec)
  }

  on(node: NodeId): AssignmentRecord[] {
    return this.#index.on(node)
  }

  /** A run of the instance is there, or is to be. */
  isOn(instance: InstanceId, at: NodeId): boolean {
    const { node, successor, leaving } = this.#all.get(instance) ?? {}
    return node === at || successor?.node === at || leaving?.includes(at) === true
  }

  /** Those that this lost node may still run, although they have been placed elsewhere. */
  leftOn(node: NodeId): AssignmentRecord[] {
    return [...this.#all.values()].filter((record) => isLeftOn(record, node))
  }

  /** Those that are being replaced, or have just been. */
  replacing(): AssignmentRecord[] {
    return [...this.#replacing].flatMap((id) => this.#all.get(id) ?? [])
  }

  /** Successors that start on this node. */
  startingOn(node: NodeId): Successor[] {
    return this.replacing().flatMap(({ successor }) => (successor?.node === node ? [successor] : []))
  }

  /** Everything that has a run on this node, also one that starts or drains. */
  runsOn(node: NodeId): InstanceId[] {
    const others = this.replacing().filter(
      ({ successor, leaving }) => successor?.node === node || leaving?.includes(node) === true,
    )
    return [...new Set([...this.on(node), ...others].map(({ assignment }) => assignment.instance))]
  }

  /** Grows whenever what takes room on the node changes. */
  versionOf(node: NodeId): number {
    return this.#index.versionOf(node)
  }

  put(record: AssignmentRecord): void {
    this.#saved.put(record.assignment.instance, record)
    this.#remember(record)
  }

  delete(id: InstanceId): void {
    this.#saved.delete(id)
    const before = this.#all.get(id)
    this.#index.replace(before, undefined, nodesOf(before))
    this.#all.delete(id)
    this.#replacing.delete(id)
  }

  #remember(record: AssignmentRecord): void {
    const id = record.assignment.instance
    const before = this.#all.get(id)
    this.#index.replace(before, record, takesTheSame(before, record) ? [] : [...nodesOf(before), ...nodesOf(record)])
    this.#all.set(id, record)
    this.#note(record)
  }

  #note({ assignment, successor, leaving }: AssignmentRecord): void {
    if (successor !== undefined || leaving !== undefined) this.#replacing.add(assignment.instance)
    else this.#replacing.delete(assignment.instance)
  }
}

/** Every node whose room the record takes. */
function nodesOf(record: AssignmentRecord | undefined): NodeId[] {
  if (record === undefined) return []
  return [record.node, record.successor?.node].flatMap((node) => node ?? [])
}

/** Nothing has changed but what it reports of itself. */
function takesTheSame(before: AssignmentRecord | undefined, after: AssignmentRecord): boolean {
  return (
    before !== undefined &&
    before.assignment === after.assignment &&
    before.node === after.node &&
    before.successor === after.successor &&
    isFinished(before) === isFinished(after)
  )
}

/** Other nodes that have a run of it. */
export function alsoOn({ node, successor, leaving = [] }: AssignmentRecord): NodeId[] {
  const others = [...(successor === undefined ? [] : [successor.node]), ...leaving]
  return [...new Set(others)].filter((other) => other !== node)
}

function isLeftOn({ node, mayRunOn = [] }: AssignmentRecord, lost: NodeId): boolean {
  return node !== undefined && node !== lost && mayRunOn.includes(lost)
}

/** True when the worker will not start it again by itself. */
export function hasGivenUp({ state, assignment }: AssignmentRecord): boolean {
  return !assignment.spec.oneShot && (state === 'failed' || state === 'stopped')
}

/** True for a one-shot job that has ended, successfully or not: it takes no capacity and is not placed again. */
export function isFinished({ state, assignment }: Pick<AssignmentRecord, 'state' | 'assignment'>): boolean {
  return assignment.spec.oneShot && (state === 'stopped' || state === 'failed')
}

/** Every linked node as the scheduler sees it. */
export function nodeViews(nodes: Nodes, assignments: Assignments): NodeView[] {
  return Array.from(nodes.all(), (node) => ({
    ...currentView(node, assignments),
    condition: nodes.conditionOf(node.id),
  }))
}

interface KnownView {
  facts: LinkedNode['facts']
  assignments: Assignments
  version: number
  view: NodeView
}

const known = new WeakMap<LinkedNode, KnownView>()

/** Made anew when something on the node, or what the node says of itself, has changed: thousands of decisions look at each node. */
function currentView(node: LinkedNode, assignments: Assignments): NodeView {
  const version = assignments.versionOf(node.id)
  const before = known.get(node)
  if (before?.version === version && before.facts === node.facts && before.assignments === assignments)
    return before.view
  const view = viewOf(node, runsOf(node.id, assignments))
  known.set(node, { facts: node.facts, assignments, version, view })
  return view
}

/** The node as if this instance were not there. It has the instance, so that it takes nothing new is no objection. */
export function viewWithout(
  node: LinkedNode,
  instance: InstanceId,
  assignments: Pick<Assignments, 'on' | 'startingOn'>,
): NodeView {
  return viewOf(
    node,
    runsOf(node.id, assignments).filter(({ assignment }) => assignment.instance !== instance),
  )
}

/** The node as if it had one more instance of the service. */
export function withOneMore(view: NodeView, spec: ServiceSpec): NodeView {
  return {
    ...view,
    free: reserve(view.free, demandOf(spec)),
    portsTaken: [...view.portsTaken, ...portsOfNode(spec)],
    instances: view.instances + 1,
    perService: new Map([...view.perService, [spec.id, (view.perService.get(spec.id) ?? 0) + 1]]),
  }
}

/** What takes room there: the runs that serve, and those that start. */
function runsOf(node: NodeId, assignments: Pick<Assignments, 'on' | 'startingOn'>): Busy[] {
  return [...assignments.on(node), ...assignments.startingOn(node)]
}

type Busy = Pick<AssignmentRecord, 'assignment' | 'state'>

function viewOf({ id, facts }: LinkedNode, records: readonly Busy[]): NodeView {
  const busy = records.filter((record) => !isFinished(record))
  const perService = new Map<ServiceId, number>()
  for (const { assignment } of busy) perService.set(assignment.spec.id, (perService.get(assignment.spec.id) ?? 0) + 1)
  return {
    facts: { ...facts, id },
    condition: 'alive',
    free: busy.reduce((free, { assignment }) => reserve(free, demandOf(assignment.spec)), facts.capacity),
    portsTaken: busy.flatMap(({ assignment }) => portsOfNode(assignment.spec)),
    instances: busy.length,
    perService,
  }
}
