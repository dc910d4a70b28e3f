import type { Choice } from '../../src/core/model/choice.ts'
import type { InstanceId, NodeId, ServiceId } from '../../src/core/model/ids.ts'
import type { Instance } from '../../src/core/model/instance.ts'

/**
 * A policy returns the order to try; failover is the caller's loop over it.
 *
 * `running` holds only running instances, by rising ordinal, and stays the same array until the table changes, so what
 * costs time may be kept beside it in a `WeakMap`. It is not changed. The result has at most `view.limit` instances,
 * each one of `running`, none twice; fewer than that only when there are no more (or the choice forbids others).
 */
export type Policy = (running: readonly Instance[], view: PolicyView) => readonly Instance[]

/** What the agent measures; the same for every flow. */
export interface Measures {
  /** Smoothed round-trip time to a node; `undefined`: never measured. */
  rttMs(node: NodeId): number | undefined
  /** Whether it is the node this agent runs on. */
  isHere(node: NodeId): boolean
  /** Flows that this agent has open to the instance. */
  openFlows(instance: InstanceId): number
  /** Evenly in [0, 1). */
  random: () => number
  /** Milliseconds of a clock that only goes forward. */
  now: () => number
}

export interface PolicyView extends Measures {
  readonly service: ServiceId
  readonly choice: Choice
  /** Always the same text for one caller: what `any.pinned` sticks to. */
  readonly caller: string
  /** How many the caller would try at most; at least 1. */
  readonly limit: number
  /** What the policy left here the last time it ordered for this target; empty at first. */
  readonly memory: PolicyMemory
}

export interface PolicyMemory {
  /** Whose turn it was. */
  ordinal?: number
  /** Where flows have been going. */
  node?: NodeId
  /** The nearest nodes of a set of running instances, as they were found at a time. */
  near?: { of: readonly Instance[]; at: number; nodes: readonly NodeId[] }
  /** Orders that hold for a set of running instances, by caller. */
  orders?: { of: readonly Instance[]; limit: number; byCaller: Map<string, readonly Instance[]> }
}
