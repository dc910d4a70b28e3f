import type { NodeId } from '../../../src/core/model/ids.ts'
import type { TunnelSession } from '../session/session.ts'
import type { HeldKeys } from './agreement.ts'
import type { PathHistory } from './path-history.ts'

/**
 * A node we have, had, or want to have a session with, as the registry keeps it; only the registry writes it. Each other
 * part keeps what it knows of the node by itself, in a map from this object: dialling.ts, redialling.ts, proposals.ts,
 * path-upgrades.ts, pinned-carriers.ts.
 */
export interface PeerState {
  readonly node: NodeId
  /** Where new streams go. */
  readonly session: TunnelSession | undefined
  /** Smoothed round-trip time of the last session. */
  readonly rttMs: number | undefined
  /** When its last session ended. */
  readonly usedAt: number
  /** How often it was cut: a connection that began before a cut must not join a session after it. */
  readonly cuts: number
  /** What its paths took, and which were left. */
  readonly history: PathHistory
  /** All live sessions: the one for new streams, and those with earlier processes of the node, which finish their flows. */
  sessions(): TunnelSession[]
  /** What a new carrier may join. */
  keys(): HeldKeys
}

/** A part's private records of peers, each made when it is first asked for. */
export class PeerRecords<R> {
  readonly #records = new WeakMap<PeerState, R>()
  readonly #create: (peer: PeerState) => R

  constructor(create: (peer: PeerState) => R) {
    this.#create = create
  }

  of(peer: PeerState): R {
    let record = this.#records.get(peer)
    if (record === undefined) {
      record = this.#create(peer)
      this.#records.set(peer, record)
    }
    return record
  }
}
