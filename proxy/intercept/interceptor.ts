import type { ErrorCode } from '../../src/core/errors.ts'
import type { Clock } from '../../src/core/kit/clock.ts'
import type { LocalSources } from '../../src/core/kit/local-sources.ts'
import type { Log } from '../../src/core/kit/log.ts'
import type { Metrics } from '../../src/core/metrics.ts'
import type { TableView, Target } from '../../src/core/table/view.ts'
import type { Caller, DatagramClient, DatagramSink, Flow } from '../flow/flow.ts'
import type { UserLimits } from '../flow/user-limits.ts'
import type { Connection, Endpoint } from './proc-sockets.ts'

/** Accepts connections, finds out what they are for, and passes them on as flows. `close()` stops accepting; open flows go on. */
export interface Interceptor extends AsyncDisposable {
  /** What does not work now, and the remedy; for `check`. */
  problems(): Problem[]
}

export interface Problem {
  code: ErrorCode
  address: string
  port: number
  protocol: 'tcp' | 'udp'
  reason: string
  remedy: string
}

/**
 * Connections that may wait to be accepted (listen(2); the kernel limits it to `net.core.somaxconn`, 4,096 by default). Smaller: in a
 * burst, SYNs are dropped, and sent again a second later.
 */
export const BACKLOG = 4_096

/** What every interceptor is given. */
export interface InterceptParts {
  readonly table: TableView
  /** Called once for each connection; must not throw. */
  readonly onFlow: (flow: Flow) => void
  /** Called at the first datagram of each UDP flow; `undefined`: there is no room for it. Absent: UDP is not accepted. */
  readonly onDatagramClient?: (client: DatagramClient) => DatagramSink | undefined
  /** Whether a connection may still be accepted; absent: always. */
  readonly descriptors?: { reserve(count: number): boolean }
  /** How many flows each user of the machine may have; absent: any number. */
  readonly userLimits?: UserLimits
  /** Which sources may call; absent: this machine alone. */
  readonly sources?: Pick<LocalSources, 'admits'>
  readonly clock: Clock
  readonly log: Log
  readonly metrics: Metrics
}

/** The caller's end of a flow: a connection as the caller sees it, or the address that datagrams come from. */
export type CallerEnd = ({ readonly protocol: 'tcp' } & Connection) | ({ readonly protocol: 'udp' } & Endpoint)

/** Who opened a flow to a VIP; `undefined`: the caller cannot be identified, and that matters, so the flow is refused. */
export type Identify = (end: CallerEnd, target: Target) => Caller | Promise<Caller | undefined>
