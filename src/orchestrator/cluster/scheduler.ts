import PQueue from 'p-queue'
import { isMeshError, MeshError } from '../../core/errors.ts'
import { Backoff } from '../../core/kit/backoff.ts'
import type { Clock } from '../../core/kit/clock.ts'
import type { Log } from '../../core/kit/log.ts'
import type { Metrics } from '../../core/metrics.ts'
import type { InstanceId, NodeId } from '../../core/model/ids.ts'
import { reasonOf } from '../link/reason.ts'
import { nodeCandidate, type NodeView } from '../scheduling/candidate.ts'
import { schedule, reasonsText } from '../scheduling/schedule.ts'
import type { Assignment, InstanceReport } from '../spec.ts'
import type { AssignmentRecord, Assignments } from './cluster-store.ts'
import type { LinkedNode, Nodes } from './nodes.ts'
import type { LatencyAnchors } from './latency-anchors.ts'
import { hasGivenUp, isFinished, viewOf } from './work.ts'

export interface SchedulerParts {
  assignments: Assignments
  nodes: Nodes
  anchors: LatencyAnchors
  clock: Clock
  /** Something that tables show, or the root wants to know, has changed. */
  onChange: (record: AssignmentRecord) => void
  /** The work has left this cluster. */
  onEnded: (record: AssignmentRecord) => void
  /** No node here can take it any more. False: there is no root to give it to, so it stays. */
  giveBack: (record: AssignmentRecord, reason: string) => boolean
  log: Log
  metrics: Metrics
}

/** Rests before an instance that could not be started is tried again. */
const AFTER_FAILURE = { firstMs: 2_000, limitMs: 60_000 }

/** Which node runs what. Nodes may refuse, fail and come back; work leaves only to the root, or when it is withdrawn. */
export class Scheduler {
  readonly #parts: SchedulerParts
  /** One at a time: two placements never see the same free capacity. */
  readonly #queue = new PQueue({ concurrency: 1 })
  readonly #failures = new Map<InstanceId, { backoff: Backoff; retryAt: number }>()
  #isClosed = false

  constructor(parts: SchedulerParts) {
    this.#parts = parts
  }

  /** @throws MeshError UNPLACEABLE with counted reasons */
  delegate(assignment: Assignment): Promise<void> {
    return this.#inTurn(async () => {
      const { assignments, onChange } = this.#parts
      const record = assignments.get(assignment.instance)
      if (record?.wanted === false) throw new MeshError('UNPLACEABLE', { reason: 'its predecessor still ends here' })
      if (record !== undefined) return this.#renew(record, assignment)
      const taken: AssignmentRecord = { assignment, wanted: true, state: 'requested', restarts: 0 }
      assignments.put(taken)
      const reason = await this.#place(assignment.instance)
      if (reason === undefined) return
      assignments.delete(assignment.instance)
      onChange(taken)
      throw new MeshError('UNPLACEABLE', { reason })
    })
  }

  /** It drains, and is gone when the worker says so; work that is nowhere is gone at once. */
  withdraw(id: InstanceId): void {
    if (this.#isClosed) return
    const record = this.#parts.assignments.get(id)
    if (record === undefined) return
    const node = record.node === undefined ? undefined : this.#parts.nodes.alive(record.node)
    if (record.node === undefined || (node === undefined && !this.#parts.nodes.isExpected(record.node)))
      return this.#end(record)
    if (record.wanted) this.#change(id, { wanted: false, state: 'stopping' })
    if (node !== undefined) this.#askToEnd(node, id)
  }

  /** What the worker said. Reports about work that is not this node's are answered with a withdrawal. */
  take(node: LinkedNode, reports: readonly InstanceReport[]): void {
    if (this.#isClosed) return
    const { assignments } = this.#parts
    for (const report of reports) {
      const record = assignments.get(report.instance)
      if (record?.node !== node.id) {
        if (report.state !== 'stopped' && report.state !== 'failed') this.#askToEnd(node, report.instance)
        continue
      }
      if (!record.wanted && report.state === 'stopped') {
        this.#end(record)
        continue
      }
      if (report.generation < record.assignment.generation) continue // of before it was renewed
      const { state, detail, restarts } = report
      if (state === 'running') this.#failures.delete(report.instance)
      this.#change(report.instance, { state: record.wanted ? state : 'stopping', detail, restarts })
    }
  }

  /** Called at once when a node is lost: new flows avoid it, and its work looks for another place. */
  nodeLost(node: NodeId): void {
    if (this.#isClosed) return
    const { assignments, log } = this.#parts
    const there = assignments.on(node)
    for (const record of there) {
      if (!record.wanted) this.#end(record)
      else if (!isFinished(record))
        this.#change(record.assignment.instance, { state: 'lost', detail: `${node} was lost` })
    }
    if (there.length > 0) log.warn('instances lost with their node', { node, count: there.length })
    this.retry()
  }

  /** What a node still runs that was lost and is nowhere else yet is its own again: before it is told what to keep. */
  adopt(node: NodeId, reports: readonly InstanceReport[]): void {
    const { assignments } = this.#parts
    for (const { instance, generation } of reports) {
      const record = assignments.get(instance)
      if (record === undefined || !record.wanted || record.node !== undefined) continue
      if (record.assignment.generation === generation) this.#change(instance, { node })
    }
  }

  /** After a node's hello: what it should have and has not, it is given again. */
  nodeBack(node: LinkedNode, reports: readonly InstanceReport[]): void {
    if (this.#isClosed) return
    this.take(node, reports)
    const has = new Map(reports.map(({ instance, generation }) => [instance, generation]))
    for (const record of this.#parts.assignments.on(node.id)) {
      const { instance, generation } = record.assignment
      if (!record.wanted) this.withdraw(instance)
      else if (!isFinished(record) && (has.get(instance) ?? -1) < generation)
        void this.#background(() => this.#again(instance))
    }
    this.retry()
  }

  /** Looks again at what has no living node. Called every few seconds and when a node comes or goes. */
  retry(): void {
    if (this.#isClosed) return
    const { assignments, nodes } = this.#parts
    for (const record of assignments.all()) {
      const { instance } = record.assignment
      if (isFinished(record)) continue
      if (!record.wanted) this.withdraw(instance)
      else if (record.node === undefined || !nodes.isExpected(record.node)) {
        void this.#background(() => this.#replace(instance))
      } else if (hasGivenUp(record) && this.#isDue(instance)) void this.#background(() => this.#recover(instance))
    }
  }

  views(): NodeView[] {
    return [...this.#parts.nodes.all()].map((node) => viewOf(node, this.#parts.assignments.on(node.id)))
  }

  async close(): Promise<void> {
    this.#isClosed = true
    this.#queue.clear()
    await this.#queue.onIdle()
  }

  /** Same instance, newer spec or generation: its worker is told; one that is nowhere is placed. */
  async #renew(record: AssignmentRecord, assignment: Assignment): Promise<void> {
    const { instance, generation } = assignment
    const isNewer = generation > record.assignment.generation
    this.#change(instance, { assignment, ...(isNewer ? { state: 'placed' } : {}) })
    await this.#again(instance)
  }

  async #again(id: InstanceId): Promise<void> {
    const { assignments, nodes } = this.#parts
    const record = assignments.get(id)
    const node = record?.node === undefined ? undefined : nodes.alive(record.node)
    if (record === undefined || !record.wanted) return
    if (node === undefined) return this.#replace(id)
    const refusal = await this.#assign(node, record)
    if (refusal === undefined || !nodes.alive(node.id)) return
    this.#askToEnd(node, id)
    await this.#replace(id, new Set([node.id]))
  }

  /** Places work whose node is gone or refused; what fits nowhere goes back to the root. */
  async #replace(id: InstanceId, refusedBy: ReadonlySet<NodeId> = new Set()): Promise<void> {
    const { assignments, nodes, giveBack } = this.#parts
    const before = assignments.get(id)
    if (before === undefined || !before.wanted) return
    if (before.node !== undefined && !refusedBy.has(before.node) && nodes.isExpected(before.node)) return // it came back
    const reason = await this.#place(id, refusedBy)
    const record = assignments.get(id)
    if (reason === undefined || record === undefined || !record.wanted) return
    if (giveBack(record, reason)) {
      assignments.delete(id)
      this.#parts.onChange({ ...record, wanted: false })
    } else if (record.detail !== reason) this.#change(id, { detail: reason })
  }

  /** True when its worker gave up long enough ago; the first look only starts the wait. */
  #isDue(id: InstanceId): boolean {
    const { clock } = this.#parts
    const failure = this.#failures.get(id)
    if (failure !== undefined && clock.now() < failure.retryAt) return false
    const backoff = failure?.backoff ?? new Backoff(AFTER_FAILURE)
    this.#failures.set(id, { backoff, retryAt: clock.now() + backoff.nextMs() })
    return failure !== undefined
  }

  /** Its worker could not start it: another node if one has room, else the same one again. */
  async #recover(id: InstanceId): Promise<void> {
    const { assignments, nodes } = this.#parts
    const before = assignments.get(id)
    const node = before?.node === undefined ? undefined : nodes.alive(before.node)
    if (before === undefined || node === undefined || !before.wanted || !hasGivenUp(before)) return
    if ((await this.#place(id, new Set([node.id]))) === undefined) return this.#askToEnd(node, id)
    const record = assignments.get(id)
    if (record === undefined || !record.wanted) return
    this.#change(id, { node: node.id, state: 'failed', detail: before.detail })
    await this.#assign(node, assignments.get(id) as AssignmentRecord)
  }

  /** Tries the nodes in the order `schedule` gives. `undefined`: one has it; else why none. */
  async #place(id: InstanceId, alreadyRefused: ReadonlySet<NodeId> = new Set()): Promise<string | undefined> {
    const { assignments, nodes, metrics, log, anchors } = this.#parts
    const asked = assignments.get(id)
    if (asked !== undefined) await anchors.survey(asked.assignment.spec)
    const refusals = new Map<NodeId, string>([...alreadyRefused].map((node) => [node, 'refused it already']))
    for (;;) {
      const record = assignments.get(id)
      if (record === undefined || !record.wanted || this.#isClosed) return undefined
      const end = metrics.placementSeconds.startTimer()
      const { spec } = record.assignment
      const work = { spec, refusedBy: new Set(refusals.keys()), near: anchors.near }
      const placement = schedule(work, this.views().map(nodeCandidate))
      end()
      if (placement.kind === 'unplaceable') {
        metrics.placements.labels('unplaceable').inc()
        const said = [...refusals].filter(([node]) => !alreadyRefused.has(node)).map(([node, why]) => `${node}: ${why}`)
        return said.length > 0 ? said.join('; ').slice(0, 1_900) : reasonsText(placement.reasons)
      }
      const node = nodes.alive(placement.candidate.id)
      if (node === undefined) continue
      this.#change(id, { node: node.id, state: 'placed', detail: undefined })
      const refusal = await this.#assign(node, assignments.get(id) as AssignmentRecord)
      metrics.placements.labels(refusal === undefined ? 'placed' : 'refused').inc()
      if (refusal === undefined) {
        log.info('instance placed', { instance: id, node: node.id, reason: placement.why })
        if (assignments.get(id)?.wanted === false) this.#askToEnd(node, id) // withdrawn while it was being placed
        return undefined
      }
      refusals.set(node.id, refusal)
      const now = assignments.get(id)
      if (now?.wanted === false) this.#end(now)
      else if (now?.node === node.id) this.#change(id, { node: undefined, state: 'requested' })
    }
  }

  /** `undefined`: accepted; else why not. */
  async #assign(node: LinkedNode, { assignment }: AssignmentRecord): Promise<string | undefined> {
    try {
      await node.link.request('assign', { assignment })
      return undefined
    } catch (error) {
      this.#parts.log.warn('a node refused an instance', { instance: assignment.instance, node: node.id, error })
      if (isMeshError(error, 'REQUEST_TIMEOUT')) this.#askToEnd(node, assignment.instance) // it may have been about to accept
      return reasonOf(error)
    }
  }

  #askToEnd(node: LinkedNode, instance: InstanceId): void {
    node.link.request('withdraw', { instance }).then(
      ({ ended }) => {
        const record = this.#parts.assignments.get(instance)
        if (ended && record?.wanted === false && record.node === node.id) this.#end(record)
      },
      (error: unknown) =>
        this.#parts.log.warn('an instance could not be withdrawn yet', { instance, node: node.id, error }),
    )
  }

  #end(record: AssignmentRecord): void {
    const { assignments, onChange, onEnded } = this.#parts
    assignments.delete(record.assignment.instance)
    this.#failures.delete(record.assignment.instance)
    const ended: AssignmentRecord = { ...record, wanted: false, state: 'stopped' }
    onEnded(ended)
    onChange(ended)
  }

  #change(id: InstanceId, change: { [K in keyof AssignmentRecord]?: AssignmentRecord[K] | undefined }): void {
    const record = this.#parts.assignments.get(id)
    if (record === undefined) return
    const changed = { ...record, ...change } as AssignmentRecord
    if (changed.node === undefined) delete changed.node
    if (changed.detail === undefined) delete changed.detail
    this.#parts.assignments.put(changed)
    this.#parts.onChange(changed)
  }

  async #inTurn<T>(work: () => Promise<T>): Promise<T> {
    if (this.#isClosed) throw new MeshError('LINK_CLOSED', { reason: 'the cluster is closing' })
    return this.#queue.add(work)
  }

  async #background(work: () => Promise<void>): Promise<void> {
    try {
      if (!this.#isClosed) await this.#queue.add(work)
    } catch (error) {
      this.#parts.log.error('an instance could not be placed', { error })
    }
  }
}
