import type { Coordinate } from './coordinate.ts'
import type { NodeId } from './ids.ts'

/** How to reach a node. An address is trusted only after the peer behind it has proved this node's identity. */
export interface NodeReach {
  id: NodeId
  /** `host:port` candidates of its tunnel listener, best guess first; two sites may list the same private address. */
  addresses: readonly string[]
  /** `wss://host:port/relay` of the relays it keeps a link to. */
  relays: readonly string[]
  /** Where it is in the network, once that is measured. */
  coordinate?: Coordinate
  /** Its area, when it has one. */
  area?: string
}
