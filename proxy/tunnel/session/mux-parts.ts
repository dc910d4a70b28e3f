import type { SteadyMap } from '../../../src/core/kit/steady-map.ts'
import type { NodeId } from '../../../src/core/model/ids.ts'
import type { Carrier } from '../carrier/carrier.ts'
import type { IncomingStream } from '../contract.ts'
import type { TunnelLimits } from '../limits.ts'
import type { SealedLink } from '../sealed/contract.ts'
import type { MuxStream } from '../stream/mux-stream.ts'
import type { Accounting } from './accounting.ts'
import type { PendingResets, Tombstones } from './closed-streams.ts'

/** Whom a mux reports to: its session. */
export interface MuxOwner {
  /** The peer has opened a stream. */
  accept(incoming: IncomingStream): void
  /** The peer has lost this carrier, so ours is of no use. Leads to `Failover.detach`. */
  peerLostCarrier(carrier: Carrier): void
  /** GOAWAY: the peer takes nothing more. */
  peerWentAway(): void
  roundTripMeasured(carrier: Carrier, rttMs: number): void
  /** The peer has sent a signal; `payload` is good during the call only. */
  signalled(payload: Buffer): void
  /** A frame of a type that this version does not know. */
  frameIgnored(): void
}

export interface MuxOptions {
  peer: NodeId
  owner: MuxOwner
  ids: StreamIds
  limits: TunnelLimits
  now: () => number
  /** Datagrams take this path while it is open. */
  sealed?: SealedLink | undefined
}

/** The ids of streams this node opens towards a peer: never used again while both run, so that late frames hit no other stream. */
export interface StreamIds {
  /** The node with the smaller id opens odd streams, the other even ones. */
  next: number
}

/** What the parts of a mux work on together. */
export interface MuxParts {
  carriers: Carrier[]
  /** By id. */
  streams: SteadyMap<number, MuxStream>
  /** The lowest bit of ids of streams that this side opened. */
  ownBit: 0 | 1
  accounting: Accounting
  pendingResets: PendingResets
  tombstones: Tombstones
}
