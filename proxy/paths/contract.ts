import type { Duplex } from 'node:stream'
import type { NodeId } from '../../src/core/model/ids.ts'
import type { NodeReach } from '../../src/core/model/node.ts'
import type { PathKind } from '../../src/core/model/path-rule.ts'

/** A raw byte connection towards a node: not yet encrypted, not yet proven, unless it says so. */
export interface RawConnection {
  path: PathKind
  stream: Duplex
  /** For people: `203.0.113.5:7472`, or the relay's URL. */
  via: string
  /** TLS is done, in whatever role, and this is the node it proved. Only dialers of this process set it. */
  proven?: NodeId
}

/** What may become of a dial: perhaps it arrives; at once or never; hardly, by what is known. */
export type Reachability = 'open' | 'near' | 'unlikely'

/** One way to reach nodes. */
export interface Dialer {
  readonly path: PathKind
  /** False when this path makes no sense for the node (no address, no relay). */
  suits(node: NodeReach): boolean
  /** Others wait for this path only as long as it deserves; without it nothing is known. */
  reachability?(node: NodeReach): Reachability
  /** @throws any error; the caller tries another path. Honours the signal. */
  dial(node: NodeReach, signal: AbortSignal): Promise<RawConnection>
}
