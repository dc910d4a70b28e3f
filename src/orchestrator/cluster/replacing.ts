import { MeshError } from '../../core/errors.ts'
import type { Clock } from '../../core/kit/clock.ts'
import type { Log } from '../../core/kit/log.ts'
import type { NodeId } from '../../core/model/ids.ts'
import type { Assignment, MoveCause } from '../spec.ts'
import type { Assignments } from './assignments.ts'
import type { Dispatch } from './dispatch.ts'
import type { LeasedMoves } from './leased-moves.ts'
import type { Nodes } from './nodes.ts'
import type { Placement } from './placement.ts'
import type { Publisher } from './publisher.ts'
import type { RootLink } from './root-link.ts'

/** What the replacement of runs needs (succession.ts). */
export interface SuccessionParts {
  readonly assignments: Assignments
  readonly nodes: Nodes
  readonly placement: Placement
  readonly dispatch: Dispatch
  readonly publisher: Publisher
  readonly root: Pick<RootLink, 'record'>
  readonly leased: LeasedMoves
  readonly clock: Clock
  readonly log: Log
}

export interface ReplaceOptions {
  /** `here`: on the same node, a restart. Otherwise on another one, or on this one. */
  where: 'here' | 'elsewhere' | { node: NodeId }
  /** What the successor runs; the same as before when absent. */
  assignment?: Assignment
  /** Where a second one beside it is impossible, it may be stopped first; `here` only. */
  mayGap?: boolean
  /** Who wants it, and why. */
  cause?: MoveCause | undefined
}

export interface Wish {
  where: 'elsewhere' | { node: NodeId }
  cause: MoveCause | undefined
}

/** A node has accepted the successor. */
export interface Replaced {
  node: NodeId
  /** Why nothing answers until the new one is ready: the earlier one had to be stopped first. */
  gap?: string
}

/** Why there is a gap, or no successor. */
export const NEVER_TWICE = 'it has lease_seconds: no second run of it starts beside it, so it is stopped first'

export function refused(reason: string): MeshError {
  return new MeshError('UNPLACEABLE', { reason })
}
