/**
 * Routers by their NAT kind (RFC 4787 words), as nftables rules for an interface `wan` outside and `lan` inside.
 *
 *     kind                 mapping                 what comes in
 *     none                 –                       everything (a plain router, public addresses inside)
 *     full-cone            endpoint-independent    anybody, once the port was used
 *     port-restricted      endpoint-independent    only replies; a stranger's SYN is dropped (the usual home router)
 *     port-restricted-rst  endpoint-independent    only replies; a stranger's SYN is answered with RST
 *     symmetric            a new port each time    only replies
 */
export const NAT_KINDS = ['none', 'full-cone', 'port-restricted', 'port-restricted-rst', 'symmetric'] as const
export type NatKind = (typeof NAT_KINDS)[number]

export function rulesOf(kind: NatKind): string {
  switch (kind) {
    case 'none':
      return ''
    case 'full-cone':
      return nat({ masquerade: 'masquerade', cone: true }) + filter({ input: 'drop', dnat: true })
    case 'port-restricted':
      return nat({ masquerade: 'masquerade' }) + filter({ input: 'drop' })
    case 'port-restricted-rst':
      return nat({ masquerade: 'masquerade' }) + filter({ input: 'accept' })
    case 'symmetric':
      return nat({ masquerade: 'masquerade fully-random' }) + filter({ input: 'drop' })
    default:
      return kind satisfies never
  }
}

/** An empty prerouting chain is needed too: without one the kernel does not translate replies back. */
function nat({ masquerade, cone = false }: { masquerade: string; cone?: boolean }): string {
  const protocols = cone ? ['tcp', 'udp'] : []
  return `
table ip nat {
${protocols.map(coneMap).join('')}
  chain before {
    type nat hook prerouting priority dstnat
    ${protocols.map((p) => `iifname "wan" meta l4proto ${p} dnat ip to ${p} dport map @${p}_cone`).join('\n    ')}
  }
  chain after {
    type nat hook postrouting priority srcnat
    ${protocols.map((p) => `oifname "wan" meta l4proto ${p} update @${p}_cone { ${p} sport : ip saddr . ${p} sport }`).join('\n    ')}
    oifname "wan" ${masquerade}
  }
}
`
}

function coneMap(protocol: string): string {
  return `
  map ${protocol}_cone {
    type inet_service : ipv4_addr . inet_service
    flags dynamic,timeout
    timeout 2m
  }
`
}

function filter({ input, dnat = false }: { input: 'accept' | 'drop'; dnat?: boolean }): string {
  return `
table ip filter {
  chain to_router {
    type filter hook input priority filter
    iifname "wan" ct state new ${input}
  }
  chain through_router {
    type filter hook forward priority filter
    ct state established,related accept
    ${dnat ? 'ct status dnat accept' : ''}
    iifname "wan" drop
  }
}
`
}
