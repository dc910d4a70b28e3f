import type { Side, Testbed } from './testbed.ts'
import { startEcho } from './loads/connections.ts'
import { type Address, startIperf } from './loads/iperf3.ts'
import { BenchMesh } from './mesh.ts'
import { startCoredns } from './peers/coredns.ts'
import { startDnsmasq } from './peers/dnsmasq.ts'
import { startHop, startOrigin, startPair } from './peers/haproxy.ts'
import { startNebula } from './peers/nebula.ts'
import { startWireguard } from './peers/wireguard-go.ts'
import type { RowSpec } from './table.ts'
import type { Tool } from './tools.ts'
import type { Variant } from './variants.ts'

/** A few rows that are measured together. */
export interface Scenario {
  readonly rows: readonly RowSpec[]
  /** Without them none of it can be measured. */
  readonly needs: readonly Tool[]
  /** Memory and the like need no rounds. */
  readonly isOnce?: boolean
  /** Who is measured, in turns: each gives a figure for some of the rows. */
  readonly lanes: readonly Lane[]
}

export interface Lane {
  readonly name: string
  readonly needs?: readonly Tool[]
  /** Packet tunnels need networks of their own to join. */
  readonly needsNamespaces?: boolean
  /** It runs code of this checkout itself, whatever `hedgerow` is measured. */
  readonly isOfThisCheckout?: boolean
  measure(bench: Bench): Promise<Readonly<Record<string, number>>>
}

/** What the mesh serves, beside what a scenario adds. */
export interface Served {
  readonly mesh: BenchMesh
  readonly web: Address
  readonly here: Address
  readonly iperf: Address
  readonly echo: Address
}

export interface BenchOptions {
  readonly testbed: Testbed
  readonly tools: ReadonlySet<Tool>
  readonly seconds: number
  readonly say: (line: string) => void
  /** Whose agents. */
  readonly hedgerow: Variant
  /** Those of other variants, each on a testbed of its own, by name. */
  readonly variants?: ReadonlyMap<string, Bench>
}

/** Everything that lanes share. A part is started when the first lane needs it, and ends with the testbed. */
export class Bench {
  readonly testbed: Testbed
  readonly seconds: number
  readonly say: (line: string) => void
  readonly tools: ReadonlySet<Tool>
  readonly #hedgerow: Variant
  readonly #variants: ReadonlyMap<string, Bench>
  readonly #parts = new Map<string, Promise<unknown>>()

  constructor({ testbed, tools, seconds, say, hedgerow, variants = new Map() }: BenchOptions) {
    this.testbed = testbed
    this.tools = tools
    this.seconds = seconds
    this.say = say
    this.#hedgerow = hedgerow
    this.#variants = variants
  }

  /** The same with other agents. */
  variant(name: string): Bench {
    const bench = this.#variants.get(name)
    if (bench === undefined) throw new Error(`no variant ${name}`)
    return bench
  }

  /** Started once; a part that failed fails again for each who asks. */
  part<T>(name: string, start: () => Promise<T>): Promise<T> {
    const known = this.#parts.get(name) as Promise<T> | undefined
    if (known !== undefined) return known
    const starting = start()
    this.#parts.set(name, starting)
    return starting
  }

  /** Ports on side b: a web server, an iperf3 receiver, an echo. */
  origins(): Promise<{ web: number; iperf: number; echo: number }> {
    return this.part('origins', async () => ({
      web: await startOrigin(this.testbed, 'b'),
      iperf: await startIperf(this.testbed, 'b'),
      echo: await startEcho(this.testbed, 'b'),
    }))
  }

  /** The port of a web server on side a. */
  originHere(): Promise<number> {
    return this.part('origin here', () =>
      this.testbed.kind === 'loopback' ? this.origins().then(({ web }) => web) : startOrigin(this.testbed, 'a'),
    )
  }

  /** What starts `hedgerow`: Node, its flags, the launcher. */
  command(): Promise<string[]> {
    return this.#hedgerow.command()
  }

  /** A root, a cluster and two agents; `label` tells the folders of several on one testbed apart. */
  async mesh(label = ''): Promise<BenchMesh> {
    return BenchMesh.start(this.testbed, { argv: await this.command(), env: this.#hedgerow.env }, label)
  }

  ours(): Promise<Served> {
    return this.part('hedgerow', async () => {
      const { web, iperf, echo } = await this.origins()
      const mesh = await this.mesh()
      const names = await mesh.serve([
        { name: 'web', side: 'b', target: web },
        { name: 'iperf', side: 'b', target: iperf, isUdpToo: true },
        { name: 'echo', side: 'b', target: echo },
        { name: 'here', side: 'a', target: await this.originHere() },
      ])
      const places = await Promise.all(names.map((name) => mesh.place(name)))
      const [webAt, iperfAt, echoAt, here] = places as [Address, Address, Address, Address]
      return { mesh, web: webAt, iperf: iperfAt, echo: echoAt, here }
    })
  }

  /** HAProxy → TLS 1.3 → HAProxy. */
  pair(): Promise<{ web: Address; iperf: Address; echo: Address; pids: Readonly<Record<Side, number>> }> {
    return this.part('HAProxy pair', async () => {
      const { web, iperf, echo } = await this.origins()
      const { fronts, pids } = await startPair(this.testbed, [web, iperf, echo])
      const [webAt, iperfAt, echoAt] = fronts.map((port) => ({ host: '127.0.0.1', port })) as [
        Address,
        Address,
        Address,
      ]
      return { web: webAt, iperf: iperfAt, echo: echoAt, pids }
    })
  }

  hop(): Promise<Address> {
    return this.part('HAProxy hop', async () => {
      const port = await startHop(this.testbed, 'a', await this.originHere())
      return { host: '127.0.0.1', port }
    })
  }

  nebula(): Promise<string> {
    return this.part('Nebula', async () => startNebula(this.testbed, (await this.origins()).web))
  }

  wireguard(): Promise<string> {
    return this.part('wireguard-go', async () => startWireguard(this.testbed, (await this.origins()).web))
  }

  dnsmasq(names: readonly string[]): Promise<Address> {
    return this.part('dnsmasq', async () => ({ host: '127.0.0.1', port: await startDnsmasq(this.testbed, names) }))
  }

  coredns(names: readonly string[]): Promise<Address> {
    return this.part('CoreDNS', async () => ({ host: '127.0.0.1', port: await startCoredns(this.testbed, names) }))
  }

  /** Services for the name servers' rows: their names. */
  names(): Promise<string[]> {
    return this.part('names', async () => {
      const { mesh } = await this.ours()
      const { web } = await this.origins()
      const services = Array.from({ length: 50 }, (_, i) => ({ name: `name${i}`, side: 'b' as const, target: web }))
      return mesh.serve(services)
    })
  }
}

/** Who we are measured against, by the names of the table. */
export const PAIR = 'HAProxy TLS pair'
export const HOP = 'HAProxy, one plain hop'
export const NEBULA = 'Nebula'
export const WIREGUARD = 'wireguard-go'
export const DNSMASQ = 'dnsmasq'
export const COREDNS = 'CoreDNS'
export const BARE = 'bare Node TLS'
