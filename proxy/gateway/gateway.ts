import { background } from '../../src/core/kit/background.ts'
import { printHostPort } from '../../src/core/kit/host-port.ts'
import { ignore } from '../../src/core/kit/ignore.ts'
import { Lifetime } from '../../src/core/kit/lifetime.ts'
import { findName, findNameOrAsk } from '../../src/core/table/find-name.ts'
import { authorise } from '../decide/authorise.ts'
import { NODE_CALLER } from '../flow/flow.ts'
import { RefusalLog } from '../intercept/refusal-log.ts'
import type { GatewayNeeds, GatewayParts } from './parts.ts'
import { Certificates } from './certificates.ts'
import { ClientLimits, type ClientLimitsOptions } from './client-limits.ts'
import { type GatewayPort, type GatewayTarget, routesOf } from './rules.ts'
import { TcpListener } from './tcp-listener.ts'
import { UdpListener } from './udp-listener.ts'

/*
 * The ports of this machine that lead strangers to services of the mesh. A port that cannot be opened now is tried again; nothing
 * else of the agent waits for it.
 */

export interface GatewayOptions extends ClientLimitsOptions {
  readonly ports: readonly GatewayPort[]
  /** The agent that this one takes over from may listen at the same ports. */
  readonly isBeside: boolean
}

/** One host name of one port, as `hedgerow gateway` lists it. */
export interface GatewayRoute {
  listen: string
  protocol: GatewayPort['protocol']
  /** Absent: for every host name that has no entry of its own. */
  host?: string
  target: string
  /** Whether TLS ends here. */
  isTerminated: boolean
  /** Of the port. */
  connections: number
  /** What is wrong; absent: nothing. */
  problem?: string
  remedy?: string
}

/** Files of certificates are read, and ports that failed are tried, this often. Smaller costs more; larger: a renewal is used later. */
const AGAIN_MS = 5_000

export class Gateway implements AsyncDisposable {
  readonly #life: Lifetime
  readonly #ports: OpenPort[]
  readonly #parts: GatewayParts
  #cancel: (() => void) | undefined

  private constructor(life: Lifetime, ports: OpenPort[], parts: GatewayParts) {
    this.#life = life
    this.#ports = ports
    this.#parts = parts
  }

  static start({ ports, isBeside, ...limits }: GatewayOptions, needs: GatewayNeeds): Promise<Gateway> {
    return Lifetime.open(async (life) => {
      const { log, clock } = needs
      const parts = { ...needs, limits: new ClientLimits(limits), refusals: new RefusalLog('gateway', log, clock) }
      const open = ports.map((port) => new OpenPort(port, parts))
      const gateway = new Gateway(life, open, parts)
      life.defer(async () => void (await Promise.all(open.map((port) => port.close()))))
      await Promise.all(open.map((port) => port.tryToOpen(isBeside)))
      gateway.#askForNames()
      if (ports.length > 0) gateway.#arm()
      life.defer(() => gateway.#cancel?.())
      return gateway
    })
  }

  /** Connections and UDP flows of strangers. */
  get size(): number {
    return this.#parts.limits.size
  }

  /** Refused since the start, because their address or the gateway had too many. */
  get refused(): number {
    return this.#parts.limits.refused
  }

  /** Every name that strangers can call, and what is wrong with it now. */
  routes(): GatewayRoute[] {
    return this.#ports.flatMap((open) =>
      routesOf(open.port).map(({ host, target }): GatewayRoute => {
        const problem = open.problem() ?? this.#problemOf(target, open.port)
        return {
          listen: printHostPort(open.port.listen.host, open.port.listen.port),
          protocol: open.port.protocol,
          ...(host === undefined ? {} : { host }),
          target: `${target.name}:${target.port}`,
          isTerminated: open.port.certificates.length > 0,
          connections: open.size,
          ...problem,
        }
      }),
    )
  }

  close(): Promise<void> {
    return this.#life.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #arm(): void {
    this.#cancel = this.#parts.clock.after(AGAIN_MS, () => void background.run('gateway', () => this.#again()))
  }

  async #again(): Promise<void> {
    for (const port of this.#ports) await port.again()
    if (!this.#life.signal.aborted) this.#arm()
  }

  /** Before the first stranger comes, so that `check` knows them, and nobody waits. */
  #askForNames(): void {
    for (const { port } of this.#ports)
      for (const { target } of routesOf(port)) void findNameOrAsk(target.name, this.#parts).catch(ignore)
  }

  /** What a flow to it would be refused for. */
  #problemOf({ name, port }: GatewayTarget, { protocol }: GatewayPort): Trouble | undefined {
    const found = findName(name, this.#parts.zones, this.#parts.table)
    if (found.kind === 'unasked') return undefined // nobody has answered yet
    if (found.kind !== 'target')
      return {
        problem: `${name}: ${found.kind === 'unknown' ? found.reason : 'not a name of the mesh'}`,
        remedy: DEPLOY,
      }
    const { service } = found.target
    const transport = protocol === 'udp' ? 'udp' : 'tcp'
    if (!service.ports.some((served) => served.port === port && served.protocol === transport))
      return { problem: `${service.id} does not serve port ${port}/${transport}`, remedy: DEPLOY }
    const { allowed, reason } = authorise(NODE_CALLER, service)
    return allowed ? undefined : { problem: reason, remedy: ALLOW }
  }
}

interface Trouble {
  problem: string
  remedy: string
}

const DEPLOY = 'Apply the document of that service, or name another in agent.gateway.ports.'
const ALLOW = 'The gateway calls as its node: `allow: [node]` in the document of that service lets it.'

/** One port, open or not yet. */
class OpenPort {
  readonly port: GatewayPort
  readonly #parts: GatewayParts
  readonly #certificates: Certificates | undefined
  #listener: TcpListener | UdpListener | undefined
  #trouble: Trouble | undefined
  #isClosed = false

  constructor(port: GatewayPort, parts: GatewayParts) {
    this.port = port
    this.#parts = parts
    this.#certificates = port.certificates.length === 0 ? undefined : new Certificates(port.certificates, parts.log)
  }

  get size(): number {
    return this.#listener?.size ?? 0
  }

  problem(): Trouble | undefined {
    if (this.#trouble !== undefined) return this.#trouble
    const [fault] = this.#certificates?.problems(Object.keys(this.port.hosts), this.#parts.clock.wall()) ?? []
    return fault === undefined ? undefined : { problem: fault, remedy: RENEW }
  }

  async again(): Promise<void> {
    this.#certificates?.reload()
    if (this.#listener === undefined) await this.tryToOpen(false)
  }

  async tryToOpen(isBeside: boolean): Promise<void> {
    const { log, metrics } = this.#parts
    const { host, port } = this.port.listen
    try {
      const listener =
        this.port.protocol === 'udp'
          ? UdpListener.open(this.port, this.#parts)
          : await TcpListener.open(this.port, { certificates: this.#certificates, isBeside }, this.#parts)
      if (this.#isClosed) return await listener.close()
      this.#listener = listener
      this.#trouble = undefined
      metrics.listeners.inc({ mode: 'gateway' })
      log.info('gateway port open', { address: host, port, protocol: this.port.protocol })
    } catch (error) {
      const trouble = troubleOf(error as NodeJS.ErrnoException, this.port)
      if (trouble.problem !== this.#trouble?.problem)
        log.error('gateway port cannot be opened', { address: host, port, error })
      this.#trouble = trouble
    }
  }

  async close(): Promise<void> {
    this.#isClosed = true
    if (this.#listener === undefined) return
    this.#parts.metrics.listeners.dec({ mode: 'gateway' })
    await this.#listener.close()
  }
}

const RENEW = 'Renew it, or name other files in agent.gateway.ports; files that change are read again within seconds.'

function troubleOf(error: NodeJS.ErrnoException, { listen: { host, port } }: GatewayPort): Trouble {
  const at = printHostPort(host, port)
  switch (error.code ?? '') {
    case 'EADDRINUSE':
      return {
        problem: `another program listens at ${at}`,
        remedy: `\`ss -tulpn | grep :${port}\` names it; it is tried again every few seconds.`,
      }
    case 'EACCES':
    case 'EPERM':
      return {
        problem: `${at}: ports below 1024 need a privilege`,
        remedy:
          'Give node CAP_NET_BIND_SERVICE (AmbientCapabilities= of the unit), or lower net.ipv4.ip_unprivileged_port_start.',
      }
    case 'EADDRNOTAVAIL':
      return { problem: `${host} is not an address of this machine`, remedy: 'Name one that is, or 0.0.0.0 for all.' }
    default:
      return { problem: `${at}: ${error.message}`, remedy: 'See the reason.' }
  }
}
