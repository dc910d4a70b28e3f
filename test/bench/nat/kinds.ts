import type { SiteSpec } from '../../../src/lab/lab.ts'
import type { PathKind } from '../../../src/core/model/path-rule.ts'

/**
 * The networks of the matrix, one node in each, and the best path that can be between any two. Pure.
 *
 *     to ↓   from →     public    one mapping for all, and     another mapping for each     nothing out but
 *                                 a filter (or none)           (symmetric)                  443 or a proxy
 *     public            direct    direct                       direct                       relayed
 *     anybody           reverse   punched                      punched                      relayed
 *     known addresses   reverse   punched                      punched                      relayed
 *     replies only      reverse   punched                      relayed                      relayed
 *
 * the same for a firewall without NAT, which is what IPv6 has; and `direct` within a site, `relayed` without an address family in common.
 */
export interface Network {
  readonly name: string
  /** For people. */
  readonly words: string
  /** Where several nodes are behind one router; the name of the site, or its own name. */
  readonly site: string
  readonly families: readonly Family[]
  /** Whether a port inside is one port outside whoever is written to (RFC 4787 §4.1); `public`: there is no router. */
  readonly mapping: 'public' | 'one' | 'each'
  /** Who may write to that port from outside, beside replies (RFC 4787 §5). */
  readonly inward: 'anybody' | 'known' | 'replies'
  readonly out: 'all' | 'tcp' | 'only-443' | 'only-proxy'
}

type Family = 'ipv4' | 'ipv6'
export type Protocol = 'tcp' | 'udp'
/** Of `hedgerow`'s paths those between two nodes, best first. */
export const PATHS = ['direct', 'reverse', 'punched', 'relayed'] as const satisfies readonly PathKind[]
export type Path = (typeof PATHS)[number]

const homely = { families: ['ipv4'], mapping: 'one', inward: 'replies', out: 'all' } as const

export const NETWORKS: readonly Network[] = [
  network('public', 'public address', { families: ['ipv4', 'ipv6'], mapping: 'public', inward: 'anybody' }),
  network('cone', 'full cone', { inward: 'anybody' }),
  network('cone-near', 'full cone, same NAT (hairpin)', { site: 'cone', inward: 'anybody' }),
  network('address', 'address-restricted', { inward: 'known' }),
  network('port', 'port-restricted', {}),
  network('port-near', 'port-restricted, same NAT', { site: 'port' }),
  network('port-twin', 'port-restricted, equal prefix', {}),
  network('rst', 'answers RST', {}),
  network('rst-twin', 'answers RST, another', {}),
  network('symmetric', 'symmetric', { mapping: 'each' }),
  network('symmetric-twin', 'symmetric, another', { mapping: 'each' }),
  network('customer', 'carrier-grade, two routers', {}),
  network('no-udp', 'UDP blocked', { out: 'tcp' }),
  network('web', 'only 443 out', { out: 'only-443' }),
  network('office', 'only an HTTP proxy out', { out: 'only-proxy' }),
  network('six', 'IPv6 only', { families: ['ipv6'] }),
  network('firewall', 'IPv4 and IPv6, firewall', { families: ['ipv4', 'ipv6'] }),
]

/** The sites of a lab that holds these networks; all have the same private prefix, as in real life. */
export function sitesOf(networks: readonly Network[]): Record<string, SiteSpec> {
  const sites: Record<string, SiteSpec> = {}
  for (const { name, site, mapping } of networks) {
    if (mapping === 'public') continue
    if (site === 'customer') sites[CARRIER] = { hosts: [], prefix: '100.64.0.0/24' }
    const called = `${site}-site` // a host may be called as the network is
    sites[called] = { ...SITES[site], hosts: [...(sites[called]?.hosts ?? []), name] }
  }
  return sites
}

const CARRIER = 'carrier'

const SITES: Readonly<Record<string, Omit<SiteSpec, 'hosts'>>> = {
  cone: { nat: 'full-cone', hairpin: true },
  address: { nat: 'address-restricted' },
  port: {},
  'port-twin': {},
  rst: { nat: 'port-restricted-rst' },
  'rst-twin': { nat: 'port-restricted-rst' },
  symmetric: { nat: 'symmetric' },
  'symmetric-twin': { nat: 'symmetric' },
  customer: { behind: CARRIER },
  'no-udp': { egress: 'no-udp' },
  web: { egress: 'only-443' },
  office: { egress: 'only-proxy' },
  six: { family: 'ipv6' },
  firewall: { family: 'both' },
}

/** The best path there can be. Datagrams need no path of their own where a carrier has a better one. */
export function bestPossible(from: Network, to: Network, protocol: Protocol): Path {
  const carried = bestFor(from, to, 'tcp')
  if (protocol === 'tcp') return carried
  const sealed = straight(from, to)
  return sealed !== undefined && isAtLeast(sealed, carried) ? sealed : carried
}

/** Where sealed datagrams go when they go: straight to an address that takes them, or through holes. */
export function straight(from: Network, to: Network): Path | undefined {
  const path = bestFor(from, to, 'udp')
  return path === 'relayed' ? undefined : path === 'reverse' ? 'direct' : path
}

export function isAtLeast(path: string | undefined, wanted: Path): boolean {
  const rank = (PATHS as readonly string[]).indexOf(path ?? '')
  return rank >= 0 && rank <= PATHS.indexOf(wanted)
}

function bestFor(from: Network, to: Network, protocol: Protocol): Path {
  if (from.site === to.site) return 'direct'
  const isOut = (network: Network) => network.out === 'all' || (network.out === 'tcp' && protocol === 'tcp')
  if (!from.families.some((family) => to.families.includes(family)) || !isOut(from) || !isOut(to)) return 'relayed'
  if (to.mapping === 'public') return 'direct'
  if (from.mapping === 'public') return 'reverse'
  if (from.mapping === 'each' && to.mapping === 'each') return 'relayed'
  const hard = from.mapping === 'each' ? to : to.mapping === 'each' ? from : undefined // the other side's filter decides
  return hard?.inward === 'replies' ? 'relayed' : 'punched'
}

/**
 * Every pair once, in rounds in which no node is in two pairs (each keeps its place but the first, which all others pass):
 * so pairs of one round can be measured at the same time.
 */
export function rounds<T>(all: readonly T[]): [T, T][][] {
  const seats: (T | undefined)[] = all.length % 2 === 0 ? [...all] : [...all, undefined]
  const [fixed, ...turning] = seats
  return turning.map((_, number) => {
    turning.push(turning.shift())
    const row = [fixed, ...turning]
    return row.slice(0, row.length / 2).flatMap((one, i): [T, T][] => {
      const other = row[row.length - 1 - i]
      if (one === undefined || other === undefined) return []
      return number % 2 === 0 ? [[one, other]] : [[other, one]] // nobody is always the one who calls
    })
  })
}

function network(name: string, words: string, differs: Partial<Network>): Network {
  return { ...homely, name, words, site: name, ...differs }
}
