import type { ContainerSpec } from './docker/containers.ts'
import type { LinkConditions } from './link/conditions.ts'
import type { LinkKind } from './link/link.ts'
import type { EgressKind, NatKind } from './nat.ts'

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

/** @throws Error when conditions or containers are for somebody who is not there */
export function checkNames({ sites = {}, publics = [], conditions = {}, containers = {} }: LabSpec): void {
  const hosts = [...publics, ...Object.values(sites).flatMap((site) => site.hosts)]
  const twice = hosts.find((name, index) => hosts.indexOf(name) !== index)
  if (twice !== undefined) throw new Error(`two hosts are called ${twice}`)
  for (const name of Object.keys(conditions)) {
    const called = [...Object.keys(sites), ...hosts].filter((one) => one === name).length
    if (called === 0) throw new Error(`conditions for ${name}, and no host or site is called so`)
    if (called > 1) throw new Error(`conditions for ${name}, and a host and a site are called so`)
  }
  const stranger = Object.keys(containers).find((name) => !hosts.includes(name))
  if (stranger !== undefined) throw new Error(`a container for ${stranger}, and no host is called so`)
}
