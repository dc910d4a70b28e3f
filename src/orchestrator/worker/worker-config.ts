import type { Clock } from '../../core/kit/clock.ts'
import type { InstanceId } from '../../core/model/ids.ts'
import type { InstanceReport, NodeFacts } from '../spec.ts'
import type { AskSecrets } from './kept-secrets.ts'
import type { Endpoint, Runtime } from './runtime.ts'
import type { Timings } from './timings.ts'

/** What a worker is given. */
export interface WorkerConfig {
  facts: NodeFacts
  runtimes: readonly Runtime[]
  /** What instances print; kept after they are gone. */
  logsDir: string
  /** What the next agent must know of the instances. */
  runDir: string
  /** Every change of every instance. */
  report: (report: InstanceReport) => void
  /** Open flows to an instance on this node, or only those that go `to` one of its runs, so that draining can end early. */
  openFlows?: (instance: InstanceId, to?: readonly Endpoint[]) => number
  /** HTTP_PROXY and the like for what runs inside the instance. */
  proxyEnvironment?: (instance: InstanceId) => Readonly<Record<string, string>>
  /** The secrets of an instance here, from the root. */
  secretsOf?: AskSecrets
  /** Before an instance is launched: resolves when the data side knows of it. A rejection is a failed launch. */
  admit?: () => Promise<void> | undefined
  /** The agent before this one handed over: its flows to the instances go on, and `openFlows` counts them. */
  isSuccessor?: boolean
  /** On close, leave instances running for the next agent to adopt. */
  keepOnClose?: boolean
  timings?: Partial<Timings>
  clock?: Clock
}
