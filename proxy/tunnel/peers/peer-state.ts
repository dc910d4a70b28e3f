import { Backoff } from '../../../src/core/kit/backoff.ts'
import type { NodeId } from '../../../src/core/model/ids.ts'
import type { NodeReach } from '../../../src/core/model/node.ts'
import type { HeldKeys } from '../session/agreement.ts'
import type { StreamIds } from '../session/outgoing-streams.ts'
import { PathHistory } from './path-history.ts'
import type { TunnelSession } from '../session/session.ts'

/** A node we have, had, or want to have a session with. */
export interface PeerState {
  readonly node: NodeId
  reach: NodeReach | undefined
  /** Where new streams go. */
  session: TunnelSession | undefined
  /** Sessions with earlier processes of the node, that finish their flows. */
  readonly past: Set<TunnelSession>
  readonly ids: StreamIds
  rttMs: number | undefined
  usedAt: number
  /** What our dials propose while there is no session; two dials propose the same. */
  proposal: string | undefined
  dials: number
  carrierNumber: number
  /** What callers of `session` wait for together. */
  arriving: PromiseWithResolvers<TunnelSession> | undefined
  readonly backoff: Backoff
  restUntil: number
  lastError: unknown
  addCarrierAt: number
  upgradeAt: number
  upgrades: number
  isUpgrading: boolean
  readonly pathHistory: PathHistory
  /** A relay that is nearer than the one in use, and since when; and until when nobody moves for that. */
  nearerRelay: { relay: string; since: number } | undefined
  settledUntil: number
  /** Dials for a session at risk: how many are under way, when the next may begin, and what ends them. */
  redials: number
  redialAt: number
  readonly redialBackoff: Backoff
  redialing: AbortController
  /** Until then its HELLO is waited for: what was said before it came to nothing. */
  awaitHelloUntil: number
  /** How often it was cut: a connection that began before that must not join after it. */
  cuts: number
}

export function newPeerState(node: NodeId, isFirst: boolean, now: number, random: () => number): PeerState {
  return {
    node,
    reach: undefined,
    session: undefined,
    past: new Set(),
    ids: { next: isFirst ? 1 : 2 },
    rttMs: undefined,
    usedAt: now,
    proposal: undefined,
    dials: 0,
    carrierNumber: isFirst ? 1 : 0, // odd and even, so that both sides' numbers differ
    arriving: undefined,
    backoff: new Backoff({ firstMs: 100, limitMs: 1_000, random }),
    restUntil: 0,
    lastError: undefined,
    addCarrierAt: 0,
    upgradeAt: Number.POSITIVE_INFINITY,
    upgrades: 0,
    isUpgrading: false,
    pathHistory: new PathHistory(),
    nearerRelay: undefined,
    settledUntil: 0,
    redials: 0,
    redialAt: 0,
    redialBackoff: new Backoff({ firstMs: 50, limitMs: 250, random }),
    redialing: new AbortController(),
    awaitHelloUntil: 0,
    cuts: 0,
  }
}

/** All live sessions with the node. */
export function sessionsOf({ session, past }: PeerState): TunnelSession[] {
  return [...(session === undefined ? [] : [session]), ...past].filter(({ hasEnded }) => !hasEnded)
}

/** What a new carrier may join. */
export function keysOf(known: PeerState): HeldKeys {
  const { session } = known
  const leaving = sessionsOf(known).filter((one) => one.isLeaving || known.past.has(one))
  return {
    current: session === undefined || session.hasEnded || session.isPresumed ? undefined : session.key,
    leaving: leaving.map(({ key }) => key),
  }
}

/** What we have proposed to the node and it has not answered, if anything. */
export function pendingOf({ session, dials, proposal }: PeerState): string | undefined {
  if (session?.isPresumed === true && !session.hasEnded) return session.key.id
  return dials > 0 ? proposal : undefined
}

/** What a dial for it proposes: the session it is to join, unless that only finishes its flows. */
export function proposalOf({ session, proposal }: PeerState): string | undefined {
  if (session === undefined || session.hasEnded || (session.isLeaving && !session.isAtRisk)) return proposal
  return session.key.id
}
