import { Backoff } from '../../src/kit/backoff.ts'
import type { NodeId } from '../../src/model/ids.ts'
import type { NodeReach } from '../../src/model/node.ts'
import type { HeldKeys } from './agree.ts'
import type { StreamIds } from './our-opens.ts'
import { PathMemory } from './steer.ts'
import type { TunnelSession } from './session.ts'

/** A node we have, had, or want to have a session with. */
export interface Known {
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
  failure: unknown
  growAt: number
  climbAt: number
  climbs: number
  isImproving: boolean
  readonly paths: PathMemory
  /** A relay that is nearer than the one in use, and since when; and until when nobody moves for that. */
  nearer: { relay: string; since: number } | undefined
  settledUntil: number
  /** Dials for a session at risk: how many are under way, when the next may begin, and what ends them. */
  redials: number
  redialAt: number
  readonly redialBackoff: Backoff
  redialing: AbortController
  /** Until then its HELLO is waited for: what was said before it came to nothing. */
  plainUntil: number
  /** How often it was cut: a connection that began before that must not join after it. */
  cuts: number
}

export function newlyKnown(node: NodeId, isFirst: boolean, now: number, random: () => number): Known {
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
    failure: undefined,
    growAt: 0,
    climbAt: Number.POSITIVE_INFINITY,
    climbs: 0,
    isImproving: false,
    paths: new PathMemory(),
    nearer: undefined,
    settledUntil: 0,
    redials: 0,
    redialAt: 0,
    redialBackoff: new Backoff({ firstMs: 50, limitMs: 250, random }),
    redialing: new AbortController(),
    plainUntil: 0,
    cuts: 0,
  }
}

/** All live sessions with the node. */
export function sessionsOf({ session, past }: Known): TunnelSession[] {
  return [...(session === undefined ? [] : [session]), ...past].filter(({ hasEnded }) => !hasEnded)
}

/** What a new carrier may join. */
export function keysOf(known: Known): HeldKeys {
  const { session } = known
  const leaving = sessionsOf(known).filter((one) => one.isLeaving || known.past.has(one))
  return {
    current: session === undefined || session.hasEnded || session.isPresumed ? undefined : session.key,
    leaving: leaving.map(({ key }) => key),
  }
}

/** What we have proposed to the node and it has not answered, if anything. */
export function pendingOf({ session, dials, proposal }: Known): string | undefined {
  if (session?.isPresumed === true && !session.hasEnded) return session.key.id
  return dials > 0 ? proposal : undefined
}

/** What a dial for it proposes: the session it is to join, unless that only finishes its flows. */
export function proposalOf({ session, proposal }: Known): string | undefined {
  if (session === undefined || session.hasEnded || (session.isLeaving && !session.isAtRisk)) return proposal
  return session.key.id
}
