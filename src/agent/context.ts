import type { AgentConfig } from '../config/schema.ts'
import type { Clock } from '../core/kit/clock.ts'
import type { Lifetime } from '../core/kit/lifetime.ts'
import type { Log } from '../core/kit/log.ts'
import type { Metrics } from '../core/metrics.ts'
import type { NodeId } from '../core/model/ids.ts'
import type { PredecessorFacts } from './hand-over.ts'

/** What every part of the agent is given. What a part starts ends with `life`, newest first. */
export interface AgentContext {
  readonly life: Lifetime
  readonly self: NodeId
  readonly dir: string
  readonly config: AgentConfig
  readonly version: string
  readonly clock: Clock
  /** By `clock.now()`. */
  readonly startedAt: number
  readonly log: Log
  readonly metrics: Metrics
  /** The agent that this one takes over from: it listens at the same addresses until this one is ready. */
  readonly predecessor: PredecessorFacts | undefined
}
