import type { Choice } from '../model/choice.ts'
import type { ServiceEntry } from '../model/change.ts'
import type { InstanceId, InterestKey, NodeId, ServiceId } from '../model/ids.ts'
import type { Instance } from '../model/instance.ts'
import type { ServiceName } from '../model/name.ts'
import type { NodeReach } from '../model/node.ts'
import type { Service, VipIndex } from '../model/service.ts'

/** What a VIP stands for. */
export interface Target {
  service: Service
  choice: Choice
  vip: VipIndex
}

export type Found =
  | { kind: 'target'; target: Target }
  /** The node has not asked its cluster about this yet: `Interests.want(key)`, then look again. */
  | { kind: 'unasked'; key: InterestKey }
  /** Known not to exist; `reason` is for the log and for `trace`. */
  | { kind: 'unknown'; reason: string }

/** What a node knows; everything here is synchronous and free of locks. Read by resolver and proxy. */
export interface TableView {
  find(name: ServiceName): Found
  byVip(vip: VipIndex): Target | undefined
  entry(service: ServiceId): ServiceEntry | undefined
  instance(id: InstanceId): Instance | undefined
  node(id: NodeId): NodeReach | undefined
  services(): Iterable<ServiceEntry>
  /** Called after each swap with the service it concerned; returns the way to stop. */
  onChange(listener: (service: ServiceId, entry: ServiceEntry | undefined) => void): () => void
}

/** Asks the cluster, once for all who ask at the same time, and fills the table. */
export interface InterestSource {
  /**
   * Resolves when the table knows all there is to know of `key` (perhaps: nothing).
   * @throws MeshError REQUEST_TIMEOUT or LINK_CLOSED when the control plane cannot be asked within the bound (2 s).
   */
  want(key: InterestKey): Promise<void>
  /** The service and choice behind a VIP index the table does not know: asks the cluster, same errors. */
  wantVip(vip: VipIndex): Promise<void>
}
