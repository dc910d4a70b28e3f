import { isIPv6 } from 'node:net'
import { type EgressRule, isNamed } from '../../core/model/egress.ts'

/*
 * Host names that closed instances may call. Nobody resolves them ahead: what an instance's own question was answered with is opened for it,
 * before the answer leaves, so that both mean the same addresses, also where a name changes them by the minute.
 *
 *   question for api.example.com by X ─▶ a rule of X names it ─▶ answer: 192.0.2.7, 300 s ─▶ X may call 192.0.2.7, port 443 ─▶ answer leaves
 *                                                                                         └─▶ closed again 300 s + KEEP_MS after the last answer
 */

/** One address for one instance; `who`: what its packets are known by, as nftables writes it. */
export interface NamedAddress {
  readonly who: string
  readonly address: string
  readonly port: number
  readonly protocol: 'tcp' | 'udp'
}

export interface FoundAddress {
  readonly address: string
  readonly ttlSeconds: number
}

/** Programs keep addresses longer than they should. Smaller: those are refused; larger: an address that somebody else has by now stays open. */
const KEEP_MS = 10 * 60_000
/** Addresses of one instance; the one that was answered longest ago is closed. */
const MOST_OF_ONE = 1_024

/** What is open by name now. */
export class EgressNames {
  readonly #now: () => number
  /** By instance, then by element of the set, the oldest answer first. */
  readonly #open = new Map<string, Map<string, { named: NamedAddress; until: number }>>()

  constructor(now: () => number = () => performance.now()) {
    this.#now = now
  }

  /** Those that were not open, after a question for `name` that was answered with these addresses. */
  answered(who: string, rules: readonly EgressRule[], name: string, found: readonly FoundAddress[]): NamedAddress[] {
    const own = this.#open.get(who) ?? new Map<string, { named: NamedAddress; until: number }>()
    this.#open.set(who, own)
    const fresh: NamedAddress[] = []
    for (const { port = 0, protocol, to } of rules.filter((rule) => isNamed(rule, name))) {
      if (to.kind !== 'name') continue
      for (const { address, ttlSeconds } of found) {
        const named = { who, address, port, protocol }
        const element = elementOf(named)
        if (!own.delete(element)) fresh.push(named)
        own.set(element, { named, until: this.#now() + ttlSeconds * 1_000 + KEEP_MS })
        if (own.size > MOST_OF_ONE) own.delete(own.keys().next().value ?? '')
      }
    }
    return fresh
  }

  /** The instance has ended. */
  forget(who: string): void {
    this.#open.delete(who)
  }

  /** Without those whose time is over. */
  all(): NamedAddress[] {
    const now = this.#now()
    for (const own of this.#open.values()) for (const [element, { until }] of own) if (until < now) own.delete(element)
    return [...this.#open.values()].flatMap((own) => Array.from(own.values(), ({ named }) => named))
  }
}

export function elementOf({ who, address, port, protocol }: NamedAddress): string {
  return `${who} . ${address} . ${protocol} . ${port}`
}

/** What nftables matches for a rule with a range; `undefined` for a name. */
export function destinationOf({ to, port, protocol }: EgressRule): string | undefined {
  if (to.kind === 'name') return undefined
  const family = isIPv6(to.cidr.split('/')[0] ?? '') ? 'ip6' : 'ip'
  return `${family} daddr ${to.cidr}${port === undefined ? '' : ` ${protocol} dport ${port}`}`
}
