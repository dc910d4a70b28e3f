import type { FastPath } from '../../proxy/kernel/fast-path.ts'
import type { Resolver } from '../../resolver/server.ts'
import type { Uplink } from '../orchestrator/worker/uplink.ts'
import type { AgentContext } from './context.ts'
import type { Connectivity } from './connectivity.ts'
import type { Flows, GatewayPorts, ProxyListeners, VipInterceptor } from './flows.ts'
import type { Instances } from './instances.ts'
import type { KeptVips } from './kept-vips.ts'
import type { NodeIdentity } from './node-identity.ts'
import type { Predecessors } from './predecessors.ts'
import type { TableSync } from './table-sync.ts'

/** The parts of an agent that runs: what commands look at, and what `Shutdown` ends. */
export interface AgentParts {
  readonly context: AgentContext
  readonly identity: NodeIdentity
  readonly sync: TableSync
  readonly connectivity: Connectivity
  readonly flows: Flows
  readonly proxies: ProxyListeners
  readonly ingress: GatewayPorts
  readonly instances: Instances
  readonly interceptor: VipInterceptor
  readonly keptVips: KeptVips
  readonly uplink: Uplink
  readonly resolver: Resolver
  /** `undefined`: not asked for. */
  readonly fastPath: FastPath | undefined
  readonly predecessors: Predecessors
}
