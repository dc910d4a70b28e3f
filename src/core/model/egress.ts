import { isIPv4, isIPv6 } from 'node:net'

/*
 * What an instance may call outside the mesh, as an SLA document writes it:
 *
 *   10.0.0.0/8:443      addresses, and a port of TCP          [2001:db8::/32]:443
 *   192.0.2.7           one address, every port and protocol
 *   192.0.2.0/24:53/udp
 *   api.example.com:443 what that name stands for when the instance asks for it; *.example.com: every name below
 */

export interface EgressRule {
  readonly to: { readonly kind: 'range'; readonly cidr: string } | { readonly kind: 'name'; readonly name: string }
  /** Absent: every port of every protocol. */
  readonly port?: number
  readonly protocol: 'tcp' | 'udp'
}

const RULE =
  /^(?:\[([0-9a-f:.]+)(?:\/(\d{1,3}))?\]|([0-9.]{7,15})(?:\/(\d{1,2}))?|([a-z0-9*_.-]{1,253}))(?::(\d{1,5})(?:\/(tcp|udp))?)?$/
const NAME = /^(?:\*\.)?(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)+[a-z0-9-]{2,63}$/

/** Reads one rule in lower case; a text instead: why it is none. */
export function readEgressRule(text: string): EgressRule | string {
  const [, v6, v6Bits, v4, v4Bits, name, digits, protocol = 'tcp'] = RULE.exec(text) ?? []
  const port = digits === undefined ? undefined : Number(digits)
  if (port !== undefined && (port < 1 || port > 65_535)) return `port ${port} is outside 1 to 65535`
  const rest = { ...(port === undefined ? {} : { port }), protocol: protocol as 'tcp' | 'udp' }
  const address = v6 ?? v4
  if (address !== undefined) {
    const most = v6 === undefined ? 32 : 128
    const bits = Number(v6Bits ?? v4Bits ?? most)
    if (!(v6 === undefined ? isIPv4(address) : isIPv6(address)) || bits > most) return 'not an address or a range'
    return { to: { kind: 'range', cidr: `${address}/${bits}` }, ...rest }
  }
  if (name === undefined || !NAME.test(name)) return 'neither an address, a range nor a host name'
  if (port === undefined) return 'a host name needs a port'
  return { to: { kind: 'name', name }, ...rest }
}

/** The rules of a specification, in which they were checked. */
export function egressRules(texts: readonly string[] = []): EgressRule[] {
  return texts.map(readEgressRule).filter((rule) => typeof rule !== 'string')
}

/** Whether a host name that was asked for is one that the rule names. */
export function isNamed({ to }: EgressRule, name: string): boolean {
  if (to.kind === 'range') return false
  return to.name.startsWith('*.') ? name.endsWith(to.name.slice(1)) : name === to.name
}
