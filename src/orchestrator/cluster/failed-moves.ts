import type { Clock } from '../../core/kit/clock.ts'
import type { InstanceId, NodeId } from '../../core/model/ids.ts'
import { progressMsOf } from '../scheduling/progress.ts'
import type { AssignmentRecord, Successor } from './assignments.ts'

/** A node where it did not get ready is not chosen again for this long. Smaller starts in vain, larger forgoes what has been mended. */
const FAILED_THERE_MS = 60_000

/** A record whose successor is the same program on another node, and not an update that needs one. */
export type Move = AssignmentRecord & { successor: Successor }

export function isMove(record: AssignmentRecord): record is Move {
  const { successor, node, assignment } = record
  return successor !== undefined && successor.node !== node && successor.assignment.generation === assignment.generation
}

/** Moves within a cluster that came to nothing lately, and those that take too long. */
export class FailedMoves {
  readonly #clock: Clock
  readonly #failed = new Map<InstanceId, { node: NodeId; why: string; at: number }>()
  /** Since when the moves under way have been, by their runs. */
  #since = new Map<string, number>()

  constructor(clock: Clock) {
    this.#clock = clock
  }

  failed(instance: InstanceId, node: NodeId, why: string): void {
    this.#failed.set(instance, { node, why, at: this.#clock.now() })
  }

  /** Where it need not be tried again now, and why. */
  lately(instance: InstanceId): [NodeId, string][] {
    const now = this.#clock.now()
    for (const [id, { at }] of this.#failed) if (now - at >= FAILED_THERE_MS) this.#failed.delete(id)
    const failed = this.#failed.get(instance)
    return failed === undefined ? [] : [[failed.node, `it did not get ready there: ${failed.why}`]]
  }

  /** Those that have neither crashed nor got ready for too long, and why; of all that are `replacing`. Called every few seconds. */
  slow(replacing: readonly AssignmentRecord[]): { record: Move; why: string }[] {
    const before = this.#since
    this.#since = new Map()
    return replacing.filter(isMove).flatMap((record) => {
      const { node, assignment } = record.successor
      const run = `${assignment.instance} ${node} ${assignment.epoch}`
      const since = before.get(run) ?? this.#clock.now()
      const limitMs = progressMsOf(assignment.spec)
      if (this.#clock.now() - since >= limitMs) return [{ record, why: `it was not ready within ${limitMs / 1_000} s` }]
      this.#since.set(run, since)
      return []
    })
  }
}
