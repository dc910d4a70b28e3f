/**
 * Kinds of routers by the behavior of their NAT, in the terms of RFC 4787, as nftables rules for an interface `wan` outside and
 * `lan` inside. The popular names are accepted too.
 *
 *     kind                                       popular name          mapping                what comes in
 *     none                                       –                     –                      everything (a plain router, public addresses inside)
 *     endpoint-independent                       full-cone             endpoint-independent   anybody, once the port was used
 *     address-dependent-filtering                address-restricted    endpoint-independent   addresses that were sent to, from any port
 *     address-and-port-dependent-filtering       port-restricted       endpoint-independent   only replies; a stranger's SYN is dropped (home routers)
 *     address-and-port-dependent-filtering-rst   port-restricted-rst   endpoint-independent   only replies; a stranger's SYN is answered with RST
 *     address-and-port-dependent-mapping         symmetric             a new port each time   only replies
 */
export const NAT_BEHAVIORS = [
  'none',
  'endpoint-independent',
  'address-dependent-filtering',
  'address-and-port-dependent-filtering',
  'address-and-port-dependent-filtering-rst',
  'address-and-port-dependent-mapping',
] as const
export type LabNatBehavior = (typeof NAT_BEHAVIORS)[number]

/** Popular names for the behaviors. */
export const NAT_ALIASES = {
  'full-cone': 'endpoint-independent',
  'address-restricted': 'address-dependent-filtering',
  'port-restricted': 'address-and-port-dependent-filtering',
  'port-restricted-rst': 'address-and-port-dependent-filtering-rst',
  symmetric: 'address-and-port-dependent-mapping',
} as const satisfies Record<string, LabNatBehavior>

/** Everything that `nat` of a site may be. */
export const NAT_KINDS = [...NAT_BEHAVIORS, ...(Object.keys(NAT_ALIASES) as (keyof typeof NAT_ALIASES)[])] as const
export type NatKind = LabNatBehavior | keyof typeof NAT_ALIASES

function behaviorOf(kind: NatKind): LabNatBehavior {
  return kind in NAT_ALIASES ? NAT_ALIASES[kind as keyof typeof NAT_ALIASES] : (kind as LabNatBehavior)
}

/**
 * What gets out of a site: `no-udp` drops UDP, `only-443` everything but TCP to port 443, `only-proxy` everything that the
 * router's own HTTP proxy does not carry.
 */
export const EGRESS_KINDS = ['all', 'no-udp', 'only-443', 'only-proxy'] as const
export type EgressKind = (typeof EGRESS_KINDS)[number]

export interface RouterSpec {
  nat: NatKind
  egress: EgressKind
  /** Hosts inside reach each other by the address outside (RFC 4787 §6); needs endpoint-independent mapping. */
  hairpin: boolean
  /** The address on `wan`. */
  outside: string
}

/** @throws Error for a combination that no router can have */
export function rulesOf({ nat, egress, hairpin, outside }: RouterSpec): string {
  const behavior = behaviorOf(nat)
  if (hairpin && (behavior === 'none' || behavior === 'address-and-port-dependent-mapping'))
    throw new Error(`no hairpin with nat ${nat}`)
  const loops = hairpin ? outside : undefined
  switch (behavior) {
    case 'none':
      return filter({ input: 'accept', inward: 'accept', egress })
    case 'endpoint-independent':
      return translate({ lets: 'everybody', loops }) + filter({ input: 'drop', inward: 'dnat', egress })
    case 'address-dependent-filtering':
      return translate({ lets: 'known', loops }) + filter({ input: 'drop', inward: 'dnat', egress })
    case 'address-and-port-dependent-filtering':
      return translate({ loops }) + filter({ input: 'drop', inward: 'drop', egress })
    case 'address-and-port-dependent-filtering-rst':
      return translate({ loops }) + filter({ input: 'accept', inward: 'drop', egress })
    case 'address-and-port-dependent-mapping':
      return translate({ masquerade: 'masquerade fully-random' }) + filter({ input: 'drop', inward: 'drop', egress })
    default:
      return behavior satisfies never
  }
}

/** IPv6 without translation: everything out, only replies in. */
export const RULES6 = `
table ip6 filter {
  chain through_router {
    type filter hook forward priority filter
    ct state established,related accept
    iifname "wan" drop
  }
}
`

interface Translation {
  masquerade?: string
  /** Who may use a mapping from outside besides the peer that it was made for. */
  lets?: 'everybody' | 'known'
  loops?: string | undefined
}

/** An empty prerouting chain is needed too: without one the kernel does not translate replies back. */
function translate({ masquerade = 'masquerade', lets, loops }: Translation): string {
  const protocols = lets === undefined && loops === undefined ? [] : ['tcp', 'udp']
  const inward = protocols.flatMap((p) => [
    ...(lets === 'everybody' ? [`iifname "wan" meta l4proto ${p} dnat ip to ${p} dport map @${p}_cone`] : []),
    ...(lets === 'known'
      ? [`iifname "wan" ${p} dport . ip saddr @${p}_known dnat ip to ${p} dport map @${p}_cone`]
      : []),
    ...(loops === undefined
      ? []
      : [`iifname "lan" ip daddr ${loops} meta l4proto ${p} dnat ip to ${p} dport map @${p}_cone`]),
  ])
  const outward = protocols.flatMap((p) => [
    `oifname "wan" meta l4proto ${p} update @${p}_cone { ${p} sport : ip saddr . ${p} sport }`,
    `oifname "wan" meta l4proto ${p} update @${p}_known { ${p} sport . ip daddr }`,
  ])
  return `
table ip nat {
${protocols.map(mappings).join('')}
  chain before {
    type nat hook prerouting priority dstnat
    ${inward.join('\n    ')}
  }
  chain after {
    type nat hook postrouting priority srcnat
    ${outward.join('\n    ')}
    oifname "wan" ${masquerade}
    ${loops === undefined ? '' : 'oifname "lan" ct status dnat masquerade'}
  }
}
`
}

function mappings(protocol: string): string {
  return `
  map ${protocol}_cone {
    type inet_service : ipv4_addr . inet_service
    flags dynamic,timeout
    timeout 2m
  }
  set ${protocol}_known {
    type inet_service . ipv4_addr
    flags dynamic,timeout
    timeout 2m
  }
`
}

interface Filter {
  /** A stranger's packet to the router itself is dropped, or answered (with RST where nothing listens). */
  input: 'accept' | 'drop'
  /** What comes in from outside besides replies: all, what a mapping lets in, nothing. */
  inward: 'accept' | 'dnat' | 'drop'
  egress: EgressKind
}

const OUT: Readonly<Record<EgressKind, readonly string[]>> = {
  all: [],
  'no-udp': ['iifname "lan" oifname "wan" meta l4proto udp drop'],
  'only-443': [
    'iifname "lan" oifname "wan" meta l4proto != tcp drop',
    'iifname "lan" oifname "wan" tcp dport != 443 drop',
  ],
  'only-proxy': ['iifname "lan" oifname "wan" drop'],
}

function filter({ input, inward, egress }: Filter): string {
  const from = { accept: '', dnat: 'ct status dnat accept\n    iifname "wan" drop', drop: 'iifname "wan" drop' }[inward]
  return `
table ip filter {
  chain to_router {
    type filter hook input priority filter
    iifname "wan" ct state new ${input}
  }
  chain through_router {
    type filter hook forward priority filter
    ${OUT[egress].join('\n    ')}
    ct state established,related accept
    ${from}
  }
}
`
}
