import type { Clock } from '../../../src/core/kit/clock.ts'
import type { MapRequest } from './codec.ts'
import { PcpClient, type PortMappingProtocol, type Outcome } from './pcp-client.ts'
import { mapByIgd, readIgd, unmapByIgd, type Igd } from './igd.ts'
import { search } from './ssdp.ts'

export interface RouterOptions {
  gateway: string
  clock: Clock
  /** 5351, except in tests. */
  port?: number | undefined
  /** 1900, except in tests. */
  searchPort?: number | undefined
  /** What was found in an earlier round. */
  igd?: Igd | undefined
}

/** Other external ports to try when the wanted one is taken. */
const OTHERS = 3
/** Above the ports of services, below the ephemeral ports of systems. */
const FIRST_OTHER = 20_000
const OTHER_PORTS = 12_000

/** One router, in whichever of the three protocols it speaks: PCP, then NAT-PMP, then UPnP. */
export class Router implements AsyncDisposable {
  readonly #options: RouterOptions
  readonly #pcp: PcpClient
  #igd: Igd | undefined

  private constructor(options: RouterOptions, pcp: PcpClient) {
    this.#options = options
    this.#pcp = pcp
    this.#igd = options.igd
  }

  /** @throws any error when there is no way to the gateway */
  static async open(options: RouterOptions): Promise<Router> {
    const { gateway, port, clock } = options
    const pcp = await PcpClient.open({ gateway, clock, ...(port === undefined ? {} : { port }) })
    return new Router(options, pcp)
  }

  get igd(): Igd | undefined {
    return this.#igd
  }

  /** `known`: the protocol that it spoke before; then no other is tried. */
  async map(
    request: MapRequest,
    nonce: Buffer,
    known: PortMappingProtocol | undefined,
    signal: AbortSignal,
  ): Promise<Outcome> {
    if (known === 'upnp') return await this.#mapByUpnp(request, nonce, signal)
    const outcome = await this.#pcp.map(request, nonce, known, signal)
    if (outcome.kind === 'mapped' || known !== undefined || signal.aborted) return outcome
    const second = await this.#mapByUpnp(request, nonce, signal)
    return second.kind === 'refused' && second.reason === 'no answer' ? outcome : second
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#pcp[Symbol.asyncDispose]()
  }

  async #mapByUpnp(request: MapRequest, nonce: Buffer, signal: AbortSignal): Promise<Outcome> {
    const known = this.#igd
    const outcome = await this.#askIgd(known ?? (await this.#find(signal)), request, nonce, signal)
    const isSilent = known !== undefined && outcome.kind === 'refused' && outcome.reason === 'no answer'
    // after a restart its description may be at another port
    return isSilent && request.lifetimeSeconds > 0
      ? await this.#askIgd(await this.#find(signal), request, nonce, signal)
      : outcome
  }

  async #askIgd(igd: Igd | undefined, request: MapRequest, nonce: Buffer, signal: AbortSignal): Promise<Outcome> {
    this.#igd = igd
    if (igd === undefined) return { kind: 'refused', reason: 'no answer' }
    if (request.lifetimeSeconds === 0) {
      await unmapByIgd(igd, request, signal)
      const { protocol, port, wanted } = request
      const mapped = { protocol, port, external: { port: wanted }, lifetimeSeconds: 0, epoch: 0 }
      return { kind: 'mapped', dialect: 'upnp', mapped }
    }
    // derived from the nonce, so that the next process of this node tries the same
    const others = Array.from({ length: OTHERS }, (_, i) => FIRST_OTHER + (nonce.readUInt16BE(2 * i) % OTHER_PORTS))
    const answer = await mapByIgd(igd, { ...request, client: this.#pcp.address, others }, signal)
    return answer.kind === 'mapped' ? { ...answer, dialect: 'upnp' } : answer
  }

  async #find(signal: AbortSignal): Promise<Igd | undefined> {
    const { gateway, clock, searchPort } = this.#options
    const own = this.#pcp.address
    const location = await search(
      { gateway, own, clock, ...(searchPort === undefined ? {} : { port: searchPort }) },
      signal,
    )
    return location && (await readIgd(location, signal))
  }
}
