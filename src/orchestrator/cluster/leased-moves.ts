import type { Log } from '../../core/kit/log.ts'
import type { InstanceId, NodeId } from '../../core/model/ids.ts'
import { REFUSED_ALREADY } from '../scheduling/filters.ts'
import type { Assignment, InstanceReport, MoveCause } from '../spec.ts'
import type { AssignmentRecord, Assignments } from './assignments.ts'
import type { Dispatch } from './dispatch.ts'
import type { Nodes } from './nodes.ts'
import type { Placement } from './placement.ts'
import { nextRun } from './runs.ts'

export interface LeasedMovesParts {
  readonly assignments: Assignments
  readonly nodes: Nodes
  readonly placement: Placement
  readonly dispatch: Dispatch
  /** In its turn: of one instance one thing at a time. */
  readonly background: (id: InstanceId, work: () => Promise<void>) => Promise<void>
  readonly log: Log
}

/** `undefined`: any other node. */
export interface Destination {
  to: NodeId | undefined
  /** Who wants it, and why. */
  cause: MoveCause | undefined
}

export type Begun = { node: NodeId } | { refused: string }

/**
 * Planned moves of what never runs twice (`lease_seconds`). Its node ends it, which is the end of its lease there, and then it starts:
 *
 *     serves ─▶ movesTo: stopping, drains ─▶ its node says that it has ended ─▶ placed there, or where there is room then
 *                                  └─▶ its node is lost: placed again when its lease has surely run out (fences.ts)
 *
 * `movesTo` is in its record, so that a cluster that is started again goes on.
 */
export class LeasedMoves {
  readonly #parts: LeasedMovesParts

  constructor(parts: LeasedMovesParts) {
    this.#parts = parts
  }

  /** It ends where it is, if some node can take it then; else nothing has changed. */
  async begin(record: AssignmentRecord, next: Assignment, { to, cause }: Destination): Promise<Begun> {
    const { nodes, placement, dispatch, assignments } = this.#parts
    const { instance } = next
    const node = record.node === undefined ? undefined : nodes.alive(record.node)
    if (node === undefined) return { refused: 'its node is away: it is placed again when its lease there has run out' }
    const choice = await placement.choose(next, new Map([[node.id, REFUSED_ALREADY]]), to)
    if (choice.kind === 'nowhere') return { refused: choice.reason }
    const now = assignments.get(instance)
    if (now === undefined || !now.wanted || now.node !== node.id) return { refused: 'it has changed meanwhile' }
    const chosen = choice.node.id
    const movesTo = { node: chosen, ...(cause === undefined ? {} : { cause }) }
    dispatch.change(instance, { movesTo, state: 'stopping', detail: `it ends here, and then starts on ${chosen}` })
    this.goOn({ ...now, movesTo })
    return { node: chosen }
  }

  /** Asks its node, once more, to end it. True for one that moves and whose node can be asked. */
  goOn({ assignment, node: id = '', movesTo }: AssignmentRecord): boolean {
    const { nodes, log } = this.#parts
    const { instance } = assignment
    const node = nodes.alive(id)
    if (movesTo === undefined || node === undefined) return false
    node.link.request('withdraw', { instance }).then(
      ({ ended }) => ended && this.#arriveSoon(instance),
      (error: unknown) => log.warn('instance not withdrawn yet', { instance, node: id, error }),
    )
    return true
  }

  /** True when the report of its node says that nothing of it is left there, and it moves. */
  takeReport({ assignment, movesTo }: AssignmentRecord, { state }: InstanceReport): boolean {
    if (movesTo === undefined || (state !== 'stopped' && state !== 'failed')) return false
    this.#arriveSoon(assignment.instance)
    return true
  }

  #arriveSoon(instance: InstanceId): void {
    void this.#parts.background(instance, () => this.#arrive(instance))
  }

  async #arrive(id: InstanceId): Promise<void> {
    const { assignments, dispatch, placement } = this.#parts
    const record = assignments.get(id)
    if (record?.movesTo === undefined || !record.wanted) return
    const { node, cause } = record.movesTo
    const assignment = nextRun(record)
    dispatch.change(id, { assignment, state: 'requested', detail: undefined, restarts: 0, retryAt: undefined })
    if ((await placement.place(id, { only: node, cause })) === undefined) return
    const reason = await placement.place(id, { cause })
    // tried again like everything without a place
    if (reason !== undefined) dispatch.change(id, { node: undefined, movesTo: undefined, detail: reason })
  }
}
