import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Lifetime } from '../../src/kit/lifetime.ts'
import { hasNetem, plainLink, Wires, type Ends, type Link, type LinkKind } from './link/link.ts'
import type { LinkConditions } from './link/conditions.ts'
import { Host } from './host.ts'
import { destroy, nameFor, setHosts, setResolver, sweep } from './namespace.ts'
import { RULES6, rulesOf, type EgressKind, type NatKind } from './nat.ts'
import { text } from './program.ts'

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
 */
export interface LabSpec {
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

/** A site's link is its router's uplink. */
export interface Site extends Link {
  readonly name: string
  readonly nat: NatKind
  readonly router: Host
  readonly hosts: readonly Host[]
  /** The HTTP proxy that is the only way out. */
  readonly proxy?: string
}

const INTERNET6 = '2001:db8'
const GATEWAY6 = `${INTERNET6}::254`
const PROXY_PORT = 3128
const INTERNET = '203.0.113'
const GATEWAY = `${INTERNET}.254`
const FIRST_HOST = 10
const FIRST_ROUTER = 101

export function lab(spec: LabSpec): Promise<Lab> {
  sweep()
  return Lifetime.open(async (life) => {
    const built = new Lab(life, spec.nameserver ?? '127.30.0.53')
    await built.build(spec)
    return built
  })
}

export class Lab {
  readonly #life: Lifetime
  readonly #nameserver: string
  readonly #hosts = new Map<string, Host>()
  readonly #sites = new Map<string, Site>()
  #cables = 0
  #publics: Readonly<Record<string, readonly string[]>> = {}
  #conditions: Readonly<Record<string, LinkConditions>> = {}
  #links: LabSpec['links']
  #wires: Wires | undefined

  /** Use `lab(spec)`. */
  constructor(life: Lifetime, nameserver: string) {
    this.#life = life
    this.#nameserver = nameserver
  }

  host(name: string): Host {
    const host = this.#hosts.get(name)
    if (host === undefined) throw new Error(`no host ${name} in this lab`)
    return host
  }

  site(name: string): Site {
    const site = this.#sites.get(name)
    if (site === undefined) throw new Error(`no site ${name} in this lab`)
    return site
  }

  get sites(): readonly Site[] {
    return [...this.#sites.values()]
  }

  get hosts(): readonly Host[] {
    return [...this.#hosts.values()]
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#life.close()
  }

  /** How links with conditions are made here; `plain` when there are none. */
  get links(): LinkKind {
    return this.#links ?? 'plain'
  }

  async build({ sites = {}, publics = [], conditions = {}, links }: LabSpec): Promise<void> {
    this.#publics = Object.fromEntries(
      publics.map((name, i) => [name, [`${INTERNET}.${FIRST_HOST + i}`, `${INTERNET6}::${FIRST_HOST + i}`]]),
    )
    const internet = await this.#namespace('internet')
    this.#conditions = conditions
    for (const name of Object.keys(conditions)) {
      const hosts = [...publics, ...Object.values(sites).flatMap((site) => site.hosts)]
      const called = [...Object.keys(sites), ...hosts].filter((one) => one === name).length
      if (called === 0) throw new Error(`conditions for ${name}, and no host or site is called so`)
      if (called > 1) throw new Error(`conditions for ${name}, and a host and a site are called so`)
    }
    if (Object.keys(conditions).length > 0) {
      this.#links = links ?? ((await hasNetem(internet)) ? 'netem' : 'user-space')
      if (this.#links === 'user-space') this.#wires = this.#life.use(Wires.start(internet))
    }
    await script(internet, [...bridge('lan', [`${GATEWAY}/24`, `${GATEWAY6}/64`]), ...forwarding])
    const world: Network = {
      namespace: internet,
      v4: `${INTERNET}.`,
      gateway: GATEWAY,
      v6: INTERNET6,
      gateway6: GATEWAY6,
      next: FIRST_HOST,
    }
    for (const name of publics) await this.#addHost(name, world)
    world.next = FIRST_ROUTER
    const networks = new Map<string, Network>()
    for (const [index, [name, site]] of Object.entries(sites).entries()) {
      const above = site.behind === undefined ? world : networks.get(site.behind)
      if (above === undefined)
        throw new Error(`site ${name} is behind ${site.behind}, and no site above it is called so`)
      networks.set(name, await this.#addSite(name, site, above, world, index))
    }
  }

  async #addSite(name: string, spec: SiteSpec, above: Network, world: Network, index: number): Promise<Network> {
    const { hosts, nat = 'port-restricted', egress = 'all', hairpin = false, family = 'ipv4' } = spec
    const { prefix = spec.behind === undefined ? '192.168.1.0/24' : '192.168.2.0/24' } = spec
    const inside = baseOf(prefix)
    const namespace = await this.#namespace(`${name}-router`)
    const uplink = await this.#cable(name, namespace, 'wan', above.namespace)
    const place = above.next++
    const own6 = `${INTERNET6}:${FIRST_ROUTER + index}`
    const has4 = family !== 'ipv6' && above.v4 !== undefined
    const has6 = family !== 'ipv4' && above === world
    const outside = has4 ? `${above.v4}${place}` : `${above.v6}::${place}`
    await script(namespace, [
      'ip link set wan up',
      ...bridge('lan', [...(has4 ? [`${inside}.1/24`] : []), ...(has6 ? [`${own6}::1/64`] : [])]),
      ...(has4 ? [`ip addr add ${outside}/24 dev wan`, `ip route add default via ${above.gateway}`] : []),
      ...(has6
        ? [`ip addr add ${above.v6}::${place}/64 dev wan nodad`, `ip route add default via ${above.gateway6}`]
        : []),
      ...forwarding,
    ])
    if (has4) await this.#applyRules(namespace, rulesOf({ nat, egress, hairpin, outside }))
    if (has6) await this.#applyRules(namespace, RULES6)
    if (has6) await script(world.namespace, [`ip route add ${own6}::/64 via ${above.v6}::${place}`])
    if (nat === 'none' && has4) await script(above.namespace, [`ip route add ${prefix} via ${outside}`])
    const network: Network = {
      namespace,
      ...(has4 ? { v4: `${inside}.`, gateway: `${inside}.1` } : {}),
      ...(has6 ? { v6: own6, gateway6: `${own6}::1` } : {}),
      next: FIRST_HOST,
    }
    const added: Host[] = []
    for (const host of hosts) added.push(await this.#addHost(host, network))
    const router = new Host(`${name}-router`, namespace, outside, undefined, uplink)
    const proxy = egress === 'only-proxy' ? await this.#startProxy(router, `${inside}.1`) : undefined
    this.#sites.set(
      name,
      Object.assign(Object.create(uplink) as Link, {
        name,
        nat,
        router,
        hosts: added,
        ...(proxy === undefined ? {} : { proxy }),
      }),
    )
    return network
  }

  async #startProxy(router: Host, address: string): Promise<string> {
    const argv = [process.execPath, join(import.meta.dirname, 'http-proxy.ts'), address, String(PROXY_PORT)]
    await new Promise<void>((resolve, reject) => {
      const program = router.spawn(argv, {
        onLine: (line) => (line === 'ready' ? resolve() : reject(new Error(`the site’s proxy: ${line}`))),
      })
      this.#life.use(program)
    })
    return `http://${address}:${PROXY_PORT}`
  }

  async #addHost(name: string, network: Network): Promise<Host> {
    if (this.#hosts.has(name)) throw new Error(`two hosts are called ${name}`)
    const namespace = await this.#namespace(name)
    setResolver(namespace, this.#nameserver)
    const cable = await this.#cable(name, namespace, 'eth0', network.namespace)
    const place = network.next++
    const address = network.v4 === undefined ? undefined : `${network.v4}${place}`
    const address6 = network.v6 === undefined ? undefined : `${network.v6}::${place}`
    await script(namespace, [
      'ip link set eth0 up',
      ...(address === undefined
        ? []
        : [`ip addr add ${address}/24 dev eth0`, `ip route add default via ${network.gateway}`]),
      ...(address6 === undefined
        ? []
        : [`ip addr add ${address6}/64 dev eth0 nodad`, `ip route add default via ${network.gateway6}`]),
    ])
    const host = new Host(name, namespace, address ?? address6 ?? '', address6, cable)
    this.#hosts.set(name, host)
    return host
  }

  async #namespace(label: string): Promise<string> {
    const name = nameFor(label)
    this.#life.defer(() => destroy([name]))
    await text(['ip', 'netns', 'add', name])
    setHosts(name, this.#publics)
    await script(name, ['ip link set lo up'])
    return name
  }

  /** A link from an interface to the bridge `lan` of another namespace. */
  async #cable(name: string, from: string, device: string, to: string): Promise<Link> {
    const ends: Ends = { from: { namespace: from, device }, to: { namespace: to, device: `port${this.#cables++}` } }
    const conditions = this.#conditions[name]
    const isWired = conditions !== undefined && this.#wires !== undefined
    const link = isWired ? await this.#wires!.link(ends, conditions) : await plainLink(ends, conditions)
    await script(to, [`ip link set ${ends.to.device} master lan up`])
    return link
  }

  /** From a file: nft cannot read the socket pair that a child's stdin is. */
  async #applyRules(namespace: string, rules: string): Promise<void> {
    if (rules === '') return
    const folder = await mkdtemp(join(tmpdir(), 'hedgerow-lab-'))
    try {
      await writeFile(join(folder, 'rules.nft'), rules)
      await text(['ip', 'netns', 'exec', namespace, 'nft', '-f', join(folder, 'rules.nft')])
    } finally {
      await rm(folder, { recursive: true })
    }
  }
}

/** A bridge that hosts and routers are plugged into. */
interface Network {
  namespace: string
  /** What an IPv4 address here begins with, up to the last dot. */
  v4?: string
  gateway?: string
  /** What an IPv6 address here begins with, up to the double colon. */
  v6?: string
  gateway6?: string
  /** Of the next host. */
  next: number
}

const forwarding = ['echo 1 > /proc/sys/net/ipv4/ip_forward', 'echo 1 > /proc/sys/net/ipv6/conf/all/forwarding']

function bridge(name: string, addresses: readonly string[]): string[] {
  return [
    `ip link add ${name} type bridge`,
    ...addresses.map((address) => `ip addr add ${address} dev ${name}${address.includes(':') ? ' nodad' : ''}`),
    `ip link set ${name} up`,
  ]
}

async function script(namespace: string, lines: readonly string[]): Promise<void> {
  await text(['ip', 'netns', 'exec', namespace, 'sh', '-ec', lines.join('\n')])
}

function baseOf(prefix: string): string {
  const match = /^(\d+\.\d+\.\d+)\.0\/24$/.exec(prefix)
  if (match === null) throw new Error(`${prefix} is not a /24`)
  return match[1] as string
}
