import { isNewerRun, type Assignment, type SuccessorReport } from '../spec.ts'
import type { AssignmentRecord, Successor } from './assignments.ts'

/** The successor as its node has told of it. */
export function asTold(
  { node, assignment, cause }: Successor,
  { state, detail, restarts }: SuccessorReport,
): Successor {
  const told = { node, assignment, state, restarts, ...(detail === undefined ? {} : { detail }) }
  return cause === undefined ? told : { ...told, cause }
}

/** What runs next: newer than whatever is there. */
export function nextRun({ assignment, successor }: AssignmentRecord, wanted?: Assignment): Assignment {
  const newest = successor?.assignment ?? assignment
  const next = withEpoch(wanted ?? newest, newest)
  return isNewerRun(next, newest) ? next : { ...next, epoch: (next.epoch ?? 0) + 1 }
}

/** The root counts generations, the cluster epochs: they go on from those of the run that is there. */
export function withEpoch(assignment: Assignment, { epoch }: Assignment): Assignment {
  return epoch === undefined ? assignment : { ...assignment, epoch }
}
