import { MeshError } from '../../core/errors.ts'
import type { Clock } from '../../core/kit/clock.ts'
import type { Log } from '../../core/kit/log.ts'
import { SlicedWork } from '../../core/kit/sliced-work.ts'
import type { Metrics } from '../../core/metrics.ts'
import type { InstanceId, NodeId } from '../../core/model/ids.ts'
import type { Rules } from '../scheduling/schedule.ts'
import { isNewerRun, isReportOf, type Assignment, type InstanceReport, type RunKey, type ServiceSpec } from '../spec.ts'
import { hasGivenUp, isFinished, type AssignmentRecord, type Assignments } from './assignments.ts'
import { Explanations } from './explanations.ts'
import type { ClusterStore } from './cluster-store.ts'
import { Dispatch } from './dispatch.ts'
import { FailedStarts } from './failed-starts.ts'
import { Placement, type Explained } from './placement.ts'
import { LeasedMoves } from './leased-moves.ts'
import type { LinkedNode, Nodes } from './nodes.ts'
import type { LatencyAnchors } from './latency-anchors.ts'
import { NewerDocuments, type DelegateOptions, type Outcome } from './newer-documents.ts'
import type { Publisher } from './publisher.ts'
import { Recovery } from './recovery.ts'
import type { RootLink } from './root-link.ts'
import { withEpoch } from './runs.ts'
import type { Replaced, ReplaceOptions } from './replacing.ts'
import { Succession } from './succession.ts'

export interface SchedulerParts {
  store: ClusterStore
  assignments: Assignments
  nodes: Nodes
  anchors: LatencyAnchors
  rules: Rules
  publisher: Publisher
  root: RootLink
  /** False once it was deleted: it will not be back. */
  isEnrolled: (node: NodeId) => boolean
  clock: Clock
  log: Log
  metrics: Metrics
}

export interface WithdrawOptions {
  atOnce?: boolean | undefined
  /** It runs in another cluster since a moment ago: what is on its way is still taken. */
  isReplaced?: boolean | undefined
}

/**
 * Decides which node runs what, hands the instances out and follows their reports. Nodes may refuse, fail and come back; an
 * instance leaves this cluster only when it is withdrawn, or handed back to the root.
 */
export class Scheduler {
  readonly #parts: SchedulerParts
  /** Of one instance one thing at a time. A decision writes its record in the same step, so that no two count on the same free capacity. */
  readonly #work: SlicedWork
  readonly #failedStarts: FailedStarts
  readonly #dispatch: Dispatch
  readonly #placement: Placement
  readonly #leased: LeasedMoves
  readonly #succession: Succession
  readonly #recovery: Recovery
  readonly #documents: NewerDocuments
  /** Why instances are where they are. */
  readonly explanations: Explanations
  #isClosed = false

  constructor(parts: SchedulerParts) {
    this.#parts = parts
    this.#work = new SlicedWork({
      together: (slice) => parts.store.database.transaction(slice),
      onFailure: (error) => parts.log.error('placing instances failed', { error }),
    })
    this.#failedStarts = new FailedStarts(parts.clock)
    this.explanations = new Explanations(parts)
    const own = { explanations: this.explanations, failedStarts: this.#failedStarts }
    this.#dispatch = new Dispatch({ ...parts, ...own })
    this.#placement = new Placement({ ...parts, ...own, dispatch: this.#dispatch })
    const placing = { ...parts, dispatch: this.#dispatch, placement: this.#placement }
    this.#leased = new LeasedMoves({ ...placing, background: (id, work) => this.#background(id, work) })
    this.#succession = new Succession({ ...placing, leased: this.#leased })
    this.#recovery = new Recovery({ ...placing, ...own, succession: this.#succession })
    this.#documents = new NewerDocuments({ ...placing, succession: this.#succession, recovery: this.#recovery })
  }

  /**
   * Takes an instance from the root and places it on a node. With `keepsPlace` one that is here takes the new document over where it
   * is, or nothing changes.
   * @throws MeshError UNPLACEABLE with counted reasons
   */
  delegate(given: Assignment, { keepsPlace = false, replacement, to }: DelegateOptions = {}): Promise<Outcome> {
    return this.#enqueue(given.instance, async () => {
      const { assignments } = this.#parts
      const record = assignments.get(given.instance)
      const assignment = record === undefined ? given : withEpoch(given, record.assignment)
      if (record?.wanted === false)
        throw new MeshError('UNPLACEABLE', { reason: 'an earlier instance of this number is still stopping here' })
      if (record !== undefined && isTakenOver(record.assignment, assignment))
        return this.#documents.takeOver(record, assignment, { keepsPlace })
      if (record !== undefined) return this.#documents.update(record, assignment, replacement)
      const taken: AssignmentRecord = { assignment, wanted: true, state: 'requested', restarts: 0 }
      assignments.put(taken)
      const reason = await this.#placement.place(assignment.instance, { only: to })
      const { node } = assignments.get(assignment.instance) ?? {}
      if (reason === undefined) return { moved: false, ...(node === undefined ? {} : { node }) }
      assignments.delete(assignment.instance)
      this.#dispatch.announce(taken)
      throw new MeshError('UNPLACEABLE', { reason })
    })
  }

  /**
   * Another run takes the place of the one that serves, which drains once the other is ready. Resolves when a node has accepted it.
   * @throws MeshError UNPLACEABLE with the reason; then nothing has changed
   */
  replace(id: InstanceId, options: ReplaceOptions): Promise<Replaced> {
    return this.#enqueue(id, async () => {
      const record = this.#parts.assignments.get(id)
      if (record !== undefined && record.wanted && isFinished(record) && options.where === 'here')
        return this.#documents.runAgain(record)
      const replaced = await this.#succession.begin(id, options)
      if (replaced.gap !== undefined) await this.#recovery.again(id)
      return replaced
    })
  }

  /**
   * The instance drains, or with `atOnce` does not, and is gone when its worker reports that it has stopped; without a place it is
   * gone at once.
   */
  withdraw(id: InstanceId, { atOnce, isReplaced }: WithdrawOptions = {}): void {
    if (this.#isClosed) return
    const record = this.#parts.assignments.get(id)
    if (record === undefined) return
    this.#succession.withdraw(record)
    const node = record.node === undefined ? undefined : this.#parts.nodes.alive(record.node)
    if (record.node === undefined || (node === undefined && !this.#parts.nodes.isExpected(record.node)))
      return this.#dispatch.end(record)
    const isHurried = atOnce === true && record.atOnce === undefined
    // one that is replaced is called here until the root has said where else
    const state = isReplaced === true ? record.state : 'stopping'
    if (record.wanted || isHurried)
      this.#dispatch.change(id, { wanted: false, state, ...(isHurried ? { atOnce: true } : {}) })
    if (node === undefined || (this.#succession.isHandingOver(id, node.id) && atOnce !== true)) return
    if (isReplaced === true) this.#succession.handOver(id, node.id, { isFar: true })
    else this.#dispatch.askToEnd(node, id, isHurried || record.atOnce === true)
  }

  /** In order, in one transaction with what else is begun in the same turn. @throws MeshError NOT_RUNNING */
  together<T>(work: () => Promise<T>): Promise<T> {
    return this.#isClosed
      ? Promise.reject(new MeshError('NOT_RUNNING', { what: 'the cluster' }))
      : this.#work.continued(work)
  }

  /** How many of the nodes here would not take an instance of the service, for which reason. */
  explain(spec: ServiceSpec): Promise<Explained> {
    return this.#placement.explain(spec)
  }

  /** Where so many more instances would go now. */
  preview(spec: ServiceSpec, instances: number): Promise<{ nodes: NodeId[]; reason?: string }> {
    return this.#placement.preview(spec, instances)
  }

  /** The root and people learn which constraint the instance does not keep to there; `undefined`: none any more. */
  tellViolation(id: InstanceId, node: NodeId, violation: string | undefined): void {
    const { assignments, root } = this.#parts
    const record = assignments.get(id)
    if (this.#isClosed || record === undefined) return
    // while it is violated its text changes with the measurements
    if (violation === undefined) root.record({ what: 'kept', instance: id, node })
    else if (record.violation === undefined) root.record({ what: 'violated', instance: id, node, why: violation })
    this.#dispatch.change(id, { violation })
  }

  /** When it moved for its constraints, milliseconds since 1970: that damps the next move, also after a restart. */
  tellConstraintMoves(id: InstanceId, constraintMoves: number[]): void {
    if (!this.#isClosed) this.#dispatch.change(id, { constraintMoves })
  }

  /**
   * Reports of a worker. An instance that does not belong on this node is withdrawn from it. It drains, as it may just have moved and the
   * report have crossed the withdrawal, unless the node `isBack`: what is placed elsewhere meanwhile ends at once.
   */
  takeReports(node: LinkedNode, reports: readonly InstanceReport[], { isBack = false } = {}): void {
    if (this.#isClosed) return
    const { assignments, clock } = this.#parts
    for (const report of reports) {
      if (this.#succession.takeReport(node, report)) continue
      const record = assignments.get(report.instance)
      if (record?.node !== node.id) {
        const isEnding = report.state === 'stopped' || report.state === 'failed' || report.state === 'stopping'
        if (!isEnding) this.#dispatch.askToEnd(node, report.instance, isBack && record?.wanted === true)
        continue
      }
      if (!record.wanted && report.state === 'stopped') {
        this.#dispatch.end(record)
        continue
      }
      if (isBefore(report, record.assignment)) continue // from before it was replaced
      if (this.#leased.takeReport(record, report)) continue
      const { state, detail, restarts, retryInMs } = report
      if (state === 'running') this.#failedStarts.forget(report.instance)
      if (state === 'failed' && this.#succession.takesOver(record)) continue
      this.#dispatch.change(report.instance, {
        state: record.wanted ? state : 'stopping',
        detail,
        restarts,
        retryAt: retryInMs === undefined ? undefined : clock.wall() + retryInMs,
        noOtherNode: undefined,
        ...this.#succession.successorOf(record, report),
      })
    }
  }

  /** The node is lost: its instances are marked so, and placed elsewhere. */
  nodeLost(node: NodeId): void {
    if (this.#isClosed) return
    const { assignments, log } = this.#parts
    this.#succession.nodeLost(node)
    const there = assignments.on(node).filter((record) => !record.wanted || !this.#succession.takesOver(record))
    for (const record of there) {
      if (!record.wanted) this.#dispatch.end(record)
      else if (!isFinished(record))
        this.#dispatch.change(record.assignment.instance, {
          state: 'lost',
          detail: `node ${node} was lost`,
          mayRunOn: nodesLeft(record, node),
        })
    }
    if (there.length > 0) log.warn('instances lost with their node', { node, count: there.length })
    this.retry()
  }

  /** The node is back, and is told what to end. */
  #isSettled(node: NodeId): void {
    const { assignments } = this.#parts
    for (const { assignment, mayRunOn, noOtherNode, node: place } of assignments.all()) {
      const { instance } = assignment
      if (mayRunOn?.includes(node)) {
        const others = mayRunOn.filter((other) => other !== node)
        this.#dispatch.change(instance, { mayRunOn: others.length === 0 ? undefined : others })
      }
      if (noOtherNode === true && place === node) this.#dispatch.change(instance, { noOtherNode: undefined })
    }
  }

  /** A returning node keeps what it still runs, if that has no other place yet. Call before the response to its hello says what to keep. */
  adopt(node: NodeId, reports: readonly InstanceReport[]): void {
    const { assignments } = this.#parts
    for (const report of reports) {
      const { instance } = report
      const record = assignments.get(instance)
      if (record === undefined || !record.wanted || record.node !== undefined) continue
      if (isReportOf(report, record.assignment)) this.#dispatch.change(instance, { node, cause: undefined })
    }
  }

  /** After a node's hello: assigns again what it should run and does not. */
  nodeBack(node: LinkedNode, reports: readonly InstanceReport[]): void {
    if (this.#isClosed) return
    this.#isSettled(node.id)
    this.takeReports(node, reports, { isBack: true })
    void this.#background(`node ${node.id}`, () => this.#succession.nodeBack(node, reports))
    const has = new Map(reports.map((report) => [report.instance, report]))
    for (const record of this.#parts.assignments.on(node.id)) {
      const { instance } = record.assignment
      if (!record.wanted) this.withdraw(instance)
      else if (this.#leased.goOn(record)) continue
      else if (!isFinished(record) && isBehind(has.get(instance), record.assignment))
        void this.#background(instance, () => this.#documents.catchUp(record, has.get(instance)))
    }
    this.retry()
  }

  /** Tries again to place what has no living node. Called every few seconds, and when a node comes or goes. */
  retry(): void {
    if (this.#isClosed) return
    const { assignments, nodes, clock } = this.#parts
    this.#succession.retry()
    for (const record of assignments.all()) {
      const { instance } = record.assignment
      if (isFinished(record)) continue
      if (!record.wanted) this.withdraw(instance)
      else if (this.#leased.goOn(record)) continue
      else if (record.node === undefined || !nodes.isExpected(record.node)) {
        void this.#background(instance, () => this.#recovery.replace(instance))
      } else if (hasGivenUp(record)) {
        if (this.#failedStarts.isDue(instance)) void this.#background(instance, () => this.#recovery.recover(instance))
        else if (record.retryAt === undefined)
          this.#dispatch.change(instance, { retryAt: clock.wall() + this.#failedStarts.waitMs(instance) })
      }
    }
  }

  async close(): Promise<void> {
    this.#isClosed = true
    this.#placement.close()
    this.#succession.close()
    this.#work.clear()
    await this.#work.onIdle()
    this.explanations.close()
  }

  async #enqueue<T>(instance: InstanceId, work: () => Promise<T>): Promise<T> {
    if (this.#isClosed) throw new MeshError('LINK_CLOSED', { reason: 'the cluster is closing' })
    return this.#work.add(instance, work)
  }

  async #background(key: string, work: () => Promise<void>): Promise<void> {
    try {
      if (!this.#isClosed) await this.#work.add(key, work)
    } catch (error) {
      if (!this.#isClosed) this.#parts.log.error('placing an instance failed', { error })
    }
  }
}

/** Of the same generation, so that a running instance can take it over. */
function isTakenOver(before: Assignment, after: Assignment): boolean {
  return before.generation === after.generation && (before.revision ?? 0) < (after.revision ?? 0)
}

/** The report is about an earlier run than this one. */
function isBefore({ generation, epoch }: RunKey, run: RunKey): boolean {
  return isNewerRun(run, { generation, epoch: epoch ?? run.epoch ?? 0 })
}

/** True when the node does not have it, or not as its document is now. */
function isBehind(report: InstanceReport | undefined, { generation, revision = 0, epoch = 0 }: Assignment): boolean {
  if (report === undefined || isBefore(report, { generation, epoch })) return true
  return report.generation === generation && (report.revision ?? 0) < revision
}

/** More are of no use to anybody who looks. */
const MOST_LEFT = 16

/** What an external service is, its node does not run. */
function nodesLeft({ assignment, mayRunOn = [] }: AssignmentRecord, lost: NodeId): NodeId[] | undefined {
  const { runtime, leaseSeconds } = assignment.spec
  if (runtime === 'external' || leaseSeconds !== undefined) return undefined // with a lease it ends there first
  return [...mayRunOn.filter((node) => node !== lost), lost].slice(-MOST_LEFT)
}
