import { isMeshError } from '../../core/errors.ts'
import type { Log } from '../../core/kit/log.ts'
import type { InstanceId } from '../../core/model/ids.ts'
import { Gathered } from '../link/gathered.ts'
import { bytesOf, outcomeOf } from '../link/outcomes.ts'
import { reasonOf } from '../link/reason.ts'
import type { Assignment, Replacement } from '../spec.ts'
import type { AssignmentRecord, Assignments } from './assignments.ts'
import type { Explanations } from './explanations.ts'
import type { FailedStarts } from './failed-starts.ts'
import type { LinkedNode, NodeLink } from './nodes.ts'
import type { Publisher } from './publisher.ts'
import type { RootLink } from './root-link.ts'

/** A key that is `undefined` is removed from the record. */
export type AssignmentChange = { [K in keyof AssignmentRecord]?: AssignmentRecord[K] | undefined }

export interface DispatchParts {
  readonly assignments: Assignments
  readonly failedStarts: FailedStarts
  readonly explanations: Pick<Explanations, 'forget'>
  readonly publisher: Publisher
  readonly root: RootLink
  readonly log: Log
}

/** Tells nodes what to run and what to end, and lets the tables and the root know of every change. */
export class Dispatch {
  readonly #parts: DispatchParts

  readonly #assigning = new Gathered<NodeLink, Assignment, unknown>({
    sizeOf: bytesOf,
    ready: (link) => link.uncongested(),
    many: async (link, assignments) => {
      const { outcomes } = await link.request('assign.many', { assignments: [...assignments] })
      return outcomes.map(outcomeOf)
    },
    one: (link, assignment) => link.request('assign', { assignment, replacement: 'stop-first' }),
  })
  readonly #withdrawing = new Gathered<NodeLink, InstanceId, boolean>({
    ready: (link) => link.uncongested(),
    many: async (link, instances) => {
      const { ended } = await link.request('withdraw.many', { instances: [...instances] })
      const gone = new Set(ended)
      return instances.map((instance) => ({ value: gone.has(instance) }))
    },
    one: async (link, instance) => (await link.request('withdraw', { instance })).ended,
  })

  constructor(parts: DispatchParts) {
    this.#parts = parts
  }

  /** Returns `undefined` when the node has accepted, else why not. */
  async assign(
    node: LinkedNode,
    { assignment: { asked: _asked, ...assignment } }: Pick<AssignmentRecord, 'assignment'>,
    replacement: Replacement = 'stop-first',
  ): Promise<string | undefined> {
    try {
      if (replacement === 'stop-first') await this.#assigning.ask(node.link, assignment)
      else await node.link.request('assign', { assignment, replacement })
      return undefined
    } catch (error) {
      const { instance } = assignment
      const isBeside = replacement === 'beside'
      if (isBeside) this.#parts.log.info('node refused a successor', { instance, node: node.id, error })
      else this.#parts.log.warn('node refused an instance', { instance, node: node.id, error })
      if (isMeshError(error, 'REQUEST_TIMEOUT') && assignment.spec.leaseSeconds !== undefined && !isBeside)
        return undefined // it may have been about to accept, and no other one may run; the next hello of the node says
      if (isMeshError(error, 'REQUEST_TIMEOUT')) {
        // it may have been about to accept
        if (isBeside) this.cancel(node, assignment)
        else this.askToEnd(node, instance)
      }
      return reasonOf(error)
    }
  }

  /** Ends this run of the instance, and no other, if it does not serve yet. */
  cancel(node: LinkedNode, { instance, generation, epoch = 0 }: Assignment): void {
    node.link.request('withdraw', { instance, run: { generation, epoch } }).catch((error: unknown) => {
      this.#parts.log.warn('successor not withdrawn yet', { instance, node: node.id, error })
    })
  }

  /** The instance is gone once the node says so. */
  askToEnd(node: LinkedNode, instance: InstanceId, atOnce = false): void {
    const asked = atOnce
      ? node.link.request('withdraw', { instance, atOnce }).then(({ ended }) => ended)
      : this.#withdrawing.ask(node.link, instance)
    asked.then(
      (ended) => {
        const record = this.#parts.assignments.get(instance)
        if (ended && record?.wanted === false && record.node === node.id) this.end(record)
      },
      (error: unknown) => this.#parts.log.warn('instance not withdrawn yet', { instance, node: node.id, error }),
    )
  }

  /** The instance is gone. */
  end(record: AssignmentRecord): void {
    const { assignments, failedStarts, explanations, root } = this.#parts
    const { instance } = record.assignment
    assignments.delete(instance)
    failedStarts.forget(instance)
    explanations.forget(instance)
    const ended: AssignmentRecord = { ...record, wanted: false, state: 'stopped' }
    root.reportEnded(ended)
    this.announce(ended)
  }

  change(id: InstanceId, change: AssignmentChange): void {
    const record = this.#parts.assignments.get(id)
    if (record === undefined) return
    const changed = { ...record, ...change } as AssignmentRecord
    if (changed.node === undefined) delete changed.node
    if (changed.detail === undefined) delete changed.detail
    if (changed.mayRunOn === undefined) delete changed.mayRunOn
    if (changed.retryAt === undefined) delete changed.retryAt
    if (changed.noOtherNode === undefined) delete changed.noOtherNode
    if (changed.successor === undefined) delete changed.successor
    if (changed.leaving === undefined) delete changed.leaving
    if (changed.movesTo === undefined) delete changed.movesTo
    if (changed.violation === undefined) delete changed.violation
    if (changed.cause === undefined) delete changed.cause
    this.#parts.assignments.put(changed)
    this.announce(changed)
  }

  /** The tables of nodes and the root must learn of the change. */
  announce(record: AssignmentRecord): void {
    const { publisher, root } = this.#parts
    publisher.touch(record.assignment.spec.id)
    root.reportChanged(record)
    root.summariseSoon()
  }
}
