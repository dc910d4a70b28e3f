import type { ServiceId } from '../../core/model/ids.ts'
import { type NodeView, portKey } from '../scheduling/candidate.ts'
import { demandOf, reserve } from '../scheduling/capacity.ts'
import type { AssignmentRecord } from './cluster-store.ts'
import type { LinkedNode } from './nodes.ts'

/** The worker will not try again by itself. */
export function hasGivenUp({ state, assignment }: AssignmentRecord): boolean {
  return !assignment.spec.oneShot && (state === 'failed' || state === 'stopped')
}

/** A one-shot job that ended, well or not: it takes nothing and goes nowhere. */
export function isFinished({ state, assignment }: AssignmentRecord): boolean {
  return assignment.spec.oneShot && (state === 'stopped' || state === 'failed')
}

/** A node as the scheduler sees it. */
export function viewOf({ id, facts }: LinkedNode, assignments: readonly AssignmentRecord[]): NodeView {
  const busy = assignments.filter((record) => !isFinished(record))
  const perService = new Map<ServiceId, number>()
  for (const { assignment } of busy) perService.set(assignment.spec.id, (perService.get(assignment.spec.id) ?? 0) + 1)
  return {
    facts: { ...facts, id },
    condition: 'alive',
    free: busy.reduce((free, { assignment }) => reserve(free, demandOf(assignment.spec)), facts.capacity),
    portsTaken: busy.flatMap(({ assignment }) =>
      assignment.spec.fixedPorts ? assignment.spec.ports.map(portKey) : [],
    ),
    instances: busy.length,
    perService,
  }
}
