import type { Choice } from '../../src/core/model/choice.ts'
import type { InstanceId, NodeId, ServiceId } from '../../src/core/model/ids.ts'
import type { Instance } from '../../src/core/model/instance.ts'

/**
 * A policy returns the order to try; failover is the caller's loop over it.
 *
 * `running` has only running instances, by rising ordinal. It is the same array until the table changes, so results that cost
 * time may be kept for it in a `WeakMap`. A policy does not change it. The result has at most `view.limit` instances, all of
 * `running` and none twice; fewer only when there are no more, or when the choice forbids others.
 */
export type Policy = (running: readonly Instance[], view: PolicyView) => readonly Instance[]

/** What the agent measures; the same for every flow. */
export interface Measures {
  /** Smoothed round-trip time to a node; `undefined`: never measured. */
  rttMs(node: NodeId): number | undefined
  /** Whether the agent runs on this node. */
  isHere(node: NodeId): boolean
  /** How many flows this agent has open to the instance. */
  openFlows(instance: InstanceId): number
  /** Evenly in [0, 1). */
  random: () => number
  /** Milliseconds of a clock that only goes forward. */
  now: () => number
}

export interface PolicyView extends Measures {
  readonly service: ServiceId
  readonly choice: Choice
  /** Always the same text for one caller: `any.pinned` chooses by it. */
  readonly caller: string
  /** How many instances the flow would try at most; at least 1. */
  readonly limit: number
  /** What the policy kept for this target when it was last asked; empty at first. */
  readonly memory: PolicyMemory
}

export interface PolicyMemory {
  /** The ordinal whose turn it was last. */
  ordinal?: number
  /** The node in use. */
  node?: NodeId
  /** The nearest nodes of a set of running instances, and when they were found. */
  near?: { of: readonly Instance[]; at: number; nodes: readonly NodeId[] }
  /** Orders that hold for a set of running instances, by caller. */
  orders?: { of: readonly Instance[]; limit: number; byCaller: Map<string, readonly Instance[]> }
}
