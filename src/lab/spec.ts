import type { ContainerSpec } from './docker/containers.ts'
import { conditionsOf, type LinkConditions } from './link/conditions.ts'
import type { LinkKind } from './link/link.ts'
import { type EgressKind, type NatKind, rulesOf } from './nat.ts'

/**
 * Networks on one machine, out of namespaces:
 *
 *     host ─┐ eth0                                       ┌─ public host
 *     host ─┤ lan [ router: NAT ] wan ── [ internet ] ───┤  203.0.113.10 …
 *             192.168.1.1     203.0.113.101 …  .254      └─ public host
 *
 *     await using net = await lab({
 *       sites: { left: { hosts: ['a'] }, right: { hosts: ['b'], nat: 'symmetric' } },
 *       publics: ['server'],
 *     })
 *     await net.host('a').exec(['curl', `http://${net.host('server').address}/`])
 *
 * Every site has 192.168.1.0/24 unless it says otherwise: the same private addresses everywhere, as in real life. Public hosts
 * have an IPv6 address too (2001:db8::10 …); sites have what `family` says. Everybody knows public hosts by name (/etc/hosts).
 * With `backend: 'docker'` hosts are containers; routers and cables are the same.
 */
export interface LabSpec {
  /** What hosts are; `namespaces` by default. */
  backend?: Backend
  /** The image of hosts that name none; by default one made of this machine's own files. */
  image?: string
  /** What a host is that is not just its image, for `docker`. */
  containers?: Readonly<Record<string, ContainerSpec>>
  sites?: Readonly<Record<string, SiteSpec>>
  /** Hosts with a public address. */
  publics?: readonly string[]
  /** What every host finds in /etc/resolv.conf; the agent's own resolver by default. */
  nameserver?: string
  /** How links with conditions are made: `netem` where the kernel has it, else `user-space`, unless given. */
  links?: Exclude<LinkKind, 'plain'>
  /** The cable of each host or site (its router's uplink) that shall have conditions, `{}` for none yet; others are plain. */
  conditions?: Readonly<Record<string, LinkConditions>>
}

export const BACKENDS = ['namespaces', 'docker'] as const
export type Backend = (typeof BACKENDS)[number]

export interface SiteSpec {
  hosts: readonly string[]
  /** `port-restricted` by default. */
  nat?: NatKind
  /** A /24. With `nat: 'none'` it must be public, as 198.51.100.0/24. */
  prefix?: string
  /** `all` by default. With `only-proxy` the router runs an HTTP proxy: `site.proxy`. */
  egress?: EgressKind
  /** Whether hosts inside reach each other by the router's outer address; not by default. */
  hairpin?: boolean
  /** `ipv4` by default. IPv6 is not translated: the router lets only replies in. */
  family?: 'ipv4' | 'ipv6' | 'both'
  /** A site above whose network this site's router is in: carrier-grade NAT. */
  behind?: string
}

/** What no lab can be, and where in the spec it is. */
export interface Fault {
  keys: readonly string[]
  what: string
}

/** What is wrong with a spec of the right shape. */
export function faultsIn({ sites = {}, publics = [], conditions = {}, containers = {} }: LabSpec): Fault[] {
  const hosts = [...publics, ...Object.values(sites).flatMap((site) => site.hosts)]
  const above = (name: string) => Object.keys(sites).slice(0, Object.keys(sites).indexOf(name))
  return [
    ...hosts
      .filter((name, index) => hosts.indexOf(name) !== index)
      .map((name) => ({ keys: [], what: `two hosts are called ${name}` })),
    ...Object.entries(sites).flatMap(([name, site]) =>
      faultsOfSite(site, above(name)).map(([key, what]) => ({ keys: ['sites', name, key], what })),
    ),
    ...Object.entries(conditions).flatMap(([name, given]) => {
      const called = [...Object.keys(sites), ...hosts].filter((one) => one === name).length
      const keys = ['conditions', name]
      if (called === 0) return [{ keys, what: `conditions for ${name}, and no host or site is called so` }]
      if (called > 1) return [{ keys, what: `conditions for ${name}, and a host and a site are called so` }]
      const reason = reasonAgainst(() => conditionsOf(given))
      return reason === undefined ? [] : [{ keys, what: reason }]
    }),
    ...Object.keys(containers)
      .filter((name) => !hosts.includes(name))
      .map((name) => ({ keys: ['containers', name], what: `a container for ${name}, and no host is called so` })),
  ]
}

function faultsOfSite(site: SiteSpec, above: readonly string[]): [key: string, what: string][] {
  const { nat = 'address-and-port-dependent-filtering', egress = 'all', hairpin = false, prefix, behind } = site
  const reason = reasonAgainst(() => rulesOf({ nat, egress, hairpin, outside: '' }))
  return [
    ...(behind === undefined || above.includes(behind)
      ? []
      : [['behind', `no site above this one is called ${behind}`] as [string, string]]),
    ...(prefix === undefined || /^(\d{1,3}\.){3}0\/24$/.test(prefix)
      ? []
      : [['prefix', `${prefix} is not a /24, as 192.168.7.0/24`] as [string, string]]),
    ...(reason === undefined ? [] : [['hairpin', reason] as [string, string]]),
  ]
}

function reasonAgainst(attempt: () => unknown): string | undefined {
  try {
    attempt()
    return undefined
  } catch (cause) {
    return cause instanceof Error ? cause.message : String(cause)
  }
}

/** @throws Error that names every fault */
export function checkSpec(spec: LabSpec): void {
  const faults = faultsIn(spec)
  if (faults.length > 0)
    throw new Error(faults.map(({ keys, what }) => [keys.join('.'), what].filter(Boolean).join(': ')).join('; '))
}
