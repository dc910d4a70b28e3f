import type { AgentConfig } from '../config.ts'
import type { Clock } from '../kit/clock.ts'
import type { Lifetime } from '../kit/lifetime.ts'
import type { Log } from '../kit/log.ts'
import type { Metrics } from '../metrics.ts'
import type { NodeId } from '../model/ids.ts'
import type { ElderFacts } from './succession.ts'

/** What every room of the agent is given; what a room starts ends with `life`, newest first. */
export interface Ground {
  readonly life: Lifetime
  readonly self: NodeId
  readonly dir: string
  readonly config: AgentConfig
  readonly version: string
  readonly clock: Clock
  readonly log: Log
  readonly metrics: Metrics
  /** The agent that this one takes over from: it listens at the same addresses until we are ready. */
  readonly elder: ElderFacts | undefined
}
