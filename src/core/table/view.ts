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
  /** The node has not asked its cluster about this yet: `Interests.want(key)`, then look it up again. */
  | { kind: 'unasked'; key: InterestKey }
  /** Known not to exist; `reason` is for the log and for `trace`. `hinted`: services that it tells of. */
  | { kind: 'unknown'; reason: string; hinted?: readonly Service[] }

/** What a node knows, as the resolver and the proxy read it. Everything here is synchronous. */
export interface TableView {
  find(name: ServiceName): Found
  byVip(vip: VipIndex): Target | undefined
  entry(service: ServiceId): ServiceEntry | undefined
  instance(id: InstanceId): Instance | undefined
  node(id: NodeId): NodeReach | undefined
  services(): Iterable<ServiceEntry>
  /** The listener is called after each swap, with the service concerned. Returns the function that ends this. */
  onChange(listener: (service: ServiceId, entry: ServiceEntry | undefined) => void): () => void
}

/** Asks the cluster, once for all callers at the same time, and fills the table. */
export interface InterestSource {
  /**
   * Resolves when the table knows everything about `key`, which may be that there is nothing.
   * @throws MeshError REQUEST_TIMEOUT or LINK_CLOSED when the control plane cannot be asked within the bound (2 s).
   */
  want(key: InterestKey): Promise<void>
  /** Asks the cluster for the service behind a VIP that the table does not know; same errors. */
  wantVip(vip: VipIndex): Promise<void>
}
