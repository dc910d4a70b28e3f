/**
 * Routers by their NAT kind (RFC 4787 words), as nftables rules for an interface `wan` outside and `lan` inside.
 *
 *     kind                 mapping                 what comes in
 *     none                 –                       everything (a plain router, public addresses inside)
 *     full-cone            endpoint-independent    anybody, once the port was used
 *     address-restricted   endpoint-independent    addresses that were written to, from any of their ports
 *     port-restricted      endpoint-independent    only replies; a stranger's SYN is dropped (the usual home router)
 *     port-restricted-rst  endpoint-independent    only replies; a stranger's SYN is answered with RST
 *     symmetric            a new port each time    only replies
 */
export const NAT_KINDS = [
  'none',
  'full-cone',
  'address-restricted',
  'port-restricted',
  'port-restricted-rst',
  'symmetric',
] as const
export type NatKind = (typeof NAT_KINDS)[number]

/**
 * What gets out of a site: `no-udp` drops UDP, `only-443` all but TCP to port 443, `only-proxy` everything that the router's
 * own HTTP proxy does not carry.
 */
export const EGRESS_KINDS = ['all', 'no-udp', 'only-443', 'only-proxy'] as const
export type EgressKind = (typeof EGRESS_KINDS)[number]

export interface RouterSpec {
  nat: NatKind
  egress: EgressKind
  /** Hosts inside reach each other by the address outside (RFC 4787 §6); needs a kind with endpoint-independent mapping. */
  hairpin: boolean
  /** The address on `wan`. */
  outside: string
}

/** @throws Error when the router cannot be. */
export function rulesOf({ nat, egress, hairpin, outside }: RouterSpec): string {
  if (hairpin && (nat === 'none' || nat === 'symmetric')) throw new Error(`no hairpin with nat ${nat}`)
  const loops = hairpin ? outside : undefined
  switch (nat) {
    case 'none':
      return filter({ input: 'accept', inward: 'accept', egress })
    case 'full-cone':
      return translate({ lets: 'everybody', loops }) + filter({ input: 'drop', inward: 'dnat', egress })
    case 'address-restricted':
      return translate({ lets: 'known', loops }) + filter({ input: 'drop', inward: 'dnat', egress })
    case 'port-restricted':
      return translate({ loops }) + filter({ input: 'drop', inward: 'drop', egress })
    case 'port-restricted-rst':
      return translate({ loops }) + filter({ input: 'accept', inward: 'drop', egress })
    case 'symmetric':
      return translate({ masquerade: 'masquerade fully-random' }) + filter({ input: 'drop', inward: 'drop', egress })
    default:
      return nat satisfies never
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
  /** Who may use a mapping from outside besides the one it was made for. */
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
  /** What a stranger's packet to the router itself meets: dropped, or answered (with RST where nobody listens). */
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
