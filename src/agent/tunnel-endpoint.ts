import type { RawConnection } from '../../proxy/paths/contract.ts'
import { DirectListener } from '../../proxy/paths/direct-path.ts'
import { PortMapper, type PortMappingState } from '../../proxy/paths/port-mapping/port-mapper.ts'
import { hostPort } from '../config/host-port.ts'
import { readNetwork } from '../core/kit/network.ts'
import { allows, ANY_PATH, readPathRule, type PathRule } from '../core/model/path-rule.ts'
import type { AgentContext } from './context.ts'
import type { NodeIdentity } from './node-identity.ts'
import { isListenedAt, reachableAt } from './own-addresses.ts'

/**
 * Where other nodes connect to this one directly: the address and port of the tunnel, the listener there, and the port that
 * the router forwards. The port is known once `listen` has resolved.
 */
export class TunnelEndpoint {
  readonly host: string
  readonly #context: AgentContext
  readonly #identity: NodeIdentity
  /** Which paths the operator allows. */
  readonly rule: PathRule
  #port: number
  #listener: DirectListener | undefined
  #mapper: PortMapper | undefined

  constructor(context: AgentContext, identity: NodeIdentity) {
    const { config, predecessor } = context
    const { host, port } = hostPort(config.listen)
    this.#context = context
    this.#identity = identity
    this.host = host
    this.#port = port === 0 ? (predecessor?.tunnelPort ?? 0) : port
    this.rule = readPathRule(config.paths) ?? ANY_PATH
  }

  get port(): number {
    return this.#port
  }

  /** Zero while nobody can connect. */
  get openPort(): number {
    return this.#listener === undefined ? 0 : this.#port
  }

  get portMapping(): PortMapper | undefined {
    return this.#mapper
  }

  get portMappingState(): PortMappingState | undefined {
    return this.#mapper?.state
  }

  /** `host:port` on the router that lead here. */
  mapped(protocol: 'tcp' | 'udp'): string[] {
    return this.#mapper?.addresses(protocol) ?? []
  }

  /** Where others may connect now, best first: what the operator says, what the router maps, what this machine has. */
  addresses(): string[] {
    const { advertise } = this.#context.config
    return [...advertise, ...this.mapped('tcp'), ...reachableAt(this.host, this.#port, this.#identity.own)]
  }

  /** The addresses that other nodes are given. None where the operator forbids direct connections. */
  candidates(): string[] {
    return allows(this.rule, 'direct') ? this.addresses() : []
  }

  isListenedAt(host: string, port: number): boolean {
    return isListenedAt(this, host, port)
  }

  /** Takes connections. A successor calls it late, when it can serve them. @throws MeshError LISTEN_FAILED */
  async listen(onConnection: (raw: RawConnection) => void, udpPort: number | undefined): Promise<void> {
    const { config, predecessor, log, life } = this.#context
    const at = { host: this.host, port: this.#port, isBeside: predecessor !== undefined }
    this.#listener = await DirectListener.start(at, onConnection, log)
    life.use({ [Symbol.asyncDispose]: () => this.close() })
    this.#port = this.#listener.port
    if (config.portMapping === 'auto' && isStraight(this.rule)) this.#mapper = life.use(this.#mapPorts(udpPort))
  }

  /** Takes no more connections. */
  async close(): Promise<void> {
    const last = this.#listener
    this.#listener = undefined
    await last?.[Symbol.asyncDispose]()
  }

  #mapPorts(udpPort: number | undefined): PortMapper {
    const { clock, log } = this.#context
    return PortMapper.start(
      {
        gateway: () => readNetwork().defaults.find(({ family }) => family === 'ipv4')?.gateway,
        ports: () => [
          { protocol: 'tcp', port: this.#port },
          ...(udpPort === undefined ? [] : [{ protocol: 'udp' as const, port: udpPort }]),
        ],
        onChange: () => undefined, // the cluster hears of other candidates when the node facts are next compared
        clock,
        secret: this.#identity.certificate.key,
      },
      log,
    )
  }
}

/** Whether packets may go to other nodes without a relay. */
export function isStraight(rule: PathRule): boolean {
  return allows(rule, 'direct') || allows(rule, 'punched')
}
