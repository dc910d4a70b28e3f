import type { NodeId } from '../../../src/core/model/ids.ts'

/**
 * What a network does with connections that nobody inside has asked for (RFC 4787 words), as far as was observed.
 *
 *     mapping    none     what others see is our own address: no NAT
 *                stable   one inside port is one outside port, whoever it talks to
 *                varies   another outside port for each peer (symmetric): nobody can be told where to dial
 *     filtering  open     who was written to may come from any of its ports, perhaps anybody
 *                strict   only replies come in
 */
export const MAPPINGS = ['none', 'stable', 'varies', 'unknown'] as const
export const FILTERINGS = ['open', 'strict', 'unknown'] as const
export type Mapping = (typeof MAPPINGS)[number]
export type Filtering = (typeof FILTERINGS)[number]

export interface NatClass {
  readonly mapping: Mapping
  readonly filtering: Filtering
}

export const UNKNOWN_NAT: NatClass = { mapping: 'unknown', filtering: 'unknown' }

/** From the addresses that observers saw behind one port of ours. */
export function mappingOf(
  seen: ReadonlyArray<{ host: string; port: number }>,
  isOwn: (host: string) => boolean,
): Mapping {
  const [first, ...others] = seen
  if (first === undefined) return 'unknown'
  if (isOwn(first.host)) return 'none'
  if (others.length === 0) return 'unknown'
  return others.every(({ host, port }) => host === first.host && port === first.port) ? 'stable' : 'varies'
}

/** Whether a stranger's packet, or connection, came through; `undefined`: not found out. */
export function filteringOf(heard: boolean | undefined): Filtering {
  return heard === undefined ? 'unknown' : heard ? 'open' : 'strict'
}

/**
 * What this side does to meet the other: both dial at the same moment; we wait, after one SYN that opens our NAT for the other's
 * address; we call, where the other waits; or there is no use in trying.
 */
export type PunchPlan = 'meet' | 'wait' | 'call' | 'hopeless'

export function punchPlan(mine: NatClass, theirs: NatClass): PunchPlan {
  if (mine.mapping === 'unknown' || theirs.mapping === 'unknown') return 'hopeless'
  const [isMineLost, isTheirsLost] = [mine.mapping === 'varies', theirs.mapping === 'varies']
  if (isMineLost && isTheirsLost) return 'hopeless'
  if (isTheirsLost) return mine.filtering === 'open' ? 'wait' : 'hopeless'
  if (isMineLost) return theirs.filtering === 'open' ? 'call' : 'hopeless'
  return 'meet'
}

/**
 * Both are seen under one address, so behind one NAT: without a way back in (hairpin.ts) there is no use. What leads back in may
 * be shown under another address, and then two SYNs make two connections: one side calls, the other waits.
 */
export function planBehindOne(plan: PunchPlan, leadsBack: boolean | undefined, isHigher: boolean): PunchPlan {
  if (leadsBack === false) return 'hopeless'
  return plan === 'meet' ? (isHigher ? 'wait' : 'call') : plan
}

/** Both sides must agree without asking: who waits serves; else the higher id (TUNNELS.md §2.1). */
export function isTlsServer(plan: PunchPlan, self: NodeId, peer: NodeId): boolean {
  return plan === 'wait' || (plan === 'meet' && self > peer)
}

/** Tries of one pair of classes, without a success among them, until it is left alone. */
const HOPELESS_AFTER = 6
/** What was learned about a pair of classes is believed for so long. */
const AGES_MS = 7 * 24 * 3_600_000

/** What came of punches, by the classes of both networks: which are worth a try. */
export class PunchBook {
  readonly #outcomes = new Map<string, { worked: number; failed: number; at: number }>()

  /** False when such pairs were tried often, and it never worked. */
  allows(mine: NatClass, theirs: NatClass, now: number): boolean {
    const outcome = this.#outcomes.get(keyOf(mine, theirs))
    if (outcome === undefined || now - outcome.at > AGES_MS) return true
    return outcome.worked > 0 || outcome.failed < HOPELESS_AFTER
  }

  record(mine: NatClass, theirs: NatClass, hasWorked: boolean, now: number): void {
    const key = keyOf(mine, theirs)
    const known = this.#outcomes.get(key)
    const before = known === undefined || now - known.at > AGES_MS ? { worked: 0, failed: 0 } : known
    // a failure takes from what has worked once: networks change
    const worked = hasWorked ? Math.min(before.worked + 1, HOPELESS_AFTER) : Math.max(before.worked - 1, 0)
    this.#outcomes.set(key, { worked, failed: hasWorked ? 0 : before.failed + 1, at: now })
  }

  clear(): void {
    this.#outcomes.clear()
  }
}

function keyOf(mine: NatClass, theirs: NatClass): string {
  return [mine.mapping, mine.filtering, theirs.mapping, theirs.filtering].join(' ')
}
