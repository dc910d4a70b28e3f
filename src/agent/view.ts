import type { FlowLedger } from '../../proxy/flow/ledger.ts'
import type { Descriptors } from '../../proxy/flow/descriptors.ts'
import type { FastPath } from '../../proxy/kernel/fast-path.ts'
import type { OutboundParts } from '../../proxy/outbound/outbound.ts'
import type { Peers } from '../../proxy/tunnel/contract.ts'
import type { Resolver } from '../../resolver/server.ts'
import type { AgentConfig } from '../config.ts'
import type { Identity } from '../core/identity/contract.ts'
import type { VipRange } from '../core/model/address.ts'
import type { NodeId } from '../core/model/ids.ts'
import type { Uplink } from '../orchestrator/worker/uplink.ts'
import type { ProxyAccess } from './proxy-access.ts'
import type { Interests } from '../core/table/interests.ts'
import type { Table } from '../core/table/table.ts'
import type { Predecessors } from './predecessors.ts'
import type { NetcheckParts } from './netcheck.ts'
import type { Instances } from './instances.ts'
import type { VipInterceptor } from './flows.ts'

/** What the commands may look at. */
export interface AgentView {
  self: NodeId
  version: string
  startedAt: number
  config: AgentConfig
  vips: VipRange
  identity: Identity
  table: Table
  interests: Interests
  peers: Peers
  ledger: FlowLedger
  descriptors: Pick<Descriptors, 'limit' | 'usable' | 'isScarce'>
  parts: OutboundParts
  uplink: Uplink
  interceptor: VipInterceptor
  work: Instances
  resolver: Resolver
  access: ProxyAccess
  proxyPorts: { socksPort: number; httpPort: number }
  ops: string
  tunnelPort: number
  /** What `netcheck` asks. */
  network: Omit<NetcheckParts, 'self' | 'config' | 'tunnelPort' | 'sessions'>
  elders: Predecessors
  respawn: (() => void) | undefined
  /** `undefined`: not asked for. */
  fastPath: FastPath | undefined
}
