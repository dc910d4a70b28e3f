import type { Clock } from '../../../src/core/kit/clock.ts'
import type { NodeId } from '../../../src/core/model/ids.ts'
import type { NodeReach } from '../../../src/core/model/node.ts'
import { familyOf, type Family } from '../addresses.ts'
import { punchPlan, type NatClass, type PunchBook } from '../nat/nat-behavior.ts'
import { parseHostPort } from '../../../src/core/kit/host-port.ts'
import { BoundedMap } from '../../../src/core/kit/bounded-map.ts'

/** What a peer's network is like is remembered for so long: a hopeless pair is not asked again. */
const CLASS_MS = 600_000
/** One that does not know its network yet soon does. */
const UNKNOWN_MS = 5_000
/** One that refuses for another reason: too many ask it, or no way leads back into the NAT that we share. */
const REFUSED_MS = 60_000
const MAX_CLASSES = 1_024

/** What a peer's network is like, in one family. */
interface Learned {
  readonly nat: NatClass
  readonly at: number
  /** For another reason than the classes. */
  readonly isRefused: boolean
}

/** What punches have taught about single peers (this), and about kinds of networks (the book): where another is worth a try. */
export class PunchMemory {
  readonly #book: PunchBook
  readonly #clock: Clock
  readonly #learned = new BoundedMap<string, Learned>(MAX_CLASSES)

  constructor(book: PunchBook, clock: Clock) {
    this.#book = book
    this.#clock = clock
  }

  /** The families in which it is worth a try; IPv6 first. Who tells no address at all is taken to have IPv4. */
  familiesTowards({ id, addresses }: NodeReach, nat: (family: Family) => NatClass): Family[] {
    const now = this.#clock.now()
    const theirs = new Set(addresses.map((address) => familyOf(parseHostPort(address)?.host ?? '')))
    if (theirs.size === 0) theirs.add('ipv4')
    return (['ipv6', 'ipv4'] as const).filter((family) => {
      const mine = nat(family)
      if (mine.mapping === 'unknown' || !theirs.has(family)) return false
      const known = this.#learned.get(keyOf(family, id))
      if (known === undefined || now - known.at > believedMs(known)) return true
      if (known.isRefused || punchPlan(mine, known.nat) === 'hopeless') return false
      return this.#book.allows(mine, known.nat, now)
    })
  }

  learn(node: NodeId, family: Family, learned: Pick<Learned, 'nat' | 'isRefused'>): void {
    this.#learned.set(keyOf(family, node), { ...learned, at: this.#clock.now() })
  }

  record(mine: NatClass, theirs: NatClass, hasWorked: boolean): void {
    this.#book.record(mine, theirs, hasWorked, this.#clock.now())
  }

  clear(): void {
    this.#learned.clear()
    this.#book.clear()
  }
}

function believedMs({ nat, isRefused }: Learned): number {
  return nat.mapping === 'unknown' ? UNKNOWN_MS : isRefused ? REFUSED_MS : CLASS_MS
}

function keyOf(family: Family, node: NodeId): string {
  return `${family} ${node}`
}
