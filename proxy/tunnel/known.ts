import { Backoff } from '../../src/kit/backoff.ts'
import type { NodeId } from '../../src/model/ids.ts'
import type { NodeReach } from '../../src/model/node.ts'
import type { SessionKey } from './agree.ts'
import type { TunnelSession } from './session.ts'

/** A node we have, had, or want to have a session with. */
export interface Known {
  readonly node: NodeId
  reach: NodeReach | undefined
  session: TunnelSession | undefined
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
  /** How often it was cut: a connection that began before that must not join after it. */
  cuts: number
}

export function newlyKnown(node: NodeId, isFirst: boolean, now: number, random: () => number): Known {
  return {
    node,
    reach: undefined,
    session: undefined,
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
    cuts: 0,
  }
}

/** What a new carrier may join. */
export function keyOf({ session }: Known): SessionKey | undefined {
  return session === undefined || session.hasEnded ? undefined : session.key
}
