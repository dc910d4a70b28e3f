import { isMeshError, MeshError } from '../../core/errors.ts'
import type { Clock } from '../../core/kit/clock.ts'
import type { Log } from '../../core/kit/log.ts'
import { SlicedWork } from '../../core/kit/sliced-work.ts'
import type { Metrics } from '../../core/metrics.ts'
import type { InstanceId, NodeId } from '../../core/model/ids.ts'
import { reasonOf } from '../link/reason.ts'
import type { Rules } from '../scheduling/schedule.ts'
import { isNewerRun, isReportOf, type Assignment, type InstanceReport, type RunKey, type ServiceSpec } from '../spec.ts'
import { hasGivenUp, isFinished, type AssignmentRecord, type Assignments } from './assignments.ts'
import { Explanations } from './explanations.ts'
import type { ClusterStore } from './cluster-store.ts'
import { Dispatch } from './dispatch.ts'
import { fenceMs } from './fences.ts'
import { FailedStarts } from './failed-starts.ts'
import { Placement, type Explained } from './placement.ts'
import type { LinkedNode, Nodes } from './nodes.ts'
import type { LatencyAnchors } from './latency-anchors.ts'
import type { Publisher } from './publisher.ts'
import type { RootLink } from './root-link.ts'
import { nextRun, withEpoch } from './runs.ts'
import { type Replaced, type ReplaceOptions, Succession } from './succession.ts'

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

/** `moved`: it was running, and has gone to another node. `gap`: why it was stopped before another one could start. */
export interface Outcome {
  moved: boolean
  gap?: string
  /** Of one that is new here. */
  node?: NodeId
}

export interface WithdrawOptions {
  atOnce?: boolean | undefined
  /** It runs in another cluster since a moment ago: what is on its way is still taken. */
  isReplaced?: boolean | undefined
}

export interface DelegateOptions {
  keepsPlace?: boolean | undefined
  /** How a newer generation takes the place of the one that runs; after that was stopped when absent. */
  replacement?: 'beside' | 'beside-if-possible' | undefined
  /** One that is new here goes to this node, or to none. */
  to?: NodeId | undefined
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
  readonly #succession: Succession
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
    this.#dispatch = new Dispatch({ ...parts, failedStarts: this.#failedStarts })
    this.explanations = new Explanations(parts)
    this.#placement = new Placement({ ...parts, dispatch: this.#dispatch, explanations: this.explanations })
    this.#succession = new Succession({ ...parts, dispatch: this.#dispatch, placement: this.#placement })
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
        return this.#takeOver(record, assignment, { keepsPlace })
      if (record !== undefined) return this.#update(record, assignment, replacement)
      const taken: AssignmentRecord = { assignment, wanted: true, state: 'requested', restarts: 0 }
      assignments.put(taken)
      const reason = await this.#placement.place(assignment.instance, new Set(), to)
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
        return this.#runAgain(record)
      const replaced = await this.#succession.begin(id, options)
      if (replaced.gap !== undefined) await this.#again(id)
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
    if (record.wanted || isHurried)
      this.#dispatch.change(id, { wanted: false, state: 'stopping', ...(isHurried ? { atOnce: true } : {}) })
    if (node === undefined || (this.#succession.isHandingOver(id, node.id) && atOnce !== true)) return
    if (isReplaced === true) this.#succession.handOver(id, node.id)
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

  /** The root and people learn which constraint the instance does not keep to; `undefined`: none any more. */
  tellViolation(id: InstanceId, violation: string | undefined): void {
    if (!this.#isClosed) this.#dispatch.change(id, { violation })
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
      if (isReportOf(report, record.assignment)) this.#dispatch.change(instance, { node })
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
      else if (!isFinished(record) && isBehind(has.get(instance), record.assignment))
        void this.#background(instance, () => this.#catchUp(record, has.get(instance)))
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
      else if (record.node === undefined || !nodes.isExpected(record.node)) {
        void this.#background(instance, () => this.#replace(instance))
      } else if (hasGivenUp(record)) {
        if (this.#failedStarts.isDue(instance)) void this.#background(instance, () => this.#recover(instance))
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
  }

  /** A newer generation of an instance that is here. What does not run now is not there to be called: it needs no successor. */
  async #update(
    record: AssignmentRecord,
    assignment: Assignment,
    replacement: DelegateOptions['replacement'],
  ): Promise<Outcome> {
    const { instance } = assignment
    if (record.successor?.assignment.generation === assignment.generation) {
      await this.#succession.begin(instance, { where: 'here', assignment })
      return { moved: false }
    }
    const hasRun = record.node !== undefined && !['requested', 'unplaceable', 'failed', 'lost'].includes(record.state)
    const isNewer = isNewerRun(assignment, record.assignment)
    if (replacement === undefined || !hasRun || !isNewer || assignment.spec.oneShot) {
      await this.#renew(record, assignment)
      return { moved: false }
    }
    const mayGap = replacement === 'beside-if-possible'
    const { gap } = await this.#succession.begin(instance, { where: 'here', assignment, mayGap })
    if (gap === undefined) return { moved: false }
    await this.#again(instance)
    return { moved: false, gap }
  }

  /** A job that is over, once more. */
  async #runAgain(record: AssignmentRecord): Promise<Replaced> {
    const { assignments, nodes } = this.#parts
    const assignment = nextRun(record)
    const { instance } = assignment
    const node = record.node !== undefined && nodes.isExpected(record.node) ? record.node : undefined
    this.#dispatch.change(instance, {
      assignment,
      state: 'placed',
      detail: undefined,
      restarts: 0,
      retryAt: undefined,
      node,
    })
    await this.#again(instance)
    const now = assignments.get(instance)
    if (now?.node === undefined) throw new MeshError('UNPLACEABLE', { reason: now?.detail ?? 'no node can take it' })
    return { node: now.node }
  }

  /** Same instance, newer spec or generation: sent to its worker, or placed if it has none. */
  async #renew(record: AssignmentRecord, assignment: Assignment): Promise<void> {
    const { instance, generation } = assignment
    const isNewer = generation > record.assignment.generation
    this.#succession.withdraw(record)
    const isAgain = isNewer && assignment.spec.oneShot
    this.#dispatch.change(instance, {
      assignment,
      ...(isNewer ? { state: 'placed' } : {}),
      ...(isAgain ? { detail: undefined, restarts: 0, retryAt: undefined } : {}),
    })
    await this.#again(instance)
  }

  /** What the node has runs, or is missing, or follows an earlier document. */
  async #catchUp(record: AssignmentRecord, report: InstanceReport | undefined): Promise<void> {
    const { assignment } = record
    const { instance } = assignment
    if (report === undefined || !isReportOf(report, assignment)) return this.#again(instance)
    try {
      await this.#takeOver(record, assignment, { keepsPlace: false })
    } catch (error) {
      if (!isMeshError(error, 'UNPLACEABLE')) throw error
      this.#parts.log.warn('instance follows an earlier document', {
        instance,
        node: record.node,
        reason: reasonOf(error),
      })
    }
  }

  /** The running instance learns what needs no restart. Where its node does not meet the document any more, it goes to another. */
  async #takeOver(
    record: AssignmentRecord,
    assignment: Assignment,
    { keepsPlace }: { keepsPlace: boolean },
  ): Promise<Outcome> {
    const { instance } = assignment
    if (isFinished(record)) {
      this.#dispatch.change(instance, { assignment })
      return { moved: false } // a job that is over is not moved for it
    }
    const node = record.node === undefined ? undefined : this.#parts.nodes.alive(record.node)
    const unsuited =
      node &&
      ((await this.#placement.unsuited(node, assignment)) ?? (await this.#dispatch.assign(node, { assignment })))
    if (unsuited !== undefined && keepsPlace) throw new MeshError('UNPLACEABLE', { reason: unsuited })
    if (unsuited !== undefined && node !== undefined && record.state === 'running' && !assignment.spec.oneShot) {
      try {
        await this.#succession.begin(instance, { where: 'elsewhere', assignment })
        return { moved: false } // not yet
      } catch (error) {
        throw new MeshError('UNPLACEABLE', { reason: nowhereElse(node.id, unsuited, reasonOf(error)) })
      }
    }
    this.#dispatch.change(instance, { assignment })
    if (node === undefined || unsuited === undefined) return { moved: false } // one that is away learns it when it is back
    const reason = await this.#placement.place(instance, new Set([node.id]))
    if (reason === undefined) {
      this.#dispatch.askToEnd(node, instance)
      return { moved: true }
    }
    if (this.#parts.assignments.get(instance)?.wanted === true) this.#dispatch.change(instance, record) // as it was
    throw new MeshError('UNPLACEABLE', { reason: nowhereElse(node.id, unsuited, reason) })
  }

  async #again(id: InstanceId): Promise<void> {
    const { assignments, nodes } = this.#parts
    const record = assignments.get(id)
    const node = record?.node === undefined ? undefined : nodes.alive(record.node)
    if (record === undefined || !record.wanted) return
    if (node === undefined) return this.#replace(id)
    const refusal = await this.#dispatch.assign(node, record)
    if (refusal === undefined || !nodes.alive(node.id)) return
    this.#dispatch.askToEnd(node, id)
    await this.#replace(id, new Set([node.id]))
  }

  /**
   * Places an instance whose node is gone or has refused it. What fits nowhere stays with a node that may come back, where it goes on
   * running for all that is known; else it is handed back to the root. A node that said so when it ended is waited for.
   */
  async #replace(id: InstanceId, refusedBy: ReadonlySet<NodeId> = new Set()): Promise<void> {
    const { assignments, nodes, root, isEnrolled } = this.#parts
    const before = assignments.get(id)
    if (before === undefined || !before.wanted) return
    const former = before.node === undefined || refusedBy.has(before.node) ? undefined : before.node
    if (former !== undefined && nodes.isExpected(former)) return // it came back
    if (former !== undefined && nodes.mayReturn(former) === 'announced') return
    const fencedMs = former === undefined ? undefined : fenceMs(before.assignment.spec)
    if (former !== undefined && fencedMs !== undefined && nodes.awayMs(former) < fencedMs)
      return this.#waitForLease(before, fencedMs)
    const reason = await this.#placement.place(id, refusedBy)
    const record = assignments.get(id)
    if (reason === undefined || record === undefined || !record.wanted) return
    if (former !== undefined && isEnrolled(former)) return this.#stay(record, former, reason)
    if (root.handBack(record, reason)) {
      assignments.delete(id)
      this.#dispatch.announce({ ...record, wanted: false })
    } else if (record.detail !== reason) this.#dispatch.change(id, { detail: reason })
  }

  /** It may still run there; `retry` comes back to it. */
  #waitForLease({ assignment, detail }: AssignmentRecord, fencedMs: number): void {
    const told = `its node is lost, and its lease there has not surely run out: that takes ${Math.ceil(fencedMs / 1_000)} s`
    if (detail !== told) this.#dispatch.change(assignment.instance, { detail: told })
  }

  /** No other node here can take it. The root looks for room in other clusters, unless the node's process may be starting again. */
  async #stay(record: AssignmentRecord, former: NodeId, reason: string): Promise<void> {
    const { nodes } = this.#parts
    const { instance } = record.assignment
    if (nodes.isExpected(former)) {
      if (record.node !== undefined) return // it came back, and has said what runs there
      this.#dispatch.change(instance, { node: former, state: 'placed' })
      return this.#again(instance)
    }
    const detail = `node ${former} was lost, where it may still run; no other can take it: ${reason}`.slice(0, 2_000)
    const noOtherNode = nodes.mayReturn(former) === undefined ? true : undefined
    const isSaid = record.state === 'lost' && record.detail === detail
    const isKnown = isSaid && record.node === former && record.noOtherNode === noOtherNode
    if (!isKnown) this.#dispatch.change(instance, { node: former, state: 'lost', detail, noOtherNode })
  }

  /** Its worker could not start it: tried on another node that has room, else on the same one again. */
  async #recover(id: InstanceId): Promise<void> {
    const { assignments, nodes } = this.#parts
    const before = assignments.get(id)
    const node = before?.node === undefined ? undefined : nodes.alive(before.node)
    if (before === undefined || node === undefined || !before.wanted || !hasGivenUp(before)) return
    this.#succession.withdraw(before)
    if ((await this.#placement.place(id, new Set([node.id]))) === undefined) return this.#dispatch.askToEnd(node, id)
    const record = assignments.get(id)
    if (record === undefined || !record.wanted) return
    this.#dispatch.change(id, { node: node.id, state: 'failed', detail: before.detail, retryAt: undefined })
    await this.#dispatch.assign(node, assignments.get(id) as AssignmentRecord)
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

function nowhereElse(node: NodeId, unsuited: string, others: string): string {
  return `${node}: ${unsuited}; others: ${others}`.slice(0, 1_900)
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
