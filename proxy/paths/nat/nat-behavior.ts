import { BoundedMap } from '../../../src/core/kit/bounded-map.ts'
import type { HostPort } from '../../../src/core/kit/host-port.ts'
import type { NodeId } from '../../../src/core/model/ids.ts'

/**
 * How a NAT or a firewall behaves, in the terms of RFC 4787 §4.1 and §5, as far as it was observed.
 *
 *     mapping    none                        others see our own address: there is no NAT
 *                endpoint-independent        one port inside is one port outside, whoever it talks to
 *                address-dependent           another port outside for each address it talks to
 *                address-and-port-dependent  another one for each address and port ("symmetric")
 *     filtering  endpoint-independent        anybody may send to a port outside that is in use
 *                address-dependent           addresses that were sent to may, from any of their ports
 *                address-and-port-dependent  only replies come in
 *
 * An observer can show that its other ports get in, and not whether other addresses would: filtering that is reported as
 * address-dependent may be endpoint-independent. For hole punching the two are the same.
 */
export const MAPPINGS = [
  'none',
  'endpoint-independent',
  'address-dependent',
  'address-and-port-dependent',
  'unknown',
] as const
export const FILTERINGS = [
  'endpoint-independent',
  'address-dependent',
  'address-and-port-dependent',
  'unknown',
] as const
export type Mapping = (typeof MAPPINGS)[number]
export type Filtering = (typeof FILTERINGS)[number]

export interface NatBehavior {
  readonly mapping: Mapping
  readonly filtering: Filtering
}

export const UNKNOWN_NAT: NatBehavior = { mapping: 'unknown', filtering: 'unknown' }

/** The address under which an observer saw one port of ours. */
export interface Sighting extends HostPort {
  /** The observer's own address. */
  readonly observer: string
}

/** From what observers saw of one and the same port of ours. */
export function mappingOf(sightings: readonly Sighting[], isOwn: (host: string) => boolean): Mapping {
  const [first, ...others] = sightings
  if (first === undefined) return 'unknown'
  if (isOwn(first.host)) return 'none'
  if (others.length === 0) return 'unknown'
  if (areAlike(sightings)) return 'endpoint-independent'
  const byObserver = [...Map.groupBy(sightings, ({ observer }) => observer).values()]
  const hasComparedPorts = byObserver.some(({ length }) => length > 1)
  return hasComparedPorts && byObserver.every(areAlike) ? 'address-dependent' : 'address-and-port-dependent'
}

function areAlike([first, ...others]: readonly Sighting[]): boolean {
  return others.every(({ host, port }) => host === first?.host && port === first.port)
}

/** From whether another port of an observer that we had sent to got in; `undefined` when that was not found out. */
export function filteringOf(otherPortGotIn: boolean | undefined): Filtering {
  if (otherPortGotIn === undefined) return 'unknown'
  return otherPortGotIn ? 'address-dependent' : 'address-and-port-dependent'
}

/** Nobody can be told where to dial: each peer would see another port. */
export function isMappingDependent({ mapping }: Pick<NatBehavior, 'mapping'>): boolean {
  return mapping === 'address-dependent' || mapping === 'address-and-port-dependent'
}

/** A host that we have sent to gets in from whichever port. */
export function letsOtherPortsIn({ filtering }: Pick<NatBehavior, 'filtering'>): boolean {
  return filtering === 'endpoint-independent' || filtering === 'address-dependent'
}

/**
 * What this side does to connect with the other. `simultaneous`: both dial at the same moment; `listen`: it sends one SYN, which
 * opens its NAT for the other's address, and waits for the other's; `dial`: it dials the side that listens; `impossible`: the
 * two NATs cannot be brought together.
 */
export type PunchPlan = 'simultaneous' | 'listen' | 'dial' | 'impossible'

export function punchPlan(mine: NatBehavior, theirs: NatBehavior): PunchPlan {
  if (mine.mapping === 'unknown' || theirs.mapping === 'unknown') return 'impossible'
  if (isMappingDependent(mine)) return !isMappingDependent(theirs) && letsOtherPortsIn(theirs) ? 'dial' : 'impossible'
  if (isMappingDependent(theirs)) return letsOtherPortsIn(mine) ? 'listen' : 'impossible'
  return 'simultaneous'
}

/**
 * Two nodes that are seen under one address are behind one NAT: without hairpinning (hairpin.ts) they cannot reach each other
 * through it. A NAT that does hairpin may show the other under a different address, and then two SYNs make two connections
 * instead of one; so one side dials and the other listens.
 */
export function planBehindSameNat(plan: PunchPlan, hairpins: boolean | undefined, isHigher: boolean): PunchPlan {
  if (hairpins === false) return 'impossible'
  return plan === 'simultaneous' ? (isHigher ? 'listen' : 'dial') : plan
}

/** Both sides must agree without asking: the side that listens is the TLS server; else the one with the higher id is. */
export function isTlsServer(plan: PunchPlan, self: NodeId, peer: NodeId): boolean {
  return plan === 'listen' || (plan === 'simultaneous' && self > peer)
}

/** Failures in a row after which a pair of behaviors is left alone. Smaller gives up on chance; larger punches in vain. */
const HOPELESS_AFTER = 6
/** How long the outcomes of a pair of behaviors count. */
const REMEMBERED_MS = 7 * 24 * 3_600_000
/** More than there are pairs of behaviors. */
const MOST_PAIRS = 1_024

/** The outcomes of punches, by the behavior of both NATs: which pairs are worth a try. */
export class PunchHistory {
  readonly #outcomes = new BoundedMap<string, { worked: number; failed: number; at: number }>(MOST_PAIRS)

  /** False when such pairs were tried often and it never worked. */
  isWorthTrying(mine: NatBehavior, theirs: NatBehavior, now: number): boolean {
    const outcome = this.#outcomes.get(keyOf(mine, theirs))
    if (outcome === undefined || now - outcome.at > REMEMBERED_MS) return true
    return outcome.worked > 0 || outcome.failed < HOPELESS_AFTER
  }

  record(mine: NatBehavior, theirs: NatBehavior, hasWorked: boolean, now: number): void {
    const key = keyOf(mine, theirs)
    const outcome = this.#outcomes.get(key)
    const before = outcome === undefined || now - outcome.at > REMEMBERED_MS ? { worked: 0, failed: 0 } : outcome
    // a failure cancels an earlier success: networks change
    const worked = hasWorked ? Math.min(before.worked + 1, HOPELESS_AFTER) : Math.max(before.worked - 1, 0)
    this.#outcomes.set(key, { worked, failed: hasWorked ? 0 : before.failed + 1, at: now })
  }

  clear(): void {
    this.#outcomes.clear()
  }
}

function keyOf(mine: NatBehavior, theirs: NatBehavior): string {
  return [mine.mapping, mine.filtering, theirs.mapping, theirs.filtering].join(' ')
}
