import { isMeshError, MeshError } from '../../core/errors.ts'
import type { Log } from '../../core/kit/log.ts'
import type { NodeId } from '../../core/model/ids.ts'
import { reasonOf } from '../link/reason.ts'
import { isNewerRun, isReportOf, type Assignment, type InstanceReport } from '../spec.ts'
import { isFinished, type AssignmentRecord, type Assignments } from './assignments.ts'
import type { Dispatch } from './dispatch.ts'
import type { Nodes } from './nodes.ts'
import type { Placement } from './placement.ts'
import type { Recovery } from './recovery.ts'
import { nextRun } from './runs.ts'
import type { Replaced } from './replacing.ts'
import type { Succession } from './succession.ts'

export interface NewerDocumentsParts {
  readonly assignments: Assignments
  readonly nodes: Nodes
  readonly dispatch: Dispatch
  readonly placement: Placement
  readonly succession: Succession
  readonly recovery: Recovery
  readonly log: Log
}

/** `moved`: it was running, and has gone to another node. `gap`: why it was stopped before another one could start. */
export interface Outcome {
  moved: boolean
  gap?: string
  /** Of one that is new here. */
  node?: NodeId
}

export interface DelegateOptions {
  keepsPlace?: boolean | undefined
  /** How a newer generation takes the place of the one that runs; after that was stopped when absent. */
  replacement?: 'beside' | 'beside-if-possible' | undefined
  /** One that is new here goes to this node, or to none. */
  to?: NodeId | undefined
}

/**
 * What a newer document means for an instance that is here:
 *
 *     of the same generation: the run takes it over ─▶ its node no longer meets it: it goes to another
 *     of a newer one: a successor beside it, or it is stopped first; a job runs again
 */
export class NewerDocuments {
  readonly #parts: NewerDocumentsParts

  constructor(parts: NewerDocumentsParts) {
    this.#parts = parts
  }

  /** A newer generation of an instance that is here. What does not run now is not there to be called: it needs no successor. */
  async update(
    record: AssignmentRecord,
    assignment: Assignment,
    replacement: DelegateOptions['replacement'],
  ): Promise<Outcome> {
    const { succession, recovery } = this.#parts
    const { instance } = assignment
    if (record.successor?.assignment.generation === assignment.generation) {
      await succession.begin(instance, { where: 'here', assignment })
      return { moved: false }
    }
    const hasRun = record.node !== undefined && !['requested', 'unplaceable', 'failed', 'lost'].includes(record.state)
    const isNewer = isNewerRun(assignment, record.assignment)
    if (replacement === undefined || !hasRun || !isNewer || assignment.spec.oneShot) {
      await this.#renew(record, assignment)
      return { moved: false }
    }
    const mayGap = replacement === 'beside-if-possible'
    const { gap } = await succession.begin(instance, { where: 'here', assignment, mayGap })
    if (gap === undefined) return { moved: false }
    await recovery.again(instance)
    return { moved: false, gap }
  }

  /** A job that is over, once more. */
  async runAgain(record: AssignmentRecord): Promise<Replaced> {
    const { assignments, nodes, dispatch, recovery } = this.#parts
    const assignment = nextRun(record)
    const { instance } = assignment
    const node = record.node !== undefined && nodes.isExpected(record.node) ? record.node : undefined
    dispatch.change(instance, {
      assignment,
      state: 'placed',
      detail: undefined,
      restarts: 0,
      retryAt: undefined,
      node,
    })
    await recovery.again(instance)
    const now = assignments.get(instance)
    if (now?.node === undefined) throw new MeshError('UNPLACEABLE', { reason: now?.detail ?? 'no node can take it' })
    return { node: now.node }
  }

  /** Same instance, newer spec or generation: sent to its worker, or placed if it has none. */
  async #renew(record: AssignmentRecord, assignment: Assignment): Promise<void> {
    const { dispatch, succession, recovery } = this.#parts
    const { instance, generation } = assignment
    const isNewer = generation > record.assignment.generation
    succession.withdraw(record)
    const isAgain = isNewer && assignment.spec.oneShot
    dispatch.change(instance, {
      assignment,
      ...(isNewer ? { state: 'placed' } : {}),
      ...(isAgain ? { detail: undefined, restarts: 0, retryAt: undefined } : {}),
    })
    await recovery.again(instance)
  }

  /** What the node has runs, or is missing, or follows an earlier document. */
  async catchUp(record: AssignmentRecord, report: InstanceReport | undefined): Promise<void> {
    const { recovery, log } = this.#parts
    const { assignment } = record
    const { instance } = assignment
    if (report === undefined || !isReportOf(report, assignment)) return recovery.again(instance)
    try {
      await this.takeOver(record, assignment, { keepsPlace: false })
    } catch (error) {
      if (!isMeshError(error, 'UNPLACEABLE')) throw error
      log.warn('instance follows an earlier document', {
        instance,
        node: record.node,
        reason: reasonOf(error),
      })
    }
  }

  /** The running instance learns what needs no restart. Where its node does not meet the document any more, it goes to another. */
  async takeOver(
    record: AssignmentRecord,
    assignment: Assignment,
    { keepsPlace }: { keepsPlace: boolean },
  ): Promise<Outcome> {
    const { nodes, placement, dispatch, succession, assignments } = this.#parts
    const { instance } = assignment
    if (isFinished(record)) {
      dispatch.change(instance, { assignment })
      return { moved: false } // a job that is over is not moved for it
    }
    const node = record.node === undefined ? undefined : nodes.alive(record.node)
    const unsuited =
      node && ((await placement.unsuited(node, assignment)) ?? (await dispatch.assign(node, { assignment })))
    if (unsuited !== undefined && keepsPlace) throw new MeshError('UNPLACEABLE', { reason: unsuited })
    if (unsuited !== undefined && node !== undefined && record.state === 'running' && !assignment.spec.oneShot) {
      try {
        const cause = { by: 'cluster', why: unsuited.slice(0, 500) } as const
        await succession.begin(instance, { where: 'elsewhere', assignment, cause })
        return { moved: false } // not yet
      } catch (error) {
        throw new MeshError('UNPLACEABLE', { reason: nowhereElse(node.id, unsuited, reasonOf(error)) })
      }
    }
    dispatch.change(instance, { assignment })
    if (node === undefined || unsuited === undefined) return { moved: false } // one that is away learns it when it is back
    const reason = await placement.place(instance, { refusedBy: new Set([node.id]) })
    if (reason === undefined) {
      dispatch.askToEnd(node, instance)
      return { moved: true }
    }
    if (assignments.get(instance)?.wanted === true) dispatch.change(instance, record) // as it was
    throw new MeshError('UNPLACEABLE', { reason: nowhereElse(node.id, unsuited, reason) })
  }
}

function nowhereElse(node: NodeId, unsuited: string, others: string): string {
  return `${node}: ${unsuited}; others: ${others}`.slice(0, 1_900)
}
