import type { Duplex } from 'node:stream'
import type { NodeId } from '../../src/core/model/ids.ts'
import type { NodeReach } from '../../src/core/model/node.ts'
import type { PathKind } from '../../src/core/model/path-rule.ts'

/** A byte connection towards a node: neither encrypted nor authenticated yet, unless `proven` is set. */
export interface RawConnection {
  path: PathKind
  stream: Duplex
  /** For people: `203.0.113.5:7472`, or the URL of the relay. */
  via: string
  /** TLS is done, with this process as client or server, and this is the node it proved. Only our own dialers and our successor set it. */
  proven?: NodeId
}

/**
 * What is likely to become of a dial. `open`: it probably arrives; `near`: it arrives within a moment or never; `unlikely`: it
 * can hardly arrive, by what is known of both networks.
 */
export type Reachability = 'open' | 'near' | 'unlikely'

/** One kind of path to nodes. */
export interface Dialer {
  readonly path: PathKind
  /** False when this kind of path makes no sense for the node: it has no address, or no relay. */
  suits(node: NodeReach): boolean
  /** Other paths wait for this one only as long as it deserves; `open` without it. */
  reachability?(node: NodeReach): Reachability
  /** Ends when the signal aborts. @throws any error; the caller then tries another path */
  dial(node: NodeReach, signal: AbortSignal): Promise<RawConnection>
}
