import type { Constraint, ServiceSpec } from '../spec.ts'
import type { Anchor } from './distance.ts'

/** One instance that needs a place. */
export interface PlacementRequest {
  spec: ServiceSpec
  /** Ids of candidates that were asked for this instance and refused it. */
  refusedBy?: ReadonlySet<string>
  /** The nodes to which a latency constraint is measured; absent at the root, which knows clusters only. */
  near?: (constraint: Constraint) => readonly Anchor[]
}
