import type { Clock } from '../../core/kit/clock.ts'
import type { Log } from '../../core/kit/log.ts'
import type { InstanceReport } from '../spec.ts'
import type { InstanceLog } from './instance-log.ts'
import type { KeptSecrets } from './kept-secrets.ts'
import type { Saved } from './records.ts'
import type { Endpoint, Endpoints, Running, Runtime, Trace } from './runtime.ts'
import type { Timings } from './timings.ts'
import type { UsageMeter } from './usage.ts'

/** What the supervision of one run needs. */
export interface InstanceSupervisorParts {
  runtime: Runtime
  output: InstanceLog
  clock: Clock
  timings: Timings
  log: Log
  environment: Readonly<Record<string, string>>
  /** Open flows to this run: draining ends at 0. Without it, draining takes its whole time. */
  openFlows?: (endpoints: Endpoints) => number
  report: (report: InstanceReport) => void
  /** @throws MeshError RUNTIME_FAILED for a run that must not begin without its record */
  save: (saved: Saved) => void
  onRestart: () => void
  meter: UsageMeter
  secrets: KeptSecrets
  /** An instance that must be started again after the agent was away waits for this: it may be wanted elsewhere by now. */
  mayStart: Promise<void>
  /** Resolves when the data side knows that it may begin to call. */
  admitted: (signal: AbortSignal) => Promise<void> | undefined
  /** Resolves when it has a lease, if it needs one. */
  leased: (signal: AbortSignal) => Promise<void> | undefined
}

/** What the calls of an instance are known by. */
export type Caller = { uid: number } | { address: string } | { pids: number[]; isWhole: boolean }

/** By its user or its address where it has one of its own, which is known from before its start to its end; else by its processes. */
export function callerOf({ uid, address }: Trace = {}, running: Running | undefined): Caller | undefined {
  if (typeof uid === 'number') return { uid }
  if (typeof address === 'string') return { address }
  const pids = running?.pids() ?? []
  return pids.length === 0 ? undefined : { pids, isWhole: running?.isWhole === true }
}

/** Where a service port is, and whether connections to it begin with a PROXY header. */
export interface AskedEndpoint extends Endpoint {
  proxyProtocol?: 'v2'
}
