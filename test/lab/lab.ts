import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Lifetime } from '../../src/kit/lifetime.ts'
import { hasNetem, plainLink, Wires, type Ends, type Link, type LinkKind } from './link/link.ts'
import type { LinkConditions } from './link/conditions.ts'
import { destroy, killInside, nameFor, setResolver, sweep } from './namespace.ts'
import { rulesOf, type NatKind } from './nat.ts'
import { Program, run, text, type ProgramOptions, type Result, type RunOptions } from './program.ts'

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
 * Every site has 192.168.1.0/24 unless it says otherwise: the same private addresses everywhere, as in real life.
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
}

export interface Site extends Link {
  readonly name: string
  readonly router: Host
  readonly hosts: readonly Host[]
}

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

/** One machine of the lab. */
export class Host implements Link {
  readonly kind: LinkKind
  readonly name: string
  readonly namespace: string
  readonly address: string
  readonly #cable: Link

  constructor(name: string, namespace: string, address: string, cable: Link) {
    this.name = name
    this.namespace = namespace
    this.address = address
    this.#cable = cable
    this.kind = cable.kind
  }

  /** Runs a command here to its end; a failing code is an answer, not an error. */
  exec(argv: readonly string[], options?: RunOptions): Promise<Result> {
    return run(this.argv(argv), options)
  }

  /** The output of a command that must succeed. */
  text(argv: readonly string[], options?: RunOptions): Promise<string> {
    return text(this.argv(argv), options)
  }

  spawn(argv: readonly string[], options?: ProgramOptions): Program {
    return Program.start(this.argv(argv), options)
  }

  /** What to run in the root namespace so that `argv` runs here; `ip` replaces itself, so the pid is the command's. */
  argv(argv: readonly string[]): string[] {
    return ['ip', 'netns', 'exec', this.namespace, ...argv]
  }

  /** The power goes: nothing inside says goodbye, and nobody hears of it. */
  async lose(): Promise<void> {
    await this.cut()
    killInside(this.namespace)
  }

  cut(): Promise<void> {
    return this.#cable.cut()
  }

  heal(): Promise<void> {
    return this.#cable.heal()
  }

  change(conditions: LinkConditions): Promise<void> {
    return this.#cable.change(conditions)
  }
}

export class Lab {
  readonly #life: Lifetime
  readonly #nameserver: string
  readonly #hosts = new Map<string, Host>()
  readonly #sites = new Map<string, Site>()
  #cables = 0
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
    const internet = await this.#namespace('internet')
    this.#conditions = conditions
    for (const name of Object.keys(conditions)) {
      const isKnown =
        name in sites || publics.includes(name) || Object.values(sites).some(({ hosts }) => hosts.includes(name))
      if (!isKnown) throw new Error(`conditions for ${name}, and no host or site is called so`)
    }
    if (Object.keys(conditions).length > 0) {
      this.#links = links ?? ((await hasNetem(internet)) ? 'netem' : 'user-space')
      if (this.#links === 'user-space') this.#wires = this.#life.use(Wires.start(internet))
    }
    await script(internet, [...bridge('lan', `${GATEWAY}/24`), forwarding])
    for (const [index, name] of publics.entries()) {
      await this.#addHost(name, internet, `${INTERNET}.${FIRST_HOST + index}`, GATEWAY)
    }
    for (const [index, [name, site]] of Object.entries(sites).entries()) {
      await this.#addSite(name, site, internet, `${INTERNET}.${FIRST_ROUTER + index}`)
    }
  }

  async #addSite(name: string, spec: SiteSpec, internet: string, outside: string): Promise<void> {
    const { hosts, nat = 'port-restricted', prefix = '192.168.1.0/24' } = spec
    const inside = baseOf(prefix)
    const namespace = await this.#namespace(`${name}-router`)
    const uplink = await this.#cable(name, namespace, 'wan', internet)
    await script(namespace, [
      ...bridge('lan', `${inside}.1/24`),
      `ip addr add ${outside}/24 dev wan`,
      'ip link set wan up',
      `ip route add default via ${GATEWAY}`,
      forwarding,
    ])
    await this.#applyRules(namespace, rulesOf(nat))
    if (nat === 'none') await script(internet, [`ip route add ${prefix} via ${outside}`])
    const added: Host[] = []
    for (const [index, host] of hosts.entries()) {
      added.push(await this.#addHost(host, namespace, `${inside}.${FIRST_HOST + index}`, `${inside}.1`))
    }
    const router = new Host(`${name}-router`, namespace, outside, uplink)
    this.#sites.set(name, { name, router, hosts: added, ...uplink })
  }

  async #addHost(name: string, network: string, address: string, gateway: string): Promise<Host> {
    if (this.#hosts.has(name)) throw new Error(`two hosts are called ${name}`)
    const namespace = await this.#namespace(name)
    setResolver(namespace, this.#nameserver)
    const cable = await this.#cable(name, namespace, 'eth0', network)
    await script(namespace, [
      `ip addr add ${address}/24 dev eth0`,
      'ip link set eth0 up',
      `ip route add default via ${gateway}`,
    ])
    const host = new Host(name, namespace, address, cable)
    this.#hosts.set(name, host)
    return host
  }

  async #namespace(label: string): Promise<string> {
    const name = nameFor(label)
    this.#life.defer(() => destroy([name]))
    await text(['ip', 'netns', 'add', name])
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

const forwarding = 'echo 1 > /proc/sys/net/ipv4/ip_forward'

function bridge(name: string, address: string): string[] {
  return [`ip link add ${name} type bridge`, `ip addr add ${address} dev ${name}`, `ip link set ${name} up`]
}

async function script(namespace: string, lines: readonly string[]): Promise<void> {
  await text(['ip', 'netns', 'exec', namespace, 'sh', '-ec', lines.join('\n')])
}

function baseOf(prefix: string): string {
  const match = /^(\d+\.\d+\.\d+)\.0\/24$/.exec(prefix)
  if (match === null) throw new Error(`${prefix} is not a /24`)
  return match[1] as string
}
