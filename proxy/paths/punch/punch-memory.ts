import { BoundedMap } from '../../../src/core/kit/bounded-map.ts'
import type { Clock } from '../../../src/core/kit/clock.ts'
import { parseHostPort } from '../../../src/core/kit/host-port.ts'
import type { NodeId } from '../../../src/core/model/ids.ts'
import type { NodeReach } from '../../../src/core/model/node.ts'
import { familyOf, type Family } from '../addresses.ts'
import { punchPlan, type NatBehavior, type PunchHistory } from '../nat/nat-behavior.ts'

/** How long a peer's NAT is remembered: a pair that cannot work is not tried again before. */
const BEHAVIOR_MS = 600_000
/** A peer that does not know its NAT yet will soon. */
const UNKNOWN_MS = 5_000
/** A peer that refused for another reason: too many ask it, or the NAT that we share does not hairpin. */
const REFUSED_MS = 60_000
const MAX_PEERS = 1_024

/** What was learned about a peer's NAT in one address family. */
interface PeerNat {
  readonly nat: NatBehavior
  readonly at: number
  /** The peer refused although the two NATs could be brought together. */
  readonly isRefused: boolean
}

/** What punches have taught about single peers (here) and about kinds of NATs (the history): where another is worth a try. */
export class PunchMemory {
  readonly #history: PunchHistory
  readonly #clock: Clock
  readonly #peers = new BoundedMap<string, PeerNat>(MAX_PEERS)

  constructor(history: PunchHistory, clock: Clock) {
    this.#history = history
    this.#clock = clock
  }

  /** The families in which a punch is worth a try, IPv6 first. A node that lists no address at all is assumed to have IPv4. */
  familiesTowards({ id, addresses }: NodeReach, nat: (family: Family) => NatBehavior): Family[] {
    const now = this.#clock.now()
    const theirs = new Set(addresses.map((address) => familyOf(parseHostPort(address)?.host ?? '')))
    if (theirs.size === 0) theirs.add('ipv4')
    return (['ipv6', 'ipv4'] as const).filter((family) => {
      const mine = nat(family)
      if (mine.mapping === 'unknown' || !theirs.has(family)) return false
      const peer = this.#peers.get(keyOf(family, id))
      if (peer === undefined || now - peer.at > rememberedMs(peer)) return true
      if (peer.isRefused || punchPlan(mine, peer.nat) === 'impossible') return false
      return this.#history.isWorthTrying(mine, peer.nat, now)
    })
  }

  learn(node: NodeId, family: Family, learned: Pick<PeerNat, 'nat' | 'isRefused'>): void {
    this.#peers.set(keyOf(family, node), { ...learned, at: this.#clock.now() })
  }

  record(mine: NatBehavior, theirs: NatBehavior, hasWorked: boolean): void {
    this.#history.record(mine, theirs, hasWorked, this.#clock.now())
  }

  clear(): void {
    this.#peers.clear()
    this.#history.clear()
  }
}

function rememberedMs({ nat, isRefused }: PeerNat): number {
  return nat.mapping === 'unknown' ? UNKNOWN_MS : isRefused ? REFUSED_MS : BEHAVIOR_MS
}

function keyOf(family: Family, node: NodeId): string {
  return `${family} ${node}`
}
