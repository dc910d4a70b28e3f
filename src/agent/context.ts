import type { AgentConfig } from '../config.ts'
import type { Clock } from '../core/kit/clock.ts'
import type { Lifetime } from '../core/kit/lifetime.ts'
import type { Log } from '../core/kit/log.ts'
import type { Metrics } from '../core/metrics.ts'
import type { NodeId } from '../core/model/ids.ts'
import type { PredecessorFacts } from './hand-over.ts'

/** What every room of the agent is given; what a room starts ends with `life`, newest first. */
export interface AgentContext {
  readonly life: Lifetime
  readonly self: NodeId
  readonly dir: string
  readonly config: AgentConfig
  readonly version: string
  readonly clock: Clock
  readonly log: Log
  readonly metrics: Metrics
  /** The agent that this one takes over from: it listens at the same addresses until we are ready. */
  readonly predecessor: PredecessorFacts | undefined
}
