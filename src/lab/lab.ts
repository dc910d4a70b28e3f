import { extname, join } from 'node:path'
import { Lifetime } from '../core/kit/lifetime.ts'
import { hasNetem, plainLink, Wires, type Ends, type Link, type LinkKind } from './link/link.ts'
import type { LinkConditions } from './link/conditions.ts'
import { Containers } from './docker/containers.ts'
import { Host } from './host.ts'
import { destroy, nameFor, setHosts, setResolver, sweep } from './namespace.ts'
import { RULES6, rulesOf, type NatKind } from './nat.ts'
import { NamespaceBackend } from './host-backend.ts'
import { text } from './program.ts'
import { applyRules, bridge, FORWARDING, script } from './router.ts'
import { type Backend, checkSpec, type LabSpec, type SiteSpec } from './spec.ts'

export type { LabSpec, SiteSpec } from './spec.ts'

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
  /** Of hosts, before they are plugged in. */
  readonly #namespaces = new Map<string, string>()
  readonly #sites = new Map<string, Site>()
  #cables = 0
  #publics: Readonly<Record<string, readonly string[]>> = {}
  #conditions: Readonly<Record<string, LinkConditions>> = {}
  #links: LabSpec['links']
  #wires: Wires | undefined
  #containers: Containers | undefined

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

  /** What hosts are here. */
  get backend(): Backend {
    return this.#containers === undefined ? 'namespaces' : 'docker'
  }

  async build(spec: LabSpec): Promise<void> {
    const { sites = {}, publics = [], conditions = {}, links } = spec
    checkSpec(spec)
    if (spec.backend === 'docker') this.#containers = await Containers.start()
    this.#publics = Object.fromEntries(
      publics.map((name, i) => [name, [`${INTERNET}.${FIRST_HOST + i}`, `${INTERNET6}::${FIRST_HOST + i}`]]),
    )
    const names = [...publics, ...Object.values(sites).flatMap((site) => site.hosts)]
    await all(names.map(async (name) => this.#namespaces.set(name, await this.#namespace(name, this.#containers))))
    this.#life.defer(() => this.#containers?.remove())
    const internet = await this.#namespace('internet')
    this.#conditions = conditions
    if (Object.keys(conditions).length > 0) {
      this.#links = links ?? ((await hasNetem(internet)) ? 'netem' : 'user-space')
      if (this.#links === 'user-space') this.#wires = this.#life.use(Wires.start(internet))
    }
    await script(internet, [...bridge('lan', [`${GATEWAY}/24`, `${GATEWAY6}/64`]), ...FORWARDING])
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
      if (above === undefined) throw new Error(`no site ${site.behind}`)
      networks.set(name, await this.#addSite(name, site, above, world, index))
    }
    await this.#inhabit(spec)
  }

  /** The network is complete: the containers may start. */
  async #inhabit({ image, containers = {} }: LabSpec): Promise<void> {
    const started = this.hosts.map(({ name, namespace }) =>
      this.#containers?.run(namespace, { ...(image === undefined ? {} : { image }), ...containers[name] }),
    )
    await all(started)
    await this.#containers?.check()
  }

  async #addSite(name: string, spec: SiteSpec, above: Network, world: Network, index: number): Promise<Network> {
    const {
      hosts,
      nat = 'address-and-port-dependent-filtering',
      egress = 'all',
      hairpin = false,
      family = 'ipv4',
    } = spec
    const { prefix = spec.behind === undefined ? '192.168.1.0/24' : '192.168.2.0/24' } = spec
    const inside = baseOf(prefix)
    const namespace = await this.#namespace(`${name}-router`)
    const uplink = await this.#cable(name, namespace, 'wan', above.namespace)
    const number = above.next++
    const own6 = `${INTERNET6}:${FIRST_ROUTER + index}`
    const has4 = family !== 'ipv6' && above.v4 !== undefined
    const has6 = family !== 'ipv4' && above === world
    const outside = has4 ? `${above.v4}${number}` : `${above.v6}::${number}`
    await script(namespace, [
      'ip link set wan up',
      ...bridge('lan', [...(has4 ? [`${inside}.1/24`] : []), ...(has6 ? [`${own6}::1/64`] : [])]),
      ...(has4 ? [`ip addr add ${outside}/24 dev wan`, `ip route add default via ${above.gateway}`] : []),
      ...(has6
        ? [`ip addr add ${above.v6}::${number}/64 dev wan nodad`, `ip route add default via ${above.gateway6}`]
        : []),
      ...FORWARDING,
    ])
    if (has4) await applyRules(namespace, rulesOf({ nat, egress, hairpin, outside }))
    if (has6) await applyRules(namespace, RULES6)
    if (has6) await script(world.namespace, [`ip route add ${own6}::/64 via ${above.v6}::${number}`])
    if (nat === 'none' && has4) await script(above.namespace, [`ip route add ${prefix} via ${outside}`])
    const network: Network = {
      namespace,
      ...(has4 ? { v4: `${inside}.`, gateway: `${inside}.1` } : {}),
      ...(has6 ? { v6: own6, gateway6: `${own6}::1` } : {}),
      next: FIRST_HOST,
    }
    const added: Host[] = []
    for (const host of hosts) added.push(await this.#addHost(host, network))
    const place = new NamespaceBackend(namespace)
    const router = new Host({ name: `${name}-router`, namespace, address: outside }, uplink, place)
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
    const argv = [
      process.execPath,
      join(import.meta.dirname, `http-proxy${extname(import.meta.filename)}`),
      address,
      String(PROXY_PORT),
    ]
    await new Promise<void>((resolve, reject) => {
      const program = router.spawn(argv, {
        onLine: (line) => (line === 'ready' ? resolve() : reject(new Error(`the site’s proxy: ${line}`))),
      })
      this.#life.use(program)
    })
    return `http://${address}:${PROXY_PORT}`
  }

  async #addHost(name: string, network: Network): Promise<Host> {
    const namespace = this.#namespaces.get(name)!
    setResolver(namespace, this.#nameserver)
    const place = this.#containers?.place(namespace) ?? new NamespaceBackend(namespace)
    const cable = await this.#cable(name, namespace, 'eth0', network.namespace)
    const number = network.next++
    const address = network.v4 === undefined ? undefined : `${network.v4}${number}`
    const address6 = network.v6 === undefined ? undefined : `${network.v6}::${number}`
    await script(namespace, [
      'ip link set eth0 up',
      ...(address === undefined
        ? []
        : [`ip addr add ${address}/24 dev eth0`, `ip route add default via ${network.gateway}`]),
      ...(address6 === undefined
        ? []
        : [`ip addr add ${address6}/64 dev eth0 nodad`, `ip route add default via ${network.gateway6}`]),
    ])
    const host = new Host({ name, namespace, address: address ?? address6 ?? '', address6 }, cable, place)
    this.#hosts.set(name, host)
    return host
  }

  /** A new one, or that of a container that does nothing else. */
  async #namespace(label: string, containers?: Containers): Promise<string> {
    const name = nameFor(label)
    this.#life.defer(() => destroy([name]))
    await (containers === undefined ? text(['ip', 'netns', 'add', name]) : containers.open(name, label))
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

function baseOf(prefix: string): string {
  const match = /^(\d+\.\d+\.\d+)\.0\/24$/.exec(prefix)
  if (match === null) throw new Error(`${prefix} is not a /24`)
  return match[1] as string
}

/** When one fails the others end first: what they have made is taken back only then. */
async function all(started: readonly unknown[]): Promise<void> {
  for (const result of await Promise.allSettled(started)) if (result.status === 'rejected') throw result.reason
}
