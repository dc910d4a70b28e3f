import type { AuthorityState } from '../../core/identity/authority-file.ts'
import type { Trust } from '../../core/identity/contract.ts'

/** A cluster, node or relay, as a rotation of the authority sees it. */
export interface Member {
  /** A cluster's name, or `cluster/name`. */
  id: string
  role: 'cluster' | 'node' | 'relay'
  /** Its link is up, and so is that of its cluster. */
  isLive: boolean
  /** What it reported last; absent for an earlier version, and for one that has not been heard since it joined. */
  trust?: Trust
}

export interface AuthorityIds {
  /** Signs certificates now. */
  signs: string
  /** The other one: in `spreading` the next one, in `issuing` the one that was replaced. */
  beside?: string
}

/**
 * Who keeps the rotation from its next step:
 *
 *     spreading   who does not trust the next authority yet
 *     issuing     who has no certificate by the authority that signs now
 *     steady      the same, of those who say what they have: after a restored backup some may be ahead of the root
 */
export function behind(
  step: AuthorityState['step'],
  { signs, beside }: AuthorityIds,
  members: readonly Member[],
): Member[] {
  switch (step) {
    case 'spreading':
      return members.filter(({ trust }) => beside === undefined || trust?.trusts.includes(beside) !== true)
    case 'issuing':
      return members.filter(({ trust }) => trust?.presents !== signs)
    case 'steady':
      return members.filter(({ trust }) => trust !== undefined && trust.presents !== signs)
    default:
      step satisfies never
      throw new Error('an unknown step')
  }
}

/**
 * Members that are away get this long to come back before they are not waited for: a root that has just started has no links yet.
 * Smaller leaves out who is on its way; larger holds up every rotation during which a machine is off.
 */
export const AWAY_MS = 15_000

/** The next authority signs by itself once every member whose link is up trusts it. Those that are off follow its introduction. */
export function mayIssue(late: readonly Member[], lastedMs: number): boolean {
  return late.length === 0 || (lastedMs >= AWAY_MS && !late.some(({ isLive }) => isLive))
}

/** The replaced authority goes once nobody needs it, also of those that are off: they could not come back. */
export function mayRetire(late: readonly Member[]): boolean {
  return late.length === 0
}
