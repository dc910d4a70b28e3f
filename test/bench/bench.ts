import { build } from './build.ts'
import type { Ground } from './ground.ts'
import { startEcho } from './loads/connections.ts'
import { type Place, startIperf } from './loads/iperf3.ts'
import { BenchMesh } from './mesh.ts'
import { startDnsmasq } from './peers/dnsmasq.ts'
import { startHop, startOrigin, startPair } from './peers/haproxy.ts'
import { startNebula } from './peers/nebula.ts'
import { startWireguard } from './peers/wireguard-go.ts'
import type { RowSpec } from './table.ts'
import type { Tool } from './tools.ts'

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
  measure(bench: Bench): Promise<Readonly<Record<string, number>>>
}

/** What the mesh serves, beside what a scenario adds. */
export interface Served {
  readonly mesh: BenchMesh
  readonly web: Place
  readonly here: Place
  readonly iperf: Place
  readonly echo: Place
}

/** Everything that lanes share. A part is started when the first lane needs it, and ends with the ground. */
export class Bench {
  readonly ground: Ground
  readonly seconds: number
  readonly say: (line: string) => void
  readonly tools: ReadonlySet<Tool>
  readonly #parts = new Map<string, Promise<unknown>>()

  constructor(ground: Ground, tools: ReadonlySet<Tool>, seconds: number, say: (line: string) => void) {
    this.ground = ground
    this.tools = tools
    this.seconds = seconds
    this.say = say
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
      web: await startOrigin(this.ground, 'b'),
      iperf: await startIperf(this.ground, 'b'),
      echo: await startEcho(this.ground, 'b'),
    }))
  }

  /** The port of a web server on side a. */
  originHere(): Promise<number> {
    return this.part('origin here', () =>
      this.ground.kind === 'loopback' ? this.origins().then(({ web }) => web) : startOrigin(this.ground, 'a'),
    )
  }

  /** What starts `hedgerow`. */
  hedgerow(): Promise<string[]> {
    return this.part('the build', build)
  }

  ours(): Promise<Served> {
    return this.part('hedgerow', async () => {
      const { web, iperf, echo } = await this.origins()
      const mesh = await BenchMesh.start(this.ground, await this.hedgerow())
      const names = await mesh.serve([
        { name: 'web', side: 'b', target: web },
        { name: 'iperf', side: 'b', target: iperf, isUdpToo: true },
        { name: 'echo', side: 'b', target: echo },
        { name: 'here', side: 'a', target: await this.originHere() },
      ])
      const places = await Promise.all(names.map((name) => mesh.place(name)))
      const [webAt, iperfAt, echoAt, here] = places as [Place, Place, Place, Place]
      return { mesh, web: webAt, iperf: iperfAt, echo: echoAt, here }
    })
  }

  /** HAProxy → TLS 1.3 → HAProxy. */
  pair(): Promise<{ web: Place; iperf: Place; echo: Place; pids: number[] }> {
    return this.part('HAProxy pair', async () => {
      const { web, iperf, echo } = await this.origins()
      const { fronts, pids } = await startPair(this.ground, [web, iperf, echo])
      const [webAt, iperfAt, echoAt] = fronts.map((port) => ({ host: '127.0.0.1', port })) as [Place, Place, Place]
      return { web: webAt, iperf: iperfAt, echo: echoAt, pids }
    })
  }

  hop(): Promise<Place> {
    return this.part('HAProxy hop', async () => {
      const port = await startHop(this.ground, 'a', await this.originHere())
      return { host: '127.0.0.1', port }
    })
  }

  nebula(): Promise<string> {
    return this.part('Nebula', async () => startNebula(this.ground, (await this.origins()).web))
  }

  wireguard(): Promise<string> {
    return this.part('wireguard-go', async () => startWireguard(this.ground, (await this.origins()).web))
  }

  dnsmasq(names: readonly string[]): Promise<Place> {
    return this.part('dnsmasq', async () => ({ host: '127.0.0.1', port: await startDnsmasq(this.ground, names) }))
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
