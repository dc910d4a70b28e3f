import { createHash } from 'node:crypto'
import type { Clock } from '../../../src/core/kit/clock.ts'
import { Lifetime } from '../../../src/core/kit/lifetime.ts'
import type { Log } from '../../../src/core/kit/log.ts'
import { isDialable } from '../addresses.ts'
import { NONCE_BYTES, type Protocol } from './codec.ts'
import type { PortMappingProtocol } from './pcp-client.ts'
import type { Igd } from './igd.ts'
import { Router } from './router.ts'
import { printHostPort } from '../../../src/core/kit/host-port.ts'

export interface PortMapperOptions {
  /** The router's address inside our network; `undefined` while there is none. */
  gateway: () => string | undefined
  /** The ports that others should reach; asked again in each round. */
  ports: () => ReadonlyArray<{ protocol: Protocol; port: number }>
  /** The external addresses have changed. */
  onChange: () => void
  clock: Clock
  /** Nonces are derived from it, so that the next process of this node has the same and takes mappings over. */
  secret: string
  /** 5351, except in tests. */
  serverPort?: number
  /** UPnP: 1900, except in tests. */
  searchPort?: number
}

/** What `netcheck` reports. */
export type PortMappingState =
  | { state: 'asking' }
  | { state: 'mapped'; dialect: PortMappingProtocol; tcp?: string; udp?: string }
  | { state: 'refused'; reason: string }

/** The lifetime we ask for; a router may grant less. Larger: a mapping stays longer after a crash. */
const LIFETIME_SECONDS = 3_600
/** After no answer or a refusal: asked again after this long, or when the network changes. */
const REST_MS = 10 * 60_000
/** No router is asked more often, whatever lifetime it grants. */
const LEAST_MS = 10_000
/** Removing mappings must not delay closing; UPnP takes longer, and may keep a mapping that is not removed for ever. */
const REMOVE_MS = 500
const REMOVE_UPNP_MS = 1_500

interface Mapping {
  external: string
  externalPort: number
}

/**
 * Keeps ports open on the router: requested at the start and after each change of the network, renewed at half their lifetime,
 * removed at the end. A router that lost its mappings (its epoch starts again) is noticed at the next renewal.
 *
 *     asking ─▶ mapped ──half the lifetime──▶ asking
 *       └────▶ refused ──10 min, or another network──▶ asking
 */
export class PortMapper implements AsyncDisposable {
  readonly #options: PortMapperOptions
  readonly #log: Log
  readonly #life: Lifetime
  readonly #mappings = new Map<string, Mapping>()
  #dialect: PortMappingProtocol | undefined
  #igd: Igd | undefined
  #gateway: string | undefined
  #state: PortMappingState = { state: 'asking' }
  #recheck = new AbortController()

  private constructor(life: Lifetime, options: PortMapperOptions, log: Log) {
    this.#life = life
    this.#options = options
    this.#log = log.child({ part: 'port mapping' })
  }

  /** Returns at once; a router may take its time, or not be there. */
  static start(options: PortMapperOptions, log: Log): PortMapper {
    const life = new Lifetime()
    const mapper = new PortMapper(life, options, log)
    life.spawn((signal) => mapper.#keep(signal), 'port mapping')
    return mapper
  }

  get state(): PortMappingState {
    return this.#state
  }

  /** The external `host:port`s that lead to this node. */
  addresses(protocol: Protocol): string[] {
    return [...this.#mappings].filter(([key]) => key.startsWith(protocol)).map(([, { external }]) => external)
  }

  /** There may be another router: it is asked again at once. */
  networkChanged(): void {
    this.#recheck.abort()
  }

  /** Closes without removing mappings: another process of this node keeps them from now on. */
  async handOver(): Promise<void> {
    this.#mappings.clear()
    await this.#life.close()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#life.close()
    await this.#remove()
  }

  async #keep(signal: AbortSignal): Promise<void> {
    const { clock } = this.#options
    while (!signal.aborted) {
      this.#recheck = new AbortController()
      const limit = AbortSignal.any([signal, this.#recheck.signal])
      const restMs = await this.#round(limit)
      await clock.sleep(restMs, limit)
    }
  }

  /** Requests every port; resolves to the time until the next round. */
  async #round(signal: AbortSignal): Promise<number> {
    const gateway = this.#options.gateway()
    const before = this.#external()
    if (gateway !== this.#gateway) this.#forget()
    this.#gateway = gateway
    const result = gateway === undefined ? { refusal: 'there is no router' } : await this.#mapAll(gateway, signal)
    if (signal.aborted) return 0
    this.#updateState(result.refusal)
    if (this.#external() !== before) this.#options.onChange()
    return this.#mappings.size === 0 ? REST_MS : Math.max(LEAST_MS, ((result.shortest ?? 0) * 1_000) / 2)
  }

  /** `shortest`: the shortest lifetime that was granted, in seconds; `refusal`: the last reason why a port was not mapped. */
  async #mapAll(gateway: string, signal: AbortSignal): Promise<{ shortest?: number; refusal?: string }> {
    const result: { shortest?: number; refusal?: string } = {}
    try {
      await using router = await this.#router(gateway)
      for (const wanted of this.#options.ports()) {
        const answer = await this.#map(router, wanted, signal)
        if (signal.aborted) return result
        if (answer.kind === 'mapped') result.shortest = Math.min(result.shortest ?? Infinity, answer.lifetimeSeconds)
        else result.refusal = answer.reason
        if (answer.kind === 'refused' && answer.reason === 'no answer') break // it will not answer for the others either
      }
    } catch (error) {
      result.refusal = 'cannot send to the router'
      this.#log.debug('cannot send to the router', { error, address: gateway })
    }
    return result
  }

  async #map(
    router: Router,
    { protocol, port }: { protocol: Protocol; port: number },
    signal: AbortSignal,
  ): Promise<{ kind: 'mapped'; lifetimeSeconds: number } | { kind: 'refused'; reason: string }> {
    const key = `${protocol} ${port}`
    const wanted = this.#mappings.get(key)?.externalPort ?? port
    const request = { protocol, port, wanted, lifetimeSeconds: LIFETIME_SECONDS }
    const outcome = await router.map(request, this.#nonceOf(key), this.#dialect, signal)
    this.#igd = router.igd
    const address = outcome.kind === 'mapped' ? outcome.mapped.external.address : undefined
    if (signal.aborted) return { kind: 'refused', reason: 'aborted' }
    if (outcome.kind === 'refused' || address === undefined || !isDialable(address)) {
      this.#mappings.delete(key)
      const reason = outcome.kind === 'refused' ? outcome.reason : 'the router does not know its external address'
      return { kind: 'refused', reason }
    }
    this.#dialect = outcome.dialect
    const externalPort = outcome.mapped.external.port
    this.#mappings.set(key, { external: printHostPort(address, externalPort), externalPort })
    return { kind: 'mapped', lifetimeSeconds: outcome.mapped.lifetimeSeconds }
  }

  #updateState(refusal: string | undefined): void {
    const [tcp] = this.addresses('tcp')
    const [udp] = this.addresses('udp')
    const before = JSON.stringify(this.#state)
    this.#state =
      this.#mappings.size > 0 && this.#dialect !== undefined
        ? {
            state: 'mapped',
            dialect: this.#dialect,
            ...(tcp === undefined ? {} : { tcp }),
            ...(udp === undefined ? {} : { udp }),
          }
        : { state: 'refused', reason: refusal ?? 'no port was requested' }
    if (this.#mappings.size === 0) this.#dialect = undefined // the next router may speak another one
    if (JSON.stringify(this.#state) !== before) this.#log.info('port mapping changed', { ...this.#state })
  }

  #router(gateway: string): Promise<Router> {
    const { clock, serverPort: port, searchPort } = this.#options
    return Router.open({ gateway, clock, port, searchPort, igd: this.#igd })
  }

  /** There is another router: what the old one said is void. */
  #forget(): void {
    this.#mappings.clear()
    this.#dialect = undefined
    this.#igd = undefined
  }

  #nonceOf(key: string): Buffer {
    return createHash('sha256').update(`${key} ${this.#options.secret}`).digest().subarray(0, NONCE_BYTES)
  }

  #external(): string {
    return [...this.#mappings.values()].map(({ external }) => external).join()
  }

  async #remove(): Promise<void> {
    const gateway = this.#gateway
    if (gateway === undefined || this.#mappings.size === 0) return
    const mappings = [...this.#mappings]
    this.#mappings.clear()
    try {
      await using router = await this.#router(gateway)
      const limit = new AbortController()
      const ms = this.#dialect === 'upnp' ? REMOVE_UPNP_MS : REMOVE_MS
      const cancel = this.#options.clock.after(ms, () => limit.abort())
      for (const [key, { externalPort }] of mappings) {
        const [protocol, port] = key.split(' ') as [Protocol, string]
        const request = { protocol, port: Number(port), wanted: externalPort, lifetimeSeconds: 0 }
        await router.map(request, this.#nonceOf(key), this.#dialect, limit.signal)
      }
      cancel()
    } catch (error) {
      this.#log.debug('could not remove port mappings; they expire', { error })
    }
  }
}
