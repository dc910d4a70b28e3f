import type { InstanceId, NodeId } from '../../core/model/ids.ts'
import type { MoveCause } from '../spec.ts'
import { hasGivenUp, type AssignmentRecord, type Assignments } from './assignments.ts'
import type { Dispatch } from './dispatch.ts'
import type { Explanations } from './explanations.ts'
import { fenceMs } from './fences.ts'
import type { Nodes } from './nodes.ts'
import type { Placement } from './placement.ts'
import type { RootLink } from './root-link.ts'
import type { Succession } from './succession.ts'

export interface RecoveryParts {
  readonly assignments: Assignments
  readonly nodes: Nodes
  readonly root: Pick<RootLink, 'handBack'>
  readonly dispatch: Dispatch
  readonly placement: Placement
  readonly succession: Succession
  readonly explanations: Pick<Explanations, 'forget'>
  /** False once it was deleted: it will not be back. */
  readonly isEnrolled: (node: NodeId) => boolean
}

/**
 * What becomes of an instance whose node refused it, is gone, or could not start it:
 *
 *     refused ───────────────────────────────┐
 *     its node is lost ─▶ lease, if any, over ┴─▶ another node ─▶ none: it stays with a node that may come back, else back to the root
 *     failed, and its wait is over ─▶ another node, else the same one again
 */
export class Recovery {
  readonly #parts: RecoveryParts

  constructor(parts: RecoveryParts) {
    this.#parts = parts
  }

  /** It is to run as its record says: its node is told, or it is placed. */
  async again(id: InstanceId): Promise<void> {
    const { assignments, nodes, dispatch } = this.#parts
    const record = assignments.get(id)
    const node = record?.node === undefined ? undefined : nodes.alive(record.node)
    if (record === undefined || !record.wanted) return
    if (node === undefined) return this.replace(id)
    const refusal = await dispatch.assign(node, record)
    if (refusal === undefined || !nodes.alive(node.id)) return
    dispatch.askToEnd(node, id)
    await this.replace(id, new Set([node.id]))
  }

  /**
   * Places an instance whose node is gone or has refused it. What fits nowhere stays with a node that may come back, where it goes on
   * running for all that is known; else it is handed back to the root. A node that said so when it ended is waited for.
   */
  async replace(id: InstanceId, refusedBy: ReadonlySet<NodeId> = new Set()): Promise<void> {
    const { assignments, nodes, root, isEnrolled, dispatch, placement, explanations } = this.#parts
    const before = assignments.get(id)
    if (before === undefined || !before.wanted) return
    const former = before.node === undefined || refusedBy.has(before.node) ? undefined : before.node
    if (former !== undefined && nodes.isExpected(former)) return // it came back
    if (former !== undefined && nodes.mayReturn(former) === 'announced') return
    const fencedMs = former === undefined ? undefined : fenceMs(before.assignment.spec)
    if (former !== undefined && fencedMs !== undefined && nodes.awayMs(former) < fencedMs)
      return this.#waitForLease(before, fencedMs)
    const reason = await placement.place(id, { refusedBy, cause: causeOf(before) })
    const record = assignments.get(id)
    if (reason === undefined || record === undefined || !record.wanted) return
    if (former !== undefined && isEnrolled(former)) return this.#stay(record, former, reason)
    if (root.handBack(record, reason)) {
      assignments.delete(id)
      explanations.forget(id)
      dispatch.announce({ ...record, wanted: false })
    } else if (record.detail !== reason) dispatch.change(id, { detail: reason })
  }

  /** It may still run there; `retry` comes back to it. */
  #waitForLease({ assignment, detail }: AssignmentRecord, fencedMs: number): void {
    const told = `its node is lost, and its lease there has not surely run out: that takes ${Math.ceil(fencedMs / 1_000)} s`
    if (detail !== told) this.#parts.dispatch.change(assignment.instance, { detail: told })
  }

  /** No other node here can take it. The root looks for room in other clusters, unless the node's process may be starting again. */
  async #stay(record: AssignmentRecord, former: NodeId, reason: string): Promise<void> {
    const { nodes, dispatch } = this.#parts
    const { instance } = record.assignment
    if (nodes.isExpected(former)) {
      if (record.node !== undefined) return // it came back, and has said what runs there
      dispatch.change(instance, { node: former, state: 'placed' })
      return this.again(instance)
    }
    const detail = `node ${former} was lost, where it may still run; no other can take it: ${reason}`.slice(0, 2_000)
    const noOtherNode = nodes.mayReturn(former) === undefined ? true : undefined
    const isSaid = record.state === 'lost' && record.detail === detail
    const isKnown = isSaid && record.node === former && record.noOtherNode === noOtherNode
    if (!isKnown) dispatch.change(instance, { node: former, state: 'lost', detail, noOtherNode })
  }

  /** Its worker could not start it: tried on another node that has room, else on the same one again. */
  async recover(id: InstanceId): Promise<void> {
    const { assignments, nodes, dispatch, placement, succession } = this.#parts
    const before = assignments.get(id)
    const node = before?.node === undefined ? undefined : nodes.alive(before.node)
    if (before === undefined || node === undefined || !before.wanted || !hasGivenUp(before)) return
    succession.withdraw(before)
    const reason = await placement.place(id, { refusedBy: new Set([node.id]), cause: causeOf(before) })
    if (reason === undefined) return dispatch.askToEnd(node, id)
    const record = assignments.get(id)
    if (record === undefined || !record.wanted) return
    dispatch.change(id, { node: node.id, state: 'failed', detail: before.detail, retryAt: undefined })
    await dispatch.assign(node, assignments.get(id) as AssignmentRecord)
  }
}

/** Of a move that nobody asked for. */
function causeOf({ state, detail }: AssignmentRecord): MoveCause | undefined {
  if (detail === undefined || (state !== 'lost' && state !== 'failed')) return undefined
  return { by: 'cluster', why: detail.slice(0, 500) }
}
