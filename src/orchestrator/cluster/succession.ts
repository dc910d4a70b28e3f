import type { InstanceId, NodeId } from '../../core/model/ids.ts'
import { REFUSED_ALREADY } from '../scheduling/filters.ts'
import { HOPELESS_RESTARTS } from '../scheduling/progress.ts'
import { isReportOf, isSameRun, type Assignment, type InstanceReport, type MoveCause } from '../spec.ts'
import type { AssignmentRecord, Successor } from './assignments.ts'
import type { AssignmentChange } from './dispatch.ts'
import { FailedMoves, isMove } from './failed-moves.ts'
import { LeavingRuns, withLeaving } from './leaving-runs.ts'
import type { LinkedNode } from './nodes.ts'
import {
  NEVER_TWICE,
  refused,
  type Replaced,
  type ReplaceOptions,
  type SuccessionParts,
  type Wish,
} from './replacing.ts'
import { asTold, nextRun, withEpoch } from './runs.ts'

/**
 * Replaces the run of an instance by another one, without a moment in which none answers:
 *
 *     serves ─┬─────────────────────────────▶ leaving: HANDOVER_MS later it drains, and is gone
 *             └▶ successor: placed ─▶ starting ─▶ running: serves
 *                              └─▶ its node lost, or a move that failed: the one that serves stays
 *
 * On one node the worker switches by itself (worker/slot.ts), and its report says so; between nodes the tables say which one to call.
 *
 * What never runs twice (`lease_seconds`) has no successor: leased-moves.ts.
 */
export class Succession {
  readonly #parts: SuccessionParts
  readonly #leaving: LeavingRuns
  readonly #failedMoves: FailedMoves

  constructor(parts: SuccessionParts) {
    this.#parts = parts
    this.#leaving = new LeavingRuns(parts)
    this.#failedMoves = new FailedMoves(parts.clock)
  }

  /**
   * Resolves when a node has accepted the successor; the switch follows by itself.
   * @throws MeshError UNPLACEABLE with the reason; then nothing has changed
   */
  async begin(id: InstanceId, { where, assignment, mayGap = false, cause }: ReplaceOptions): Promise<Replaced> {
    const record = this.#parts.assignments.get(id)
    if (record === undefined || !record.wanted) throw refused('it is not here')
    const { successor } = record
    if (successor !== undefined && assignment?.generation === successor.assignment.generation)
      return this.#renew(record, successor, assignment)
    const next = nextRun(record, assignment)
    if (next.spec.oneShot) throw refused('a job does not run twice at the same time')
    const isSingle = next.spec.leaseSeconds !== undefined
    if (where === 'here' && isSingle && mayGap) return this.#inPlace(record, next, NEVER_TWICE)
    if (isSingle && where !== 'here') return this.#withLease(record, next, { where, cause })
    if (isSingle) throw refused(NEVER_TWICE)
    if (where === 'here') return this.#besideIt(record, next, mayGap)
    if (record.node === undefined) throw refused('it has no place yet')
    return this.#elsewhere(record, next, { where, cause })
  }

  /** True when the report was about a run other than the one that serves: it needs no further attention. */
  takeReport(node: LinkedNode, report: InstanceReport): boolean {
    const record = this.#parts.assignments.get(report.instance)
    if (record === undefined || !record.wanted || record.node === node.id) return false
    const { successor, leaving } = record
    if (successor?.node === node.id && isReportOf(report, successor.assignment)) {
      this.#follow(record, successor, report)
      return true
    }
    if (leaving?.includes(node.id) !== true) return false
    if (report.state === 'stopped') this.#leaving.drained(report.instance, node.id)
    return true
  }

  /** What a report of the serving run's node means for its successor. */
  successorOf({ successor }: AssignmentRecord, report: InstanceReport): AssignmentChange | undefined {
    if (successor === undefined) return undefined
    if (isReportOf(report, successor.assignment)) return { assignment: successor.assignment, ...NO_SUCCESSOR }
    const { successor: told } = report
    if (told === undefined || !isSameRun(told, successor.assignment)) return undefined
    return { successor: asTold(successor, told) }
  }

  /** The run that serves is gone, with its node or by itself: its successor serves, ready or not. False where there is none elsewhere. */
  takesOver(record: AssignmentRecord): boolean {
    const { successor, assignment, node } = record
    if (successor === undefined || successor.node === node) return false
    const { state, detail, restarts, cause } = successor
    this.#parts.log.info('successor serves: the instance it was to replace is gone', { instance: assignment.instance })
    this.#parts.dispatch.change(assignment.instance, {
      assignment: successor.assignment,
      node: successor.node,
      state,
      detail,
      restarts,
      retryAt: undefined,
      cause,
      ...NO_SUCCESSOR,
    })
    return true
  }

  nodeLost(node: NodeId): void {
    for (const record of this.#parts.assignments.replacing()) {
      const { successor, assignment, leaving } = record
      if (leaving?.includes(node) === true) this.#leaving.left(assignment.instance, node)
      if (successor?.node === node) this.#abandon(record, `node ${node} was lost`)
    }
  }

  /** After a node's hello: what it should have of successors and has not is assigned again. */
  async nodeBack(node: LinkedNode, reports: readonly InstanceReport[]): Promise<void> {
    const { assignments, dispatch } = this.#parts
    const has = new Map(reports.map((report) => [report.instance, report]))
    for (const record of assignments.replacing()) {
      const { successor, assignment, leaving } = record
      const { instance } = assignment
      const report = has.get(instance)
      if (leaving?.includes(node.id) === true && record.node !== node.id && report === undefined)
        this.#leaving.left(instance, node.id)
      if (successor === undefined || successor.node !== node.id) continue
      const told = record.node === node.id ? report?.successor : report
      if (told !== undefined && isReportOf(told, successor.assignment)) continue
      const refusal = await dispatch.assign(node, successor, 'beside')
      const now = assignments.get(instance)
      if (refusal !== undefined && now?.successor?.node === node.id) this.#abandon(now, refusal)
    }
  }

  /** Asks again for the end of runs that should have ended. */
  retry(): void {
    const { assignments } = this.#parts
    for (const { record, why } of this.#failedMoves.slow(assignments.replacing())) this.#abandon(record, why)
    for (const { assignment, leaving = [] } of assignments.replacing())
      for (const node of leaving) this.#leaving.askToLeave(assignment.instance, node)
  }

  /** The instance is withdrawn as a whole: every run but the one that serves is to end. */
  withdraw({ assignment, node, successor, leaving = [] }: AssignmentRecord): void {
    const { instance } = assignment
    for (const other of leaving) {
      this.#leaving.stopHandover(instance, other)
      this.#leaving.askToLeave(instance, other)
    }
    if (successor === undefined) return
    if (successor.node !== node) this.#end(successor, node)
    this.#parts.dispatch.change(instance, NO_SUCCESSOR)
  }

  close(): void {
    this.#leaving.close()
  }

  async #withLease(record: AssignmentRecord, next: Assignment, { where, cause }: Wish): Promise<Replaced> {
    const to = where === 'elsewhere' ? undefined : where.node
    const begun = await this.#parts.leased.begin(record, next, { to, cause })
    if ('refused' in begun) throw refused(begun.refused)
    return { ...begun, gap: NEVER_TWICE }
  }

  /** The same successor, with a newer document that a running one takes over. */
  async #renew(record: AssignmentRecord, successor: Successor, assignment: Assignment): Promise<Replaced> {
    const { dispatch, nodes } = this.#parts
    const { instance } = assignment
    const next = withEpoch(assignment, successor.assignment)
    dispatch.change(instance, { successor: { ...successor, assignment: next } })
    const node = nodes.alive(successor.node)
    const refusal = node && (await dispatch.assign(node, { assignment: next }, 'beside'))
    if (refusal === undefined) return { node: successor.node }
    this.#abandon(record, refusal)
    throw refused(refusal)
  }

  async #besideIt(record: AssignmentRecord, next: Assignment, mayGap: boolean): Promise<Replaced> {
    const { nodes, dispatch } = this.#parts
    const { instance } = next
    if (record.node === undefined) throw refused('it has no place yet')
    const node = nodes.alive(record.node)
    this.#supersede(record, record.node, next)
    const refusal = node && (await dispatch.assign(node, { assignment: next }, 'beside'))
    if (refusal === undefined || nodes.alive(record.node) === undefined) return { node: record.node } // one that is away learns it when it is back
    if (!mayGap) {
      dispatch.change(instance, NO_SUCCESSOR)
      throw refused(refusal)
    }
    return this.#inPlace(record, next, refusal)
  }

  /** The one that serves is stopped first. */
  #inPlace({ node }: AssignmentRecord, next: Assignment, gap: string): Replaced {
    if (node === undefined) throw refused('it has no place yet')
    const { instance } = next
    this.#parts.log.warn('instance is stopped before its successor starts', { instance, reason: gap })
    this.#parts.dispatch.change(instance, { assignment: next, state: 'placed', detail: undefined, ...NO_SUCCESSOR })
    return { node, gap }
  }

  async #elsewhere(record: AssignmentRecord, next: Assignment, { where, cause }: Wish): Promise<Replaced> {
    const { assignments, placement, dispatch, root } = this.#parts
    const { instance } = next
    const isSameProgram = next.generation === record.assignment.generation
    const failed = where === 'elsewhere' && isSameProgram ? this.#failedMoves.lately(instance) : []
    const refusals = new Map<NodeId, string>([[record.node as NodeId, REFUSED_ALREADY], ...failed])
    for (;;) {
      const choice = await placement.choose(next, refusals, where === 'elsewhere' ? undefined : where.node)
      if (choice.kind === 'nowhere') throw refused(choice.reason)
      const now = assignments.get(instance)
      if (now === undefined || !now.wanted || now.node !== record.node) throw refused('it has changed meanwhile')
      const { node } = choice
      this.#supersede(now, node.id, next, cause)
      const refusal = await dispatch.assign(node, { assignment: next }, 'beside')
      if (refusal === undefined) {
        choice.keep(instance)
        return { node: node.id }
      }
      dispatch.change(instance, NO_SUCCESSOR)
      root.record({ what: 'refused', instance, node: node.id, why: refusal })
      refusals.set(node.id, refusal)
    }
  }

  /** The record has this successor, and no longer the one before it, if there was one. */
  #supersede(record: AssignmentRecord, node: NodeId, assignment: Assignment, cause?: MoveCause): void {
    const { successor } = record
    const isReplacedThere = node === record.node && successor?.node === node // the worker ends it
    if (successor !== undefined && !isReplacedThere) this.#end(successor, record.node)
    this.#leaving.stopHandover(assignment.instance, node) // an earlier run that still leaves there goes by itself
    this.#leaving.left(assignment.instance, node)
    this.#parts.dispatch.change(assignment.instance, {
      successor: { node, assignment, state: 'placed', restarts: 0, ...(cause === undefined ? {} : { cause }) },
    })
  }

  #follow(record: AssignmentRecord, successor: Successor, report: InstanceReport): void {
    const { state, detail } = report
    if (state === 'running') return this.#switch(record, successor, report)
    const isHopeless = isMove(record) && report.restarts >= HOPELESS_RESTARTS
    if (state === 'failed' || state === 'stopped' || isHopeless) return this.#abandon(record, detail ?? state)
    this.#parts.dispatch.change(report.instance, { successor: asTold(successor, report) })
  }

  #switch(record: AssignmentRecord, successor: Successor, { state, detail, restarts }: InstanceReport): void {
    const { dispatch, publisher, log } = this.#parts
    const { instance } = record.assignment
    const before = record.node as NodeId
    dispatch.change(instance, {
      assignment: successor.assignment,
      node: successor.node,
      state,
      detail,
      restarts,
      retryAt: undefined,
      noOtherNode: undefined,
      cause: successor.cause,
      leaving: withLeaving(record.leaving ?? [], before, successor.node),
      ...NO_SUCCESSOR,
    })
    publisher.flush()
    log.info('instance moved', { instance, from: before, node: successor.node })
    this.handOver(instance, before)
  }

  /** The run there is no longer called: it drains once everybody knows. */
  handOver(instance: InstanceId, node: NodeId, options?: { isFar: boolean }): void {
    this.#leaving.handOver(instance, node, options)
  }

  isHandingOver(instance: InstanceId, node: NodeId): boolean {
    return this.#leaving.isHandingOver(instance, node)
  }

  /** The one that serves stays. */
  #abandon(record: AssignmentRecord, reason: string): void {
    const { log, root } = this.#parts
    const { assignment, successor, node } = record
    const { instance } = assignment
    log.warn('instance not replaced', { instance, node: successor?.node, reason })
    if (isMove(record)) {
      const { node: there } = record.successor
      this.#failedMoves.failed(instance, there, reason)
      const why = `it did not get ready there, and stays on ${node}: ${reason}`
      root.record({ what: 'failed', instance, node: there, why })
    }
    if (successor !== undefined) this.#end(successor, node)
    this.#parts.dispatch.change(instance, NO_SUCCESSOR)
  }

  /** At once. On a node that is away it ends when that is back, and is told what to keep. */
  #end({ node, assignment }: Successor, serving: NodeId | undefined): void {
    const { nodes, dispatch } = this.#parts
    const linked = nodes.alive(node)
    if (linked === undefined) return
    if (node === serving) dispatch.cancel(linked, assignment)
    else dispatch.askToEnd(linked, assignment.instance, true)
  }
}

const NO_SUCCESSOR = { successor: undefined }
