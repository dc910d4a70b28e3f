import type { InstanceId, NodeId, ServiceId } from './ids.ts'

/**
 * The states of an instance. ARCHITECTURE.md draws them with the events that tell of each.
 *
 *   requested ─▶ placed ─▶ starting ─▶ running ─▶ stopping ─▶ stopped
 *       ▼          │          │         │  ▼ ▲
 *   unplaceable    │          │         │  lost
 *                  ▼          ▼         ▼   ▼
 *                  └────────▶ failed ◀──┴───┘
 *
 * `running` means ready: its port answers (or its check passes) and it takes flows. `stopping` drains. A one-shot job
 * that ended well is `stopped`; `failed` and `unplaceable` go back to `requested` when they are tried again.
 */
export const NEXT = {
  requested: ['placed', 'unplaceable'],
  placed: ['starting', 'failed', 'stopping', 'requested'],
  starting: ['running', 'failed', 'stopping', 'lost'],
  running: ['stopping', 'failed', 'lost', 'starting', 'stopped'],
  lost: ['running', 'starting', 'failed', 'requested', 'stopping'],
  stopping: ['stopped', 'failed'],
  stopped: [],
  failed: ['requested', 'starting', 'stopping'],
  unplaceable: ['requested'],
} as const satisfies Record<string, readonly string[]>

export type InstanceState = keyof typeof NEXT
export const INSTANCE_STATES = Object.keys(NEXT) as readonly InstanceState[]

export function canBecome(from: InstanceState, to: InstanceState): boolean {
  return (NEXT[from] as readonly string[]).includes(to)
}

/** What the table knows of one instance. The port on which it listens is known to its node alone. */
export interface Instance {
  id: InstanceId
  service: ServiceId
  ordinal: number
  node: NodeId
  state: InstanceState
  /** Other nodes with a run of it that may call, but is not called: its successor while it starts, an earlier one while it drains. */
  also?: readonly NodeId[]
}

/** Whether a call of the instance may come from this node. */
export function mayCallFrom({ node, also }: Pick<Instance, 'node' | 'also'>, from: NodeId): boolean {
  return node === from || also?.includes(from) === true
}
