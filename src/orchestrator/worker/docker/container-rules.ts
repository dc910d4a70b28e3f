import { isIPv6 } from 'node:net'
import type { EgressRule } from '../../../core/model/egress.ts'
import { destinationOf, elementOf, type NamedAddress } from '../egress-names.ts'

/*
 * The nftables table of the containers of one agent. The text is one transaction for nft.
 *
 *   prerouting  sources  from the bridge ─▶ does this container have this address? otherwise drop
 *   forward     outside  to a container from another interface, unless it answers or is a published port ─▶ drop
 *                        from one container to another, unless that is a published port ─▶ drop
 *                        from a closed container to another machine ─▶ reject
 *   input       inside   from a closed container to this machine, but for the VIPs ─▶ reject
 *
 * The address of a caller says which instance calls, so no container may send from another's. It has no right to change its hardware
 * address or to make packets itself, so that one tells them apart. Without this table IPv4 is safe all the same (the kernel lets no
 * program send from an address that its machine has not), IPv6 is not (IPV6_FREEBIND).
 *
 * Other machines and other bridges reach containers through published ports alone: past the agent nobody asks who may call, and a
 * datagram that claims to come from a VIP would pass for the call of an instance. Docker has such rules of its own, Podman has none.
 *
 * Answers of closed containers to those who may call them pass. What the document of one names besides comes before the rejection: ranges as
 * they are, host names as the addresses that its own question for them was answered with (egress-names.ts).
 * Connections are tracked: the engine does that, too, for its NAT.
 */

export interface GuardedContainer {
  readonly mac: string
  /** Its addresses: IPv4, and IPv6 where it has one. */
  readonly ipv4: string
  readonly ipv6?: string | undefined
  /** `egress: none` */
  readonly isClosed: boolean
  /** What it may call all the same. */
  readonly egressTo?: readonly EgressRule[]
}

export interface GuardTable {
  readonly name: string
  readonly bridge: string
  /** The prefixes that closed containers may call. */
  readonly vips4: string
  readonly vips6: string | undefined
}

/** Before the chains of the VIPs. */
const FIRST = -320
/** Before the rules of the engine and of a firewall, which accept. */
const BEFORE_FILTER = -5

/** Replaces whatever has this name: what a killed agent left, or what this one said before. */
export function guardRules(
  table: GuardTable,
  containers: readonly GuardedContainer[],
  named: readonly NamedAddress[] = [],
): string {
  const { name, bridge, vips4, vips6 } = table
  const chain = (chainName: string, hook: string, priority: number) =>
    `add chain inet ${name} ${chainName} { type filter hook ${hook} priority ${priority}; }`
  const rule = (chainName: string, what: string) => `add rule inet ${name} ${chainName} ${what}`
  const elements = (set: string, all: readonly string[]) =>
    all.length === 0 ? [] : [`add element inet ${name} ${set} { ${all.join(', ')} }`]
  const isBegun = 'ct state != { established, related }'
  const closed = `iifname "${bridge}" ether saddr @closed ${isBegun}`
  const opened = containers.flatMap(({ mac, egressTo = [] }) =>
    egressTo.flatMap((rule) => {
      const to = destinationOf(rule)
      return to === undefined ? [] : [`iifname "${bridge}" ether saddr ${mac} ${to} accept`]
    }),
  )
  const hasNames = containers.some(({ egressTo = [] }) => egressTo.some(({ to }) => to.kind === 'name'))
  const notVips6 = vips6 === undefined ? 'meta nfproto ipv6' : `ip6 daddr != ${vips6}`
  const statements = [
    `add table inet ${name}`,
    `delete table inet ${name}`,
    `create table inet ${name}`,
    `add set inet ${name} own4 { type ether_addr . ipv4_addr; }`,
    `add set inet ${name} own6 { type ether_addr . ipv6_addr; }`,
    `add set inet ${name} closed { type ether_addr; }`,
    `add set inet ${name} named4 { type ether_addr . ipv4_addr . inet_proto . inet_service; }`,
    `add set inet ${name} named6 { type ether_addr . ipv6_addr . inet_proto . inet_service; }`,
    ...named.map((one) => namedElement(name, one)),
    ...elements(
      'own4',
      containers.map(({ mac, ipv4 }) => `${mac} . ${ipv4}`),
    ),
    ...elements(
      'own6',
      containers.flatMap(({ mac, ipv6 }) => (ipv6 === undefined ? [] : [`${mac} . ${ipv6}`])),
    ),
    ...elements(
      'closed',
      containers.flatMap(({ mac, isClosed }) => (isClosed ? [mac] : [])),
    ),
    chain('sources', 'prerouting', FIRST),
    rule('sources', `iifname != "${bridge}" accept`),
    rule('sources', 'ether saddr . ip saddr @own4 accept'),
    rule('sources', 'ether saddr . ip6 saddr @own6 accept'),
    rule('sources', 'icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept'),
    rule('sources', 'counter drop'),
    chain('outside', 'forward', BEFORE_FILTER),
    rule('outside', `oifname "${bridge}" iifname != "${bridge}" ${isBegun} ct status & dnat == 0 counter drop`),
    rule('outside', `iifname "${bridge}" oifname "${bridge}" ct status & dnat == 0 counter drop`),
    ...(containers.some(({ isClosed }) => isClosed)
      ? [
          ...opened.map((what) => rule('outside', what)),
          ...(hasNames
            ? [
                rule('outside', `iifname "${bridge}" ether saddr . ip daddr . meta l4proto . th dport @named4 accept`),
                rule('outside', `iifname "${bridge}" ether saddr . ip6 daddr . meta l4proto . th dport @named6 accept`),
              ]
            : []),
          rule('outside', `${closed} reject`),
          chain('inside', 'input', BEFORE_FILTER),
          ...opened.map((what) => rule('inside', what)),
          rule('inside', `${closed} ip daddr != ${vips4} reject`),
          rule('inside', `${closed} meta l4proto != ipv6-icmp ${notVips6} reject`),
        ]
      : []),
  ]
  return `${statements.join('\n')}\n`
}

/** One address that a name stands for now, for one container. */
export function namedElement(table: string, one: NamedAddress): string {
  return `add element inet ${table} ${isIPv6(one.address) ? 'named6' : 'named4'} { ${elementOf(one)} }`
}

export function removeGuard({ name }: Pick<GuardTable, 'name'>): string {
  return `add table inet ${name}\ndelete table inet ${name}\n`
}

/** As Docker makes them: an address of ours is the hardware address of nobody else. */
export function macOf(ipv4: string): string {
  const bytes = ipv4.split('.').map((part) => Number(part).toString(16).padStart(2, '0'))
  return ['02', '42', ...bytes].join(':')
}
