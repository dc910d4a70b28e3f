import type { InstanceId, NodeId } from '../../src/core/model/ids.ts'
import type { PathKind } from '../../src/core/model/path-rule.ts'
import type { FlowMode, Protocol } from './flow.ts'

/** How a flow ended: the label of the metric and the word in the log. */
export type FlowEnd =
  | 'closed'
  | 'caller-reset'
  | 'instance-reset'
  /** No path to the instance's node came back, or the session with it ended. */
  | 'node-lost'
  | 'cut'
  | 'caller-gone'
  | 'refused'
  | 'unreachable'
  | 'timeout'
  | 'not-allowed'
  | 'path-forbidden'
  | 'no-instance'
  | 'port-unknown'
  | 'too-many'

/** One flow, as the CLI lists it. */
export interface FlowLine {
  id: string
  caller: string
  name: string
  port: number
  protocol: Protocol
  mode: FlowMode
  /** Absent until an instance has answered. */
  instance?: InstanceId
  node?: NodeId
  path?: PathKind
  /** Bytes to the instance, and back. */
  sent: number
  received: number
  ageMs: number
}

export interface EndedFlow extends FlowLine {
  end: FlowEnd
  reason: string
}

/** What the flow log is told. */
export interface LoggedFlow {
  line: EndedFlow
  policy: string
  /** No instance took it. */
  isRefused: boolean
  /** There are spans of it. */
  isTraced: boolean
}
